"""What was found of a bundle, into it: report.json is one of its files, so it is sealed again."""

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
    """Put what was ``found`` into the report of ``bundle``; what else is in there stays, and so does the
    manifest but for the report's hash. At every moment the folder holds the old bundle or the new one.

    Raises:
        JepaExportError: the report is not a table of names, or the bundle was changed meanwhile.
        BundleError: it is no longer what it was.
        StorageError: it cannot be written.
    """
    folder = bundle.path.resolve()
    current = Bundle.open(folder)
    if current.sha256 != bundle.sha256:
        raise JepaExportError(f"{bundle.path}: was changed while it was evaluated: evaluate it again")
    report = current.report() or {}
    if not isinstance(report, dict):
        raise JepaExportError(
            f"{bundle.path / 'report.json'}: is no object, so nothing can be added: export the model again"
        )
    with (
        atomic_files.storage_errors(folder, "its evaluation cannot be written beside it"),
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
