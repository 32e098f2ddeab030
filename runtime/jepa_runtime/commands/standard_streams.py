"""Standard output and standard error of a command."""

from __future__ import annotations

import errno
import io
import sys
from typing import Any


class _Terminal(io.FileIO):
    """A terminal. Once it has hung up, writes are discarded without an error."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)


def make_streams_robust() -> None:
    r"""Keep unencodable characters and terminals that hang up from ending the command.

    A character that the encoding of the stream lacks is written as an escape, such as ``\u2026``.
    """
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
