"""The writer of bundles: it seals the files of the folder, or leaves the manifest unchanged."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import Bundle, BundleError
from jepa_runtime.bundle import seal
from tests.bundles import manifest_fields
from tests.errors import code


@pytest.fixture
def folder(toy_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that tests can damage."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "toy"))


def test_sealing_again_includes_changed_files(folder: Path) -> None:
    before = Bundle.open(folder)
    (folder / "report.json").write_text("{}")
    again = seal(folder, before.manifest)
    assert again.report() == {}
    assert again.sha256 != before.sha256
    assert again.manifest.model_copy(update={"files": before.manifest.files}) == before.manifest


def test_sealing_on_a_full_disk_keeps_the_manifest_and_can_be_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Bundle.open(folder)
    (folder / "report.json").write_text("{}")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BundleError, check=code("storage.full")):
            seal(folder, before.manifest)
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == before.sha256
    assert seal(folder, before.manifest).report() == {}


def test_additional_arrays_must_be_plain_numbers(folder: Path) -> None:
    np.savez(folder / "more.npz", objects=np.array([{}], object))
    with pytest.raises(BundleError, check=code("bundle.array_invalid")):
        seal(folder, manifest_fields())


@pytest.mark.parametrize(
    "fields",
    [
        {"horizon": 3},
        {"surprise_threshold": float("nan")},
        {"model_id": "Two Rooms"},
        {"golden": {"path": "golden.npz", "tolerances": {}}},
    ],
)
def test_seal_with_invalid_fields_writes_no_manifest(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, check=code("bundle.manifest_invalid")):
        seal(folder, manifest_fields() | fields)
    assert not (folder / "manifest.json").exists()
