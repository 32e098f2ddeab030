"""What is told while a stage is trained: a progress bar, a row of losses a step, and TensorBoard's events."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from jepa_export.distillation.collapse import Variety
from jepa_export.errors import JepaExportError
from jepa_export.tables import Table, progress_bar, told


class Journal:
    """``folder``/<name>.csv has a row a step, <name>_variety.csv one for each look at latents. Of a run that
    goes on, what came after its checkpoint is dropped.

    Args:
        start: the first step, of ``steps``.
        board: TensorBoard's events go to ``folder``/events.

    Raises:
        JepaExportError: TensorBoard is asked for and not installed, or a file cannot be written.
    """

    def __init__(self, folder: Path, name: str, *, start: int, steps: int, board: bool) -> None:
        self._name = name
        self._board = _open_board(folder / "events", start) if board else None
        self._tables = {kind: Table(folder / f"{name}{kind}.csv", start) for kind in ("", "_variety")}
        self._progress = progress_bar()
        self._task = self._progress.add_task(name, total=steps, completed=start, losses="")

    def __enter__(self) -> Journal:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        for table in self._tables.values():
            table.close()
        if self._board is not None:
            self._board.close()

    def losses(self, step: int, values: dict[str, float]) -> None:
        self._write("", step, values)
        self._progress.update(self._task, advance=1, losses=told(values))

    def variety(self, step: int, found: Variety) -> None:
        self._write("_variety", step, {"rank": found.rank, "std": found.std})

    def flush(self) -> None:
        """Bring all rows to the disk, before the checkpoint that they belong to."""
        for table in self._tables.values():
            table.flush()

    def _write(self, kind: str, step: int, values: dict[str, float]) -> None:
        self._tables[kind].write(step, values)
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{self._name}/{key}", value, step)


def _open_board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise JepaExportError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(folder, purge_step=start)
