"""No file is made, written or removed any more, for good, by the calling thread and all that it starts
(Landlock, Linux 5.13): needs no privilege. What is open stays open, and everything can be read."""

from __future__ import annotations

import ctypes
import os
import struct

# From <linux/landlock.h>; the numbers of its system calls are those of every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH, _WRITE_FILE = 1, 1, 1 << 1
# By the version of Landlock that brought them: to write, remove and make; to move between folders; to cut
# off; to give a device orders.
_ACCESS = {1: 0b1_1111_1111_0010, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
# Abstract sockets, and signals, of processes that are not confined.
_SCOPES = {6: 0b11}


def forbid() -> bool:
    """Refuse it (EACCES), except to write to ``/dev/null``. The process must have no new privileges.

    Returns:
        Whether it is refused; not on a kernel, or in a container, that has no Landlock.
    """
    libc = ctypes.CDLL(None)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    # Accesses to files, to ports, scopes; an older kernel takes what it does not know where that is 0.
    rules = (ctypes.c_uint64 * 3)(_known(_ACCESS, version), 0, _known(_SCOPES, version))
    ruleset = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    if ruleset < 0:
        return False
    null = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
    try:
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", _WRITE_FILE, null), 0)
        return not libc.syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(null)
        os.close(ruleset)


def _known(by_version: dict[int, int], version: int) -> int:
    return sum(bits for since, bits in by_version.items() if since <= version)
