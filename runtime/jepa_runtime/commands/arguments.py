"""What several subcommands share: kinds of arguments, the console, and progress."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.util.output_files import STDOUT

# 31 years, if seconds: their nanoseconds, and sums of them with a stamp, fit 64 bits.
_MOST = 1e9
_UNBROKEN = 10_000


def positive(text: str) -> float:
    """A number above zero, for ``type=`` of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MOST:
        raise argparse.ArgumentTypeError(f"must be a positive number of at most {_MOST:g}, got {text}")
    return value


def count(text: str) -> int:
    """How many, at least one, for ``type=`` of an argument."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return value


def rate(text: str) -> float:
    """Times a second, from once in a thousand seconds to 10000 times, for ``type=`` of an argument."""
    value = positive(text)
    if not 1e-3 <= value <= 1e4:
        raise argparse.ArgumentTypeError(f"must be from 0.001 to 10000, got {text}")
    return value


def frame_size(text: str) -> tuple[int, int]:
    """Width and height, written 640x480, for ``type=`` of an argument."""
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT of at most 9999, such as 640x480, got {text}")
    return int(found[1]), int(found[2])


def open_console(*, stderr: bool = False) -> Console:
    """Where a command prints what it found. Only on a terminal are long lines broken: output in a file or a
    pipe is searched line by line."""
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBROKEN
    return console


def progress_on(console: Console) -> Progress:
    """Bars of counted steps on a terminal; silent elsewhere."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


@contextmanager
def counted_frames(console: Console, total: int, stopping: Event) -> Iterator[Callable[[], None]]:
    """A bar of ``total`` frames: gives what is to be called after each, which raises KeyboardInterrupt once
    ``stopping`` is set."""
    with progress_on(console) as progress:
        task = progress.add_task("frames", total=total)

        def step() -> None:
            progress.advance(task)
            if stopping.is_set():
                raise KeyboardInterrupt

        yield step


def recording(text: str) -> Path:
    """The name of an MCAP file to be written, for ``type=`` of an argument."""
    if not text.endswith(".mcap"):
        raise argparse.ArgumentTypeError(f"must end in .mcap, got {text}")
    return Path(text)


def add_model_arguments(parser: argparse.ArgumentParser, *, first: str = "") -> None:
    """What :func:`open_model` reads. ``first``: where an engine and a precision are looked for before."""
    parser.add_argument("--engine", metavar="E", help=f"engine and device (default: {first}openvino:CPU)")
    parser.add_argument(
        "--precision", metavar="P", help=f"int8, fp16, bf16 or fp32 (default: {first}the bundle's first)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )
    parser.add_argument(
        "--num-samples", type=int, metavar="K", help="futures per frame (default: the bundle's)"
    )
    add_cache_argument(parser)
    parser.add_argument("--allow-untrained", action="store_true", help="accept a bundle of random weights")


def add_json_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json``, whose value :func:`~jepa_runtime.util.output_files.write_json` takes; None: no JSON is
    wanted."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help=f"write {what} as JSON to FILE, or to standard output (-, the default)",
    )


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Add the folder for :attr:`~jepa_runtime.backends.base.BackendOptions.cache_dir`."""
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="keep compiled models there")


def open_model(args: argparse.Namespace, bundle: str | Path | Bundle) -> WorldModel:
    """Open ``bundle`` as the arguments say.

    Raises:
        JepaRuntimeError: see :meth:`~jepa_runtime.model.world_model.WorldModel.open`.
    """
    return WorldModel.open(
        bundle,
        engine=args.engine or "openvino:CPU",
        precision=args.precision,
        num_samples=args.num_samples,
        options=BackendOptions(threads=args.threads, cache_dir=args.cache_dir),
        allow_untrained=args.allow_untrained,
    )
