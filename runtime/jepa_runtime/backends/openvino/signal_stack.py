"""Preservation of the stack on which a thread handles signals.

OpenVINO 2026.4 installs a signal stack (for AMX) in each thread that loads its CPU plugin, and restores the
previous stack when the plugin is unloaded: if two models are closed in another order than they were opened, a
freed stack is restored. Python handles signals on that stack (3.10 and later), so the next Ctrl-C would crash
the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """Represent stack_t of <signal.h>."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the signal stack of this thread at the end of the block."""
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
