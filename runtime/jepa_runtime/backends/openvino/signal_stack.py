"""Keeps the stack on which a thread handles signals.

OpenVINO 2026.4 gives each thread that loads its plugin for CPUs a stack of its own (for AMX) and, when it
goes, gives back the one it found: of two models, closed in another order than they were opened, it leaves a
stack that is gone. Python handles signals there (3.10 and later): the next Ctrl-C would end the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """stack_t of <signal.h>."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept() -> Iterator[None]:
    """At the end of the block this thread has the stack for signals that it had before."""
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
