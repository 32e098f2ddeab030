"""Standard output and standard error of a command."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any


class _Terminal(io.FileIO):
    """A terminal. Once it has hung up, what is written to it is lost, and writing is no error."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)


def make_streams_robust() -> None:
    """Let neither a character that their encoding lacks (it is written as ``\\u2026``) nor a terminal that
    hangs up end the command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if stream.isatty():
                raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
                text = io.TextIOWrapper(
                    raw,
                    stream.encoding,
                    stream.errors,
                    line_buffering=True,
                    write_through=stream.write_through,
                )
                setattr(sys, name, text)
