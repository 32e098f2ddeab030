"""The losses of a training run: a table that a resumed run continues, and a progress bar."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from jepa_export.errors import JepaExportError
from jepa_runtime.util import atomic_files


class LossTable:
    """CSV file to which rows are appended; its first column is the step.

    Args:
        start: First step of this run. Later rows of an interrupted run are dropped.

    Raises:
        JepaExportError: The file cannot be read or written.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        try:
            rows: list[list[str]] = []
            if start and path.exists():
                with path.open(newline="") as file:
                    rows = list(csv.reader(file))
                # A killed process may have written the last row partially, even its first number.
                whole = [row for row in rows[1:] if len(row) == len(rows[0])]
                rows = [*rows[:1], *(row for row in whole if int(row[0]) < start)]
            with atomic_files.replacing(path) as temporary, temporary.open("w", newline="") as file:
                csv.writer(file).writerows(rows)
            self._file = path.open("a", newline="")
        except (OSError, ValueError) as error:
            raise JepaExportError(
                f"{path}: cannot be continued: {error}; choose another --output",
                code="training.table_unreadable",
            ) from error
        self._has_header = bool(rows)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append the row of ``step``."""
        writer = csv.writer(self._file)
        with self._convert_errors():
            if not self._has_header:
                writer.writerow(["step", *values])
                self._has_header = True
            writer.writerow([step, *(repr(value) for value in values.values())])

    def flush(self) -> None:
        """Write buffered rows to the file."""
        with self._convert_errors():
            self._file.flush()

    def close(self) -> None:
        """Close the file. Rows lost here are written again when the run resumes from its checkpoint."""
        with contextlib.suppress(OSError):
            self._file.close()

    @contextlib.contextmanager
    def _convert_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JepaExportError(
                f"{self._path}: cannot be written: {error.strerror}; free disk space and run the same "
                "command "
                "again, it resumes from the last checkpoint",
                code="training.not_writable",
            ) from error


def progress_bar() -> Progress:
    """Return a progress bar for tasks with a field ``losses``, which wraps where the terminal is narrow."""
    return Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[losses]}", table_column=Column()),
        refresh_per_second=2,
    )


def format_losses(losses: Mapping[str, float]) -> str:
    """Return losses as one short line."""
    return " ".join(f"{key} {value:.3g}" for key, value in losses.items())
