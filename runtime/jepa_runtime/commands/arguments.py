"""What several subcommands share: kinds of arguments, progress, and stopping on signals."""

from __future__ import annotations

import argparse
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def positive(text: str) -> float:
    """A number above zero, for ``type=`` of an argument."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def frame_size(text: str) -> tuple[int, int]:
    """Width and height, written 640x480, for ``type=`` of an argument."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 640x480, got {text}")
    return int(found[1]), int(found[2])


def progress_on(console: Console) -> Progress:
    """Bars of counted steps on a terminal; silent elsewhere."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


@contextmanager
def stop_on_signals() -> Iterator[Event]:
    """An event that SIGINT or SIGTERM sets; a second signal ends the process as if nobody listened."""
    stopping = Event()

    def stop(number: int, _: object) -> None:
        stopping.set()
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous:
        signal.signal(number, stop)
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
