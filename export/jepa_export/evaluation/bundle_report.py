"""Add results to the report of a bundle: report.json is one of its files, so the bundle is sealed again."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from jepa_export.bundling.staging import exchange, write_report
from jepa_export.errors import JepaExportError
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.util import atomic_files


def add_to_report(bundle: Bundle, found: dict[str, Any]) -> Bundle:
    """Add ``found`` to the report of ``bundle``; the rest of the bundle does not change.

    At each moment the folder holds either the old bundle or the new one.

    Raises:
        JepaExportError: The report is not a JSON object, or the bundle changed since it was opened.
        BundleError: The bundle is no longer valid.
        StorageError: The bundle cannot be written.
    """
    folder = bundle.path.resolve()
    current = Bundle.open(folder)
    if current.sha256 != bundle.sha256:
        raise JepaExportError(
            f"{bundle.path}: changed during its evaluation; evaluate it again", code="bundle.changed"
        )
    report = current.report() or {}
    if not isinstance(report, dict):
        raise JepaExportError(
            f"{bundle.path / 'report.json'}: not a JSON object, so results cannot be added; export the "
            "model again",
            code="bundle.report_malformed",
        )
    with (
        atomic_files.storage_errors(folder, "the evaluated bundle cannot be written next to it"),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary,
    ):
        staging = Path(shutil.copytree(folder, Path(temporary) / "bundle"))
        write_report(staging, report | found)
        seal(staging, bundle.manifest)
        for path in (*staging.rglob("*"), staging):
            (atomic_files.sync_folder if path.is_dir() else atomic_files.sync_file)(path)
        exchange(staging, folder)
        atomic_files.sync_folder(folder.parent)
    return Bundle.open(bundle.path)
