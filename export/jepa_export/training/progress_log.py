"""The log of a training stage: a progress bar, tables of losses, and TensorBoard events."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from jepa_export.errors import JepaExportError
from jepa_export.training.loss_table import LossTable, format_losses, progress_bar

HELD_OUT = "held_out"


class ProgressLog:
    """Tables ``folder``/<name>.csv (one row per step) and ``folder``/<name>_<table>.csv, and a progress bar.

    A resumed run drops the rows after its checkpoint.

    Args:
        start: First step, out of ``steps``.
        tables: Names of the evaluation tables, such as :data:`HELD_OUT`.
        tensorboard: Write TensorBoard events to ``folder``/events.

    Raises:
        JepaExportError: TensorBoard is not installed, or a file cannot be written.
    """

    def __init__(
        self, folder: Path, name: str, *, start: int, steps: int, tables: tuple[str, ...], tensorboard: bool
    ) -> None:
        self._name = name
        self._tensorboard = _open_tensorboard(folder / "events", start) if tensorboard else None
        files = {"": f"{name}.csv"} | {table: f"{name}_{table}.csv" for table in tables}
        self._tables = {table: LossTable(folder / file, start) for table, file in files.items()}
        self._progress = progress_bar()
        self._task = self._progress.add_task(name, total=steps, completed=start, losses="")
        self._losses_text = self._held_out_text = ""

    def __enter__(self) -> ProgressLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        for table in self._tables.values():
            table.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def log_losses(self, step: int, values: dict[str, float]) -> None:
        """Log the losses of a training step."""
        self._write("", step, values)
        self._losses_text = format_losses(values)
        self._show(advance=1)

    def log_evaluation(self, table: str, step: int, values: dict[str, float], *, prefix: str = "") -> None:
        """Write a row of an evaluation table; ``prefix`` precedes the names in TensorBoard."""
        self._write(table, step, values, prefix=prefix)

    def log_held_out(self, step: int, values: dict[str, float], lowest: float) -> None:
        """Log the losses of held-out clips; ``lowest`` is the lowest total so far."""
        self._write(HELD_OUT, step, values, prefix="held_out_")
        self._held_out_text = f", held out {values['loss']:.3g} (lowest {lowest:.3g})"
        self._show()

    def flush(self) -> None:
        """Write all rows to disk, before the checkpoint that they belong to."""
        for table in self._tables.values():
            table.flush()

    def _show(self, *, advance: int = 0) -> None:
        self._progress.update(self._task, advance=advance, losses=self._losses_text + self._held_out_text)

    def _write(self, table: str, step: int, values: dict[str, float], *, prefix: str = "") -> None:
        self._tables[table].write(step, values)
        if self._tensorboard is not None:
            for key, value in values.items():
                self._tensorboard.add_scalar(f"{self._name}/{prefix}{key}", value, step)


def _open_tensorboard(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise JepaExportError(
            "--tensorboard: TensorBoard is not installed; run pip install tensorboard",
            code="training.missing_package",
        ) from error
    return SummaryWriter(folder, purge_step=start)
