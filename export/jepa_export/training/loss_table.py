"""The losses of a training: a row a step in a file that a resumed run continues, and on a progress bar."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from jepa_export.errors import JepaExportError


class Table:
    """A CSV file that is added to; its first column is the step. Of a run that goes on with step ``start``,
    what came after its checkpoint is dropped.

    Raises:
        JepaExportError: it cannot be read or written.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        try:
            rows: list[list[str]] = []
            if start and path.exists():
                with path.open(newline="") as file:
                    rows = list(csv.reader(file))
                # The last row may have been cut off by a kill, in its first number even.
                whole = [row for row in rows[1:] if len(row) == len(rows[0])]
                rows = [*rows[:1], *(row for row in whole if int(row[0]) < start)]
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
        with self._told():
            if not self._headed:
                writer.writerow(["step", *values])
                self._headed = True
            writer.writerow([step, *(repr(value) for value in values.values())])

    def flush(self) -> None:
        with self._told():
            self._file.flush()

    def close(self) -> None:
        # What is lost here is written again when the run goes on from its checkpoint.
        with contextlib.suppress(OSError):
            self._file.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JepaExportError(
                f"{self._path}: cannot be written ({error.strerror}): make room, and the same command goes "
                "on from the last checkpoint"
            ) from error


def progress_bar() -> Progress:
    """For tasks with a field ``losses``, which goes on below where there is no room beside the bar."""
    return Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[losses]}", table_column=Column()),
        refresh_per_second=2,
    )


def told(losses: Mapping[str, float]) -> str:
    """Beside the bar."""
    return " ".join(f"{key} {value:.3g}" for key, value in losses.items())
