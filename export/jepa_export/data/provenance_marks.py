"""Which recordings a model was trained on: short marks of them, in the report of its bundle."""

from __future__ import annotations

from hashlib import sha256

from jepa_export.data.recording import Origin, Recording
from jepa_runtime.bundle import Bundle

# In report.json.
TRAINED_ON = "trained_on"


def mark(recorded: Origin | Recording) -> str:
    """Twelve digits (base 16) that stand for what was recorded: two copies have the same.

    Raises:
        JepaExportError: a file is missing or cannot be read.
    """
    identity = recorded.identity if isinstance(recorded.identity, str) else recorded.identity()
    return sha256(identity.encode()).hexdigest()[:12]


def trained_on(bundle: Bundle) -> frozenset[str] | None:
    """The marks of the recordings that a bundle was trained on; None where its report does not say.

    Raises:
        BundleError: the report is no longer what it was.
    """
    report = bundle.report()
    marks = report.get(TRAINED_ON) if isinstance(report, dict) else None
    return frozenset(map(str, marks)) if isinstance(marks, list) else None
