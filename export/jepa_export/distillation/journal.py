"""What is told while a stage is trained: a progress bar, a row of losses a step, and TensorBoard's events."""

from __future__ import annotations

import contextlib
import csv
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jepa_export.distillation.collapse import Variety
from jepa_export.errors import JepaExportError


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
        self._tables = {kind: _Table(folder / f"{name}{kind}.csv", start) for kind in ("", "_variety")}
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            refresh_per_second=2,
        )
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
        told = " ".join(f"{key} {value:.3g}" for key, value in values.items())
        self._progress.update(self._task, advance=1, losses=told)

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


class _Table:
    """A CSV file that is added to; its first column is the step."""

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        try:
            rows: list[list[str]] = []
            if start and path.exists():
                with path.open(newline="") as file:
                    head, *found = csv.reader(file)
                # The last row may have been cut off by a kill, in its first number even.
                whole = [row for row in found if len(row) == len(head)]
                rows = [head, *(row for row in whole if int(row[0]) < start)]
            partial = path.with_suffix(".partial")
            with partial.open("w", newline="") as file:
                csv.writer(file).writerows(rows)
            os.replace(partial, path)
            self._file = path.open("a", newline="")
        except (OSError, ValueError) as error:
            raise JepaExportError(f"{path}: cannot be continued ({error}): choose another --out") from error
        self._headed = bool(rows)

    def write(self, step: int, values: dict[str, float]) -> None:
        writer = csv.writer(self._file)
        if not self._headed:
            writer.writerow(["step", *values])
            self._headed = True
        writer.writerow([step, *(repr(value) for value in values.values())])

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise JepaExportError(
                f"{self._path}: cannot be written ({error.strerror}): make room, and the same command goes "
                "on from the last checkpoint"
            ) from error

    def close(self) -> None:
        # What is lost here is written again when the run goes on from its checkpoint.
        with contextlib.suppress(OSError):
            self._file.close()


def _open_board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise JepaExportError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(folder, purge_step=start)
