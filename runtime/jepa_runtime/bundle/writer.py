"""The writer of bundles: it hashes the files of a folder, writes the manifest, and verifies the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jepa_runtime.bundle.manifest import MANIFEST_NAME, SCHEMA_VERSION, Manifest
from jepa_runtime.bundle.reader import Bundle
from jepa_runtime.bundle.untrusted_folder import UntrustedFolder
from jepa_runtime.errors import BundleError, StorageError
from jepa_runtime.util import atomic_files
from jepa_runtime.util.strict_json import describe_problems

_ANY_LENGTH = 1 << 40


def seal(folder: str | Path, manifest: Manifest | Mapping[str, Any]) -> Bundle:
    """Make a bundle of the files in ``folder``. It may be called again after they changed.

    Args:
        folder: The folder, with every file of the bundle in its place. An existing manifest is replaced.
        manifest: The fields of the manifest; ``files`` and ``schema_version`` are filled in.

    Returns:
        The bundle, opened by the strict reader.

    Raises:
        BundleError: The fields or the files do not make a valid bundle. The manifest is written only if its
            fields are valid.
    """
    folder = Path(folder)
    fields = manifest.model_dump(mode="json") if isinstance(manifest, Manifest) else dict(manifest)
    fields["schema_version"] = SCHEMA_VERSION
    atomic_files.remove_unfinished(folder / MANIFEST_NAME)
    with UntrustedFolder(folder) as opened:
        files, _ = opened.listing()
        digests = {path: opened.digest(path, _ANY_LENGTH) for path in sorted(files - {MANIFEST_NAME})}
    fields["files"] = [
        {"path": path, "bytes": length, "sha256": sha256} for path, (length, sha256) in digests.items()
    ]
    try:
        text = json.dumps(fields, allow_nan=False)
        valid = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(
            f"{folder}: these fields are not a valid manifest: {describe_problems(error)}",
            code="bundle.manifest_invalid",
        ) from error
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{folder}: these fields cannot be written as JSON: {error}", code="bundle.manifest_invalid"
        ) from error
    text = json.dumps(valid.to_json_dict(), indent=2, ensure_ascii=False)
    try:
        atomic_files.write(folder / MANIFEST_NAME, f"{text}\n".encode())
    except StorageError as error:
        raise BundleError(str(error), code=error.code) from error
    return Bundle.open(folder)
