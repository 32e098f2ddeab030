"""A folder of an untrusted bundle: how far its files are read, and that no descriptor stays open."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from jepa_runtime import Bundle, BundleError
from jepa_runtime.bundle.untrusted_folder import UntrustedFolder

MIB = 1 << 20


def test_large_file_is_hashed_to_at_most_one_byte_beyond_its_limit(
    tmp_path: Path,
) -> None:
    content = os.urandom(3 * MIB)
    (tmp_path / "large").write_bytes(content)
    with UntrustedFolder(tmp_path) as folder:
        assert folder.digest("large", 3 * MIB) == (3 * MIB, hashlib.sha256(content).hexdigest())
        assert folder.digest("large", 2 * MIB)[0] == 2 * MIB + 1


def test_opening_bundles_repeatedly_leaks_no_descriptors(toy_bundle: Path, tmp_path: Path) -> None:
    def open_all() -> None:
        Bundle.open(toy_bundle).read("encoder/onnx/model.onnx")
        for missing in (tmp_path / "nowhere", tmp_path):
            with pytest.raises(BundleError):
                Bundle.open(missing)
        with UntrustedFolder(toy_bundle) as folder:
            for rejected in ("encoder", "encoder/onnx", "encoder/missing/model.onnx"):
                with pytest.raises(BundleError):
                    folder.read(rejected, 1)

    open_all()
    before = len(os.listdir("/proc/self/fd"))
    open_all()
    assert len(os.listdir("/proc/self/fd")) == before
