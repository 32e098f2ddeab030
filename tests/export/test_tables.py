"""Losses on disk: what a resumed run continues."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jepa_export.errors import JepaExportError
from jepa_export.tables import Table


def rows(path: Path) -> list[str]:
    return path.read_text().split()


def test_a_run_goes_on_after_the_last_row_before_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    table = Table(path, 0)
    for step in range(3):
        table.write(step, {"loss": step / 2})
    table.close()
    again = Table(path, 2)
    again.write(2, {"loss": 9.0})
    again.close()
    assert rows(path) == ["step,loss", "0,0.0", "1,0.5", "2,9.0"]


@pytest.mark.parametrize("left", ["", "step,loss\n", "step,loss\n0,0.5\n1"])
def test_a_run_goes_on_whatever_little_is_there(tmp_path: Path, left: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_text(left)
    table = Table(path, 50)
    table.write(100, {"loss": 1.0})
    table.close()
    assert rows(path)[0] == "step,loss" and rows(path)[-1] == "100,1.0"


@pytest.mark.parametrize("count", [1, 2000])
def test_a_full_disk_is_told_wherever_it_is_found_out(tmp_path: Path, count: int) -> None:
    table = Table(tmp_path / "losses.csv", 0)
    table._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    with pytest.raises(JepaExportError, match=r"losses\.csv: cannot be written \(No space left on device"):
        for step in range(count):
            table.write(step, {"loss": 0.1})
        table.flush()
    table.close()
