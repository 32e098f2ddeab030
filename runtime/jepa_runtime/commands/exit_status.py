"""The exit status of a command, and the lines on standard error that explain it.

+------+------------------------------------------------------------------------------------------+
| 0    | Success.                                                                                 |
| 1    | Error: the command failed.                                                               |
| 2    | Usage error: the command line is wrong; nothing was done.                                |
| 3    | Negative result: the command worked, and reports a regression, a difference, a problem   |
|      | of the machine, a pending change, or a release that was rejected or rolled back.         |
| 4    | Inconclusive: too few samples, or the machine was too busy to decide.                    |
| 5    | Alarm: a robot needs attention (``jepa-runtime update status``).                         |
| 74   | Standard output or another file could not be written.                                    |
| 128+N| Stopped by signal N: 130 after Ctrl-C, 141 when the reader of a pipe is gone.            |
+------+------------------------------------------------------------------------------------------+
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum

from jepa_runtime.errors import CodedError, JepaRuntimeError

# A shell adds the number of the signal that ended a program.
_SIGNALED = 128
_BROKEN_PIPE = _SIGNALED + signal.SIGPIPE


class ExitStatus(IntEnum):
    """What a command returns to the shell; see the table above."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NEGATIVE = 3
    INCONCLUSIVE = 4
    ALARM = 5


class UsageError(JepaRuntimeError):
    """A combination of options that the parser cannot reject by itself; reported with the command's usage."""

    code = "cli.usage"


def describe_usage_error(error: UsageError) -> str:
    """Return the message, and the code if it says more than that the usage is wrong."""
    return str(error) if error.code == UsageError.code else f"{error} [{error.code}]"


def print_error(program: str, error: CodedError) -> None:
    """Print ``PROGRAM: error: MESSAGE [CODE]`` on standard error."""
    code = "" if error.code == CodedError.code else f" [{error.code}]"
    print(f"{program}: error: {error}{code}", file=sys.stderr)


def print_warning(program: str, message: str) -> None:
    """Print ``PROGRAM: warning: MESSAGE`` on standard error, at once."""
    print(f"{program}: warning: {message}", file=sys.stderr, flush=True)


def status_of(program: str, work: Callable[[], int], *, stopped: str = "") -> int:
    """Run a command and map how it ends to an exit status.

    Args:
        program: The name at the start of each line on standard error.
        work: Runs the command and returns its exit status.
        stopped: The line printed after Ctrl-C, or after another signal that interrupts like it.

    Returns:
        The status that ``work`` returns, or the one of the table above.

    Raises:
        UsageError: The command line is wrong.
    """
    try:
        status = work()
        print(end="", flush=True)
    except UsageError:
        raise
    except OSError as error:
        from rich.console import Console

        # Otherwise Python tries to flush the rest when it exits.
        with suppress(SystemExit, OSError):
            Console().on_broken_pipe()
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        with suppress(OSError):
            where = error.filename or "standard output"
            print(
                f"{program}: error: {where}: {error.strerror or error} [cli.output_failed]", file=sys.stderr
            )
        return os.EX_IOERR
    except SystemExit as ended:
        # rich exits with 1 when the reader of a pipe is gone.
        if ended.code == 1:
            return _BROKEN_PIPE
        raise
    except CodedError as error:
        print_error(program, error)
        return ExitStatus.ERROR
    except KeyboardInterrupt as interrupt:
        if stopped:
            print(f"\n{program}: {stopped}", file=sys.stderr)
        return _SIGNALED + int(next(iter(interrupt.args), signal.SIGINT))
    return status
