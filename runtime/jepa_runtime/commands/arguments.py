"""Option types, shared options, consoles and progress bars of the commands.

Heavy imports are inside the functions, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.commands.exit_status import UsageError
from jepa_runtime.util.hub_address import HUB_SCHEME, HubAddress
from jepa_runtime.util.output_files import STDOUT

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from jepa_runtime.bundle import Bundle
    from jepa_runtime.imaging import Image
    from jepa_runtime.model.world_model import WorldModel

# As seconds this is 31 years: in nanoseconds, also added to a stamp, it fits 64 bits.
_MAX_VALUE = 1e9
# Long enough that a line in a pipe is never wrapped.
_PIPE_COLUMNS = 10_000


def positive(text: str) -> float:
    """Parse a number above 0 (``type=`` of an argument)."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MAX_VALUE:
        raise argparse.ArgumentTypeError(f"must be a positive number of at most {_MAX_VALUE:g}, got {text}")
    return value


def count(text: str) -> int:
    """Parse an integer of at least 1 (``type=`` of an argument)."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text}")
    return value


def rate(text: str) -> float:
    """Parse a rate from 0.001 to 10000 Hz (``type=`` of an argument)."""
    value = positive(text)
    if not 1e-3 <= value <= 1e4:
        raise argparse.ArgumentTypeError(f"must be from 0.001 to 10000, got {text}")
    return value


def frame_size(text: str) -> tuple[int, int]:
    """Parse width and height, such as 640x480 (``type=`` of an argument)."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT of at most 9999, such as 640x480, got {text}")
    return int(match[1]), int(match[2])


def mcap_file(text: str) -> Path:
    """Parse the name of an MCAP file to write (``type=`` of an argument)."""
    if not text.endswith(".mcap"):
        raise argparse.ArgumentTypeError(f"must end in .mcap, got {text}")
    return Path(text)


def text_output(text: str) -> Path | str:
    """Parse a text file to write, or ``-`` for standard output (``type=`` of an argument)."""
    return STDOUT if text == STDOUT else Path(text)


def binary_output(text: str) -> Path:
    """Parse a binary file to write (``type=`` of an argument)."""
    if text == STDOUT:
        raise argparse.ArgumentTypeError("must be a file: binary output does not go to standard output")
    return Path(text)


def open_console(*, stderr: bool = False) -> Console:
    """Return the console for a command's output.

    Lines are wrapped only on a terminal: files and pipes are searched line by line.
    """
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_COLUMNS
    return console


def writes_to_stdout(args: argparse.Namespace, *outputs: str) -> bool:
    """Return whether an output goes to standard output.

    Args:
        args: The parsed arguments.
        outputs: The attributes of ``args`` that name an output file.

    Raises:
        UsageError: Several outputs go to standard output.
    """
    options = [f"--{name.replace('_', '-')}" for name in outputs if getattr(args, name) == STDOUT]
    if len(options) > 1:
        raise UsageError(f"only one of {' and '.join(options)} can write to standard output")
    return bool(options)


def message_console(args: argparse.Namespace, *outputs: str) -> Console:
    """Return the console for messages: standard error if one of ``outputs`` goes to standard output.

    Raises:
        UsageError: See :func:`writes_to_stdout`.
    """
    return open_console(stderr=writes_to_stdout(args, *outputs))


