"""The writer of bundles: hashes what lies in a folder, writes the manifest, and proves it readable."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jepa_runtime.bundle.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest
from jepa_runtime.bundle.reader import Bundle
from jepa_runtime.bundle.untrusted_folder import UntrustedFolder
from jepa_runtime.errors import BundleError
from jepa_runtime.util.strict_json import describe

_ANY_LENGTH = 1 << 40
# A manifest that is being written; a full disk or a power cut may have left one.
_UNFINISHED = "manifest.tmp"


def seal(folder: str | Path, manifest: Manifest | Mapping[str, Any]) -> Bundle:
    """Make a bundle of the files in ``folder``; may be done again after they changed.

    Args:
        folder: with every file of the bundle in its place; a manifest that lies there is replaced.
        manifest: its fields; ``files`` and ``schema_version`` are filled in here.

    Returns:
        The bundle, opened by the strict reader.

    Raises:
        BundleError: the fields or the files do not make a valid bundle. The manifest is written only if its
            fields are valid.
    """
    folder = Path(folder)
    fields = manifest.model_dump(mode="json") if isinstance(manifest, Manifest) else dict(manifest)
    fields["schema_version"] = SCHEMA_VERSION
    with UntrustedFolder(folder) as opened:
        files, _ = opened.listing()
        content = sorted(files - {MANIFEST_NAME, _UNFINISHED})
        digests = {path: opened.digest(path, _ANY_LENGTH) for path in content}
    fields["files"] = [
        {"path": path, "bytes": length, "sha256": sha256} for path, (length, sha256) in digests.items()
    ]
    try:
        text = json.dumps(fields, allow_nan=False)
        valid = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{folder}: these fields make no valid manifest: {describe(error)}") from error
    except (TypeError, ValueError) as error:
        raise BundleError(f"{folder}: these fields cannot be written as JSON: {error}") from error
    text = json.dumps(valid.plain(), indent=2, ensure_ascii=False)
    _write(folder / MANIFEST_NAME, text + "\n")
    return Bundle.open(folder)


def _write(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    temporary = path.with_name(_UNFINISHED)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error.strerror}") from error
