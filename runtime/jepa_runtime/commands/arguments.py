"""What several subcommands share: kinds of arguments, progress, and stopping on signals."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.world_model import WorldModel


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


def recording(text: str) -> Path:
    """The name of an MCAP file to be written, for ``type=`` of an argument."""
    if not text.endswith(".mcap"):
        raise argparse.ArgumentTypeError(f"must end in .mcap, got {text}")
    return Path(text)


def add_model_arguments(parser: argparse.ArgumentParser, *, first: str = "") -> None:
    """What :func:`open_model` reads. ``first``: where an engine and a precision are looked for before."""
    parser.add_argument("--engine", metavar="E", help=f"engine and device (default: {first}openvino:CPU)")
    parser.add_argument(
        "--precision", metavar="P", help=f"int8, fp16 or fp32 (default: {first}the bundle's first)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )
    parser.add_argument(
        "--num-samples", type=int, metavar="K", help="futures per frame (default: the bundle's)"
    )
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="keep compiled models there")
    parser.add_argument("--allow-untrained", action="store_true", help="accept a bundle of random weights")


def open_model(args: argparse.Namespace, bundle: str | Path | Bundle) -> WorldModel:
    """Open ``bundle`` as the arguments say.

    Raises:
        JepaRuntimeError: see :meth:`~jepa_runtime.world_model.WorldModel.open`.
    """
    return WorldModel.open(
        bundle,
        engine=args.engine or "openvino:CPU",
        precision=args.precision,
        num_samples=args.num_samples,
        options=BackendOptions(threads=args.threads, cache_dir=args.cache_dir),
        allow_untrained=args.allow_untrained,
    )


def write_json(target: str, data: Any) -> None:
    """Write JSON data to a file, or to standard output where that is called ``-``.

    Raises:
        JepaRuntimeError: the file cannot be written.
    """
    text = json.dumps(data, indent=2, allow_nan=False)
    if target == "-":
        print(text, flush=True)
    else:
        write_text(Path(target), f"{text}\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; folders are made. A pipe, a device and a link stay what they are.

    Raises:
        JepaRuntimeError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
            return
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise JepaRuntimeError(f"{path}: cannot be written: {error.strerror}") from error


def files_of(*targets: str | Path | None) -> list[Path]:
    """Those that are given and do not stand for standard output."""
    return [Path(target) for target in targets if target is not None and target != "-"]


def check_writable(path: Path) -> None:
    """See that a file can be written, before minutes are spent on what it is to hold; folders are made.

    Raises:
        JepaRuntimeError: it cannot.
    """
    is_new = not os.path.lexists(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever reads from a pipe would take it for the end.
        if is_new or path.is_file() or path.is_dir():
            path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise JepaRuntimeError(f"{path}: cannot be written: {error.strerror}") from error


def write_each(*writes: Callable[[], None]) -> None:
    """Write several files; one that cannot be written does not cost the others.

    Raises:
        JepaRuntimeError: which could not be written.
    """
    faults = []
    for write in writes:
        try:
            write()
        except JepaRuntimeError as error:
            faults.append(str(error))
    if faults:
        raise JepaRuntimeError("; ".join(faults))


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
