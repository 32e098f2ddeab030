"""The table of losses on disk, its continuation in a resumed run, and the progress bar."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from jepa_export.errors import JepaExportError
from jepa_export.training.loss_table import LossTable, format_losses, progress_bar
from tests.errors import code


def rows(path: Path) -> list[str]:
    return path.read_text().split()


def test_resumed_table_continues_after_the_last_row_before_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    table = LossTable(path, 0)
    for step in range(3):
        table.write(step, {"loss": step / 2})
    table.close()
    resumed = LossTable(path, 2)
    resumed.write(2, {"loss": 9.0})
    resumed.close()
    assert rows(path) == ["step,loss", "0,0.0", "1,0.5", "2,9.0"]


@pytest.mark.parametrize("left", ["", "step,loss\n", "step,loss\n0,0.5\n1"])
def test_resumed_table_accepts_a_truncated_file(tmp_path: Path, left: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_text(left)
    table = LossTable(path, 50)
    table.write(100, {"loss": 1.0})
    table.close()
    assert rows(path)[0] == "step,loss" and rows(path)[-1] == "100,1.0"


@pytest.mark.parametrize("count", [1, 2000])
def test_full_disk_is_reported_at_any_write(tmp_path: Path, count: int) -> None:
    table = LossTable(tmp_path / "losses.csv", 0)
    table._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    with pytest.raises(JepaExportError, check=code("training.not_writable")):
        for step in range(count):
            table.write(step, {"loss": 0.1})
        table.flush()
    table.close()


def test_progress_bar_fits_80_columns() -> None:
    progress, console = progress_bar(), Console(width=80, file=StringIO(), record=True)
    losses = {"loss": 5.08e-06, "next": 2.98e-07, "rollout": 4.5e-06, "free": 2.84e-07, "inverse": 0.0123}
    progress.add_task("predictor", total=20000, completed=12345, losses=format_losses(losses))
    console.print(progress.get_renderable())
    output = console.export_text()
    assert "12345/20000" in output and "…" not in output
    assert all(f"{name} {value:.3g}" in output for name, value in losses.items())
