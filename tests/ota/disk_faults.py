"""File-system calls of this process that kill it, find the disk full, or fail once.

The calls are counted, so that a test can choose one by its number. Faults of real system calls, and power
cuts, are in :mod:`tests.ota.campaigns`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest.mock import patch

from tests.ota.robots import Died

DiskFault = Literal["killed", "full", "failing"]

_TAKE_SPACE = frozenset(
    {"open", "pwrite", "posix_fallocate", "ftruncate", "fsync", "mkdir", "symlink", "rename", "replace"}
)
_CALLS = _TAKE_SPACE | {"unlink", "remove", "rmdir", "chmod"}


@contextmanager
def failing_disk(
    fault: DiskFault | None = None, first: int = 0, counts: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Let file-system calls of the block fail from the ``first``-th on, and do not wait for the disk.

    Args:
        fault: ``killed``: that call and all later ones raise :class:`Died`, so that a dead process cleans
            nothing up; ``full``: it and later ones that take space raise ENOSPC; ``failing``: it alone raises
            EIO; None: none fails.
        first: The number of the call, from 0. Without that many calls nothing fails.
        counts: Whether calls are counted already; once it was true, all are.
    """
    count = -1

    def faulty(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            count += count >= 0 or counts()
            if fault == "killed" and count >= first:
                raise Died
            if fault == "full" and count >= first and name in _TAKE_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if fault == "failing" and count == first:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return None if name == "fsync" else real(*args, **kwargs)

        return call

    with patch.multiple(os, **{name: faulty(name, getattr(os, name)) for name in _CALLS}):
        yield
