"""How a command ends: in a line that tells what went wrong, and with the status that a shell expects."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

# A shell adds the number of the signal that ended a program.
_SIGNALLED = 128
_UNREAD = _SIGNALLED + signal.SIGPIPE


def status_of(
    program: str, work: Callable[[], int], *, errors: tuple[type[Exception], ...], stopped: str = ""
) -> int:
    """Do the work of a command.

    Args:
        program: its name, before what is told on standard error.
        errors: that are told in one line.
        stopped: told after Ctrl-C, or another signal that interrupts like it.

    Returns:
        The exit status that ``work`` gives; 1 after one of ``errors``; 130 after Ctrl-C, 128 and its number
        after another signal that interrupts. No verdict are 141, where nobody read its output to the end, and
        74, where that could not be written or another file failed unforeseen.
    """
    try:
        status = work()
        print(end="", flush=True)
    except OSError as error:
        from rich.console import Console

        # Python would try at its end to write what is left.
        with suppress(SystemExit, OSError):
            Console().on_broken_pipe()
        if isinstance(error, BrokenPipeError):
            # Nobody reads the rest (| head).
            return _UNREAD
        with suppress(OSError):
            where = error.filename or "standard output"
            print(f"{program}: {where}: {error.strerror or error}", file=sys.stderr)
        return os.EX_IOERR
    except SystemExit as ended:
        # rich ends with 1 where nobody reads the rest, which would pass for a result (compare: worse).
        if ended.code == 1:
            return _UNREAD
        raise
    except errors as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        if stopped:
            print(f"\n{program}: {stopped}", file=sys.stderr)
        return _SIGNALLED + int(next(iter(interrupt.args), signal.SIGINT))
    return status
