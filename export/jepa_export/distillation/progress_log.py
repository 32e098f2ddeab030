"""What is told while a stage is trained: a progress bar, a row of losses a step, and TensorBoard's events."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from jepa_export.distillation.collapse import Variety
from jepa_export.errors import JepaExportError
from jepa_export.training.loss_table import Table, progress_bar, told


class ProgressLog:
    """``folder``/<name>.csv has a row a step; <name>_variety.csv one for each look at latents, and
    <name>_held_out.csv the losses of clips that are not trained on. Of a run that goes on, what came after
    its checkpoint is dropped.

    Args:
        start: the first step, of ``steps``.
        held_out: there are such clips.
        board: TensorBoard's events go to ``folder``/events.

    Raises:
        JepaExportError: TensorBoard is asked for and not installed, or a file cannot be written.
    """

    def __init__(
        self, folder: Path, name: str, *, start: int, steps: int, held_out: bool, board: bool
    ) -> None:
        self._name = name
        self._board = _open_board(folder / "events", start) if board else None
        kinds = ("", "_variety", "_held_out") if held_out else ("", "_variety")
        self._tables = {kind: Table(folder / f"{name}{kind}.csv", start) for kind in kinds}
        self._progress = progress_bar()
        self._task = self._progress.add_task(name, total=steps, completed=start, losses="")
        self._said = {"": "", "_held_out": ""}

    def __enter__(self) -> ProgressLog:
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
        self._say("", told(values), advance=1)

    def look(self, step: int, found: Variety, values: dict[str, float], least: float) -> None:
        """``values``: the losses of what is held out; ``least``: of all of them so far."""
        self._write("_variety", step, {"rank": found.rank, "std": found.std})
        if "_held_out" in self._tables:
            self._write("_held_out", step, values, beside="held_out_")
            self._say("_held_out", f", held out {values['loss']:.3g} (least {least:.3g})")

    def flush(self) -> None:
        """Bring all rows to the disk, before the checkpoint that they belong to."""
        for table in self._tables.values():
            table.flush()

    def _say(self, kind: str, what: str, *, advance: int = 0) -> None:
        self._said[kind] = what
        self._progress.update(self._task, advance=advance, losses="".join(self._said.values()))

    def _write(self, kind: str, step: int, values: dict[str, float], *, beside: str = "") -> None:
        self._tables[kind].write(step, values)
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{self._name}/{beside}{key}", value, step)


def _open_board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise JepaExportError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(folder, purge_step=start)
