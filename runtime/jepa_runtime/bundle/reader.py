"""The strict reader of bundles.

Rules, in the order in which they are checked:

1. The manifest is read first and must be valid (see :mod:`jepa_runtime.bundle.manifest_parser`).
2. The folder contains exactly the files that the manifest lists: none missing, none extra, no links, no
   special files.
3. Each file has the size and the SHA-256 that the manifest lists.
4. Each file matches its type: JSON is strict, arrays are plain numbers, ONNX models contain their data, IRs
   are XML, and the golden arrays have the shapes of the manifest.
5. :meth:`Bundle.read` verifies what it returns, so that an engine loads what was verified, even if the folder
   was changed in the meantime.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jepa_runtime.bundle.golden_outputs import GoldenOutputs, read_golden, read_npz
from jepa_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileRecord, Manifest
from jepa_runtime.bundle.manifest_parser import parse_manifest
from jepa_runtime.bundle.onnx_external_data import has_external_data
from jepa_runtime.bundle.untrusted_folder import UntrustedFolder
from jepa_runtime.errors import BundleError, StrictJsonError
from jepa_runtime.util.hub_address import HUB_SCHEME
from jepa_runtime.util.notebook_html import table
from jepa_runtime.util.strict_json import parse_json

_REPORT_NAME = "report.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified when it was opened.

    Attributes:
        path: The folder.
        manifest: The manifest.
        sha256: The SHA-256 of the manifest, which covers all files.
    """

    path: Path
    manifest: Manifest
    sha256: str

    def __repr__(self) -> str:
        manifest = self.manifest
        variants = " ".join(f"{each.target}/{each.precision}" for each in manifest.graphs.encoder)
        return f"Bundle({manifest.model_id} {manifest.version}, {variants}, path={str(self.path)!r})"

    def _repr_html_(self) -> str:
        manifest = self.manifest
        latent, action = manifest.io.latent, manifest.io.action
        rows = {
            "description": manifest.description,
            "license": manifest.licence,
            "path": self.path,
            "SHA-256": self.sha256,
            "size": f"{sum(record.bytes for record in manifest.files) / 1e6:.1f} MB",
            "variants": ", ".join(f"{each.target}/{each.precision}" for each in manifest.graphs.encoder),
            "latent": f"{latent.tokens} x {latent.dim}",
            "actions": ", ".join(
                f"{name} [{unit}]" for name, unit in zip(action.names, action.units, strict=True)
            ),
            "futures": f"{manifest.num_samples} of {manifest.horizon} steps of {manifest.io.step_s:g} s",
        }
        title = f"Bundle {manifest.model_id} {manifest.version}"
        return table(title if manifest.trained else f"{title}, random weights", rows)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the bundle in the folder ``path``, and verify it completely.

        ``hf://org/name`` and ``hf://org/name@revision`` are bundles on the Hugging Face Hub, which are
        downloaded unless they are cached (extra ``hub``).

        Raises:
            BundleError: A rule is violated, or a download fails; the message says which, where, and what to
                do.
        """
        if isinstance(path, str) and path.startswith(HUB_SCHEME):
            from jepa_runtime.bundle.hub import HubRepository

            path = HubRepository.parse(path).download()
        path = Path(path)
        with UntrustedFolder(path) as folder:
            data = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
            manifest = parse_manifest(data, str(path / MANIFEST_NAME))
            _check_listing(folder, manifest)
            for record in manifest.files:
                _check_file(folder, record, manifest)
        return cls(path, manifest, hashlib.sha256(data).hexdigest())

    def read(self, relative: str) -> bytes:
        """Read a listed file, and verify it.

        Raises:
            BundleError: It is not listed, or was changed.
        """
        for record in self.manifest.files:
            if record.path == relative:
                with UntrustedFolder(self.path) as folder:
                    return _read_verified(folder, record)
        raise BundleError(
            f"{self.path}: the manifest lists no file {relative!r}", code="bundle.file_unlisted"
        )

    def golden(self) -> GoldenOutputs:
        """Read the golden inputs and reference outputs.

        Raises:
            BundleError: The file was changed.
        """
        relative = self.manifest.golden.path
        return read_golden(self.read(relative), self.manifest, str(self.path / relative))

    def report(self) -> Any:
        """Read the measurements of the export (``report.json``); None if the bundle has none.

        Raises:
            BundleError: The file was changed.
        """
        if all(record.path != _REPORT_NAME for record in self.manifest.files):
            return None
        return _parse_json(self.read(_REPORT_NAME), str(self.path / _REPORT_NAME))


def _check_listing(folder: UntrustedFolder, manifest: Manifest) -> None:
    files, folders = folder.listing()
    listed = {record.path for record in manifest.files} | {MANIFEST_NAME}
    expected_folders = {str(parent) for path in listed for parent in PurePosixPath(path).parents} - {"."}
    for missing in sorted(listed - files):
        raise BundleError(
            f"{folder.path / missing}: missing, but the manifest lists it: copy the bundle again",
            code="bundle.file_missing",
        )
    for extra in sorted((files - listed) | (folders - expected_folders)):
        raise BundleError(
            f"{folder.path / extra}: not listed in the manifest: remove it, or seal the bundle again",
            code="bundle.file_unlisted",
        )


def _check_file(folder: UntrustedFolder, record: FileRecord, manifest: Manifest) -> None:
    where = str(folder.path / record.path)
    suffix = PurePosixPath(record.path).suffix
    if suffix not in (".json", ".npz", ".onnx", ".xml"):
        _check_digest(where, record, *folder.digest(record.path, record.bytes))
        return
    data = _read_verified(folder, record)
    if suffix == ".json":
        _parse_json(data, where)
    elif record.path == manifest.golden.path:
        read_golden(data, manifest, where)
    elif suffix == ".npz":
        read_npz(data, where)
    elif suffix == ".xml":
        _check_xml(data, where)
    else:
        _check_onnx(data, where)


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return parse_json(data, where)
    except StrictJsonError as error:
        raise BundleError(str(error), code="bundle.file_invalid") from error


def _check_xml(data: bytes, where: str) -> None:
    # OpenVINO detects formats by content: of an ONNX file, it would read external data.
    if not data.startswith(b"<"):
        raise BundleError(
            f"{where}: not an OpenVINO IR, which is XML: export the model again", code="bundle.file_invalid"
        )


def _check_onnx(data: bytes, where: str) -> None:
    try:
        external = has_external_data(data)
    except ValueError as error:
        raise BundleError(
            f"{where}: not an ONNX model ({error}): export the model again", code="bundle.file_invalid"
        ) from error
    if external:
        raise BundleError(
            f"{where}: has weights in another file (ONNX external data), which no hash covers: save it with "
            "embedded weights",
            code="bundle.external_data",
        )


def _read_verified(folder: UntrustedFolder, record: FileRecord) -> bytes:
    data = folder.read(record.path, record.bytes)
    _check_digest(str(folder.path / record.path), record, len(data), hashlib.sha256(data).hexdigest())
    return data


def _check_digest(where: str, record: FileRecord, length: int, sha256: str) -> None:
    if length != record.bytes:
        at_least = "at least " if length > record.bytes else ""
        raise BundleError(
            f"{where}: has {at_least}{length} bytes, the manifest lists {record.bytes}: copy it again",
            code="bundle.size_mismatch",
        )
    if sha256 != record.sha256:
        raise BundleError(
            f"{where}: SHA-256 is {sha256}, the manifest lists {record.sha256}: the file was changed or "
            "damaged, copy the bundle again",
            code="bundle.hash_mismatch",
        )
