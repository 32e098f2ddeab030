"""Compilation of numeric code by numba, which is the extra ``first-person``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from jepa_runtime.errors import WorldError

try:
    import numba
except ImportError as error:
    raise WorldError(
        "first_person: numba is not installed: pip install 'jepa-edge[first-person]'",
        code="sim.missing_package",
    ) from error

# From the cache, everything loads in less than this.
_LOADED_WITHIN_S = 2.0
_LOG = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile a function at its first call.

    The result is cached in ``NUMBA_CACHE_DIR``, next to the source, or in the cache of this account: the
    first of these that is writable. If none is, every process compiles again. The cache follows changes
    of the source file, not of other files from which the function takes constants or functions.
    """
    return _compile(function, fastmath=False)


def compiled_fast(function: Function) -> Function:
    """Compile as :func:`compiled` does, with floating-point operations in any order."""
    return _compile(function, fastmath=True)


@contextmanager
def announce_compilation(report: Callable[[str], None] = _LOG.warning) -> Iterator[None]:
    """Report it if the code inside takes so long that it is probably compiling.

    Args:
        report: Called from another thread with a line for people.
    """
    line = "loading the first-person world: the first use compiles it, which takes up to a minute"
    timer = threading.Timer(_LOADED_WITHIN_S, report, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _compile(function: Function, *, fastmath: bool) -> Function:
    try:
        result: Function = numba.njit(function, cache=True, nogil=True, fastmath=fastmath)
    except RuntimeError:  # No folder for the cache is writable.
        result = numba.njit(function, nogil=True, fastmath=fastmath)
    return result
