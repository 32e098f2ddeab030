"""The command ``jepa-runtime``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console

import jepa_runtime
from jepa_runtime.commands import (
    build_engine,
    calibrate,
    compare,
    configs,
    doctor,
    drive,
    info,
    profile,
    record,
    replay,
    report,
    run,
    update,
    verify,
    view,
    whatif,
)
from jepa_runtime.errors import JepaRuntimeError

_COMMANDS = (
    run,
    record,
    replay,
    whatif,
    report,
    view,
    profile,
    compare,
    verify,
    drive,
    info,
    calibrate,
    doctor,
    build_engine,
    update,
    configs,
)
# As a shell tells of a program that the signal ended: SIGINT, SIGPIPE.
_INTERRUPTED, _UNREAD = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: its arguments; those of the process if left out.

    Returns:
        The exit status that the subcommand gives; 1 after an error, which is told in one line on standard
        error; 130 after Ctrl-C. No verdict are 141, where nobody read its output to the end, and 74, where
        that could not be written or another file failed unforeseen.
    """
    parser = argparse.ArgumentParser(
        prog="jepa-runtime",
        description="Runs a model bundle: latent state and predicted futures in real time.",
    )
    parser.add_argument("--version", action="version", version=f"jepa-edge {jepa_runtime.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
        print(end="", flush=True)
    except OSError as error:
        # Python would try at its end to write what is left.
        with suppress(SystemExit, OSError):
            Console().on_broken_pipe()
        if isinstance(error, BrokenPipeError):
            # Nobody reads the rest (| head).
            return _UNREAD
        with suppress(OSError):
            where = error.filename or "standard output"
            print(f"jepa-runtime: {where}: {error.strerror or error}", file=sys.stderr)
        return os.EX_IOERR
    except SystemExit:
        # From a console that has done the same by itself; its status, 1, would be a verdict.
        return _UNREAD
    except JepaRuntimeError as error:
        print(f"jepa-runtime: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status
