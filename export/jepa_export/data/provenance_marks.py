"""The recordings that a model was trained on, as short marks in the report of its bundle."""

from __future__ import annotations

from hashlib import sha256

from jepa_export.data.recording import Origin, Recording
from jepa_runtime.bundle import Bundle

# Key in report.json.
TRAINED_ON = "trained_on"


def mark(recorded: Origin | Recording) -> str:
    """Return twelve hexadecimal digits that identify what was recorded; two copies have the same.

    Raises:
        JepaExportError: A file is missing or cannot be read.
    """
    identity = recorded.identity if isinstance(recorded.identity, str) else recorded.identity()
    return sha256(identity.encode()).hexdigest()[:12]


def trained_on(bundle: Bundle) -> frozenset[str] | None:
    """Return the marks of the recordings that a bundle was trained on, or None if they are not listed.

    Raises:
        BundleError: The report changed after the bundle was opened.
    """
    report = bundle.report()
    marks = report.get(TRAINED_ON) if isinstance(report, dict) else None
    return frozenset(map(str, marks)) if isinstance(marks, list) else None
