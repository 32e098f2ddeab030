"""The strict reader of bundles. Rules, in the order in which they are checked:

1. The manifest is read first, alone, and must be valid (see :mod:`jepa_runtime.bundle.manifest_parser`).
2. The folder holds exactly the files that the manifest lists: none missing, none extra, no link, nothing
special.
3. Each file has the size and the SHA-256 that the manifest gives.
4. Each file is of its kind: JSON is strict, arrays are plain numbers, ONNX models hold their own data, IRs
   are XML, and the golden arrays have the manifest's shapes.
5. :meth:`Bundle.read` checks again what it returns, so that what an engine loads is what was verified, even
   if somebody changed the folder meanwhile.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jepa_runtime.bundle.golden_outputs import GoldenOutputs, read_golden, read_npz
from jepa_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileRecord, Manifest
from jepa_runtime.bundle.manifest_parser import parse_manifest
from jepa_runtime.bundle.onnx_external_data import points_outside
from jepa_runtime.bundle.untrusted_folder import UntrustedFolder
from jepa_runtime.errors import BundleError, StrictJsonError
from jepa_runtime.util.strict_json import parse_json

_REPORT_NAME = "report.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was verified when it was opened.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        sha256: of the manifest, and with it of everything.
    """

    path: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Verify the bundle in the folder ``path``, all of it.

        Raises:
            BundleError: anything is not as it must be; the message says what, where, and what to do.
        """
        path = Path(path)
        with UntrustedFolder(path) as folder:
            data = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
            manifest = parse_manifest(data, str(path / MANIFEST_NAME))
            _check_listing(folder, manifest)
            for record in manifest.files:
                _check_file(folder, record, manifest)
        return cls(path, manifest, hashlib.sha256(data).hexdigest())

    def read(self, relative: str) -> bytes:
        """The content of one listed file, verified as it is read.

        Raises:
            BundleError: it is not listed, or is no longer what it was.
        """
        for record in self.manifest.files:
            if record.path == relative:
                with UntrustedFolder(self.path) as folder:
                    return _read_verified(folder, record)
        raise BundleError(f"{self.path}: the manifest lists no file {relative!r}")

    def golden(self) -> GoldenOutputs:
        """The golden inputs and reference outputs.

        Raises:
            BundleError: the file is no longer what it was.
        """
        relative = self.manifest.golden.path
        return read_golden(self.read(relative), self.manifest, str(self.path / relative))

    def report(self) -> Any:
        """What was measured when the bundle was made (``report.json``), or None if it has no report.

        Raises:
            BundleError: the file is no longer what it was.
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
            f"{folder.path / missing}: is missing although the manifest lists it: copy the bundle again"
        )
    for extra in sorted((files - listed) | (folders - expected_folders)):
        raise BundleError(
            f"{folder.path / extra}: is not listed in the manifest: remove it, or seal the bundle again"
        )


def _check_file(folder: UntrustedFolder, record: FileRecord, manifest: Manifest) -> None:
    where = str(folder.path / record.path)
    kind = PurePosixPath(record.path).suffix
    if kind not in (".json", ".npz", ".onnx", ".xml"):
        _check_digest(where, record, *folder.digest(record.path, record.bytes))
        return
    data = _read_verified(folder, record)
    if kind == ".json":
        _parse_json(data, where)
    elif record.path == manifest.golden.path:
        read_golden(data, manifest, where)
    elif kind == ".npz":
        read_npz(data, where)
    elif kind == ".xml":
        _check_xml(data, where)
    else:
        _check_onnx(data, where)


def _parse_json(data: bytes, where: str) -> Any:
    try:
        return parse_json(data, where)
    except StrictJsonError as error:
        raise BundleError(str(error), code="bundle.file_invalid") from error


def _check_xml(data: bytes, where: str) -> None:
    # OpenVINO tells formats apart by their content: of ONNX, it would read data in other files.
    if not data.startswith(b"<"):
        raise BundleError(f"{where}: not an OpenVINO IR, which is XML: export it again")


def _check_onnx(data: bytes, where: str) -> None:
    try:
        outside = points_outside(data)
    except ValueError as error:
        raise BundleError(f"{where}: not an ONNX model ({error}): export it again") from error
    if outside:
        raise BundleError(
            f"{where}: keeps weights in another file (ONNX external data), which no hash covers: save it "
            "with its weights inside"
        )


def _read_verified(folder: UntrustedFolder, record: FileRecord) -> bytes:
    data = folder.read(record.path, record.bytes)
    _check_digest(str(folder.path / record.path), record, len(data), hashlib.sha256(data).hexdigest())
    return data


def _check_digest(where: str, record: FileRecord, length: int, sha256: str) -> None:
    if length != record.bytes:
        at_least = "at least " if length > record.bytes else ""
        raise BundleError(
            f"{where}: has {at_least}{length} bytes, the manifest says {record.bytes}: copy the bundle again"
        )
    if sha256 != record.sha256:
        raise BundleError(
            f"{where}: SHA-256 is {sha256}, the manifest says {record.sha256}: the file was changed or "
            "damaged, copy the bundle again"
        )
