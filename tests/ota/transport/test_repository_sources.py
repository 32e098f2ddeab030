"""A folder as a source of files, such as that of a USB stick."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jepa_runtime.errors import FetchError
from jepa_runtime.ota.transport.repository_sources import FolderSource, NotFoundError
from tests.errors import code
from tests.ota.downloads import SMALL, fetch


def test_missing_folder_is_reported(tmp_path: Path, part: Path) -> None:
    with pytest.raises(FetchError, check=code("transfer.no_folder")) as caught:
        fetch(FolderSource(tmp_path / "stick"), part, SMALL, "small")
    assert not isinstance(caught.value, NotFoundError)


def test_file_missing_from_a_folder_is_reported(served: Path, part: Path) -> None:
    with pytest.raises(NotFoundError, check=code("transfer.not_found")):
        fetch(FolderSource(served), part, SMALL, "nothing")


@pytest.mark.parametrize(
    "path", ["../secret", "a/../../secret", "%2e%2e/secret", "/etc/passwd", "out", "circle"]
)
def test_path_outside_the_folder_is_not_read(served: Path, part: Path, path: str) -> None:
    (served.parent / "secret").write_bytes(SMALL)
    (served / "out").symlink_to(served.parent / "secret")
    (served / "circle").symlink_to("circle")
    with pytest.raises(FetchError, check=code("transfer.outside_folder")):
        fetch(FolderSource(served), part, SMALL, path)


@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_folder_entry_that_is_not_a_file_is_not_read(served: Path, part: Path, what: str) -> None:
    os.mkfifo(served / "pipe")
    (served / "folder").mkdir()
    with pytest.raises(FetchError, check=code("transfer.not_a_file")):
        fetch(FolderSource(served), part, SMALL, what)