def progress_on(console: Console) -> Progress:
    """Return progress bars with step counts; silent unless ``console`` is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


@contextmanager
def frame_progress(console: Console, total: int, stopping: Event) -> Iterator[Callable[[], None]]:
    """Show a progress bar of ``total`` frames.

    Yields:
        The function to call after each frame; it raises KeyboardInterrupt once ``stopping`` is set.
    """
    with progress_on(console) as progress:
        task = progress.add_task("frames", total=total)

        def step() -> None:
            progress.advance(task)
            if stopping.is_set():
                raise KeyboardInterrupt

        yield step


def bundle_location(text: str) -> Path | HubAddress:
    """Parse the folder or the address of a bundle (``type=`` of an argument).

    :class:`~jepa_runtime.commands.program.Program` downloads the bundle of an address before the command
    runs, which gets the folder.
    """
    return HubAddress(text) if text.startswith(HUB_SCHEME) else Path(text)


def local_bundle(text: str) -> Path:
    """Parse the folder of a bundle that must not be downloaded (``type=`` of an argument)."""
    if text.startswith(HUB_SCHEME):
        raise argparse.ArgumentTypeError(
            f"{text}: must be a folder, this command does not download bundles: download it with "
            f"`jepa-runtime info {text}`, and give the folder that it shows"
        )
    return Path(text)


def add_bundle_argument(
    parser: argparse._ActionsContainer,
    what: str = "folder of the bundle",
    *,
    required: bool = True,
    local: bool = False,
) -> None:
    """Add the positional ``BUNDLE`` with the help ``what``; ``local``: not an address on the Hub."""
    parser.add_argument(
        "bundle",
        type=local_bundle if local else bundle_location,
        nargs=None if required else "?",
        metavar="BUNDLE",
        help=what if local else f"{what}, or hf://org/name[@revision]",
    )


def add_bag_argument(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``BAG``."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="an .mcap or .db3 file, or a rosbag2 folder")


def add_model_arguments(parser: argparse.ArgumentParser, *, first: str = "") -> None:
    """Add the options that :func:`open_model` reads.

    Args:
        parser: The parser of the command.
        first: What the defaults of engine and precision are taken from first, such as ``the robot's, else``.
    """
    prefix = first and f"{first} "
    add_engine_argument(parser, default=None, shown=f"{prefix}{DEFAULT_ENGINE}")
    add_precision_argument(parser, shown=f"{prefix}the bundle's first")
    add_threads_argument(parser)
    add_num_samples_argument(parser)
    add_cache_argument(parser)
    add_untrained_argument(parser)


def add_engine_argument(
    parser: argparse.ArgumentParser, *, default: str | None = DEFAULT_ENGINE, shown: str = DEFAULT_ENGINE
) -> None:
    """Add ``--engine``; ``shown`` is the default in the help."""
    parser.add_argument(
        "--engine", default=default, metavar="E", help=f"engine and device (default: {shown})"
    )


def add_precision_argument(parser: argparse.ArgumentParser, *, shown: str = "the bundle's first") -> None:
    """Add ``--precision``; ``shown`` is the default in the help."""
    parser.add_argument("--precision", metavar="P", help=f"int8, fp16, bf16 or fp32 (default: {shown})")


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``."""
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )


def add_num_samples_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--num-samples``."""
    parser.add_argument(
        "--num-samples", type=int, metavar="K", help="number of futures per frame (default: the bundle's)"
    )


def add_untrained_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-untrained``."""
    parser.add_argument("--allow-untrained", action="store_true", help="accept a bundle with random weights")


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache-dir`` for :attr:`~jepa_runtime.backends.base.BackendOptions.cache_dir`."""
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="cache of compiled models")


def add_json_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json [FILE]``, whose value :func:`~jepa_runtime.util.output_files.write_json` takes.

    Args:
        parser: The parser of the command.
        what: What the JSON contains, for the help.
    """
    parser.add_argument(
        "--json", nargs="?", const=STDOUT, metavar="FILE",
        help=f"write {what} as JSON to FILE, or to standard output if FILE is - or left out",
    )  # fmt: skip


def open_model(args: argparse.Namespace, bundle: str | Path | Bundle) -> WorldModel:
    """Open ``bundle`` with the options of :func:`add_model_arguments`.

    Raises:
        JepaRuntimeError: See :meth:`~jepa_runtime.model.world_model.WorldModel.open`.
    """
    from jepa_runtime.backends.base import BackendOptions
    from jepa_runtime.model.world_model import WorldModel

    return WorldModel.open(
        bundle,
        engine=args.engine or DEFAULT_ENGINE,
        precision=args.precision,
        num_samples=args.num_samples,
        options=BackendOptions(threads=args.threads, cache_dir=args.cache_dir),
        allow_untrained=args.allow_untrained,
    )


def read_image(path: str | Path) -> Image:
    """Return the image of a goal, uint8 [h, w, 3] RGB.

    Raises:
        SourceError: There is no such file, or it is not a readable PNG or JPEG.
    """
    from jepa_runtime.errors import FrameError, SourceError
    from jepa_runtime.imaging import decode

    try:
        return decode(Path(path).read_bytes())
    except (OSError, FrameError) as error:
        raise SourceError(
            f"{path}: no such image, or not a readable PNG or JPEG: give another file",
            code="source.goal_unreadable",
        ) from error
