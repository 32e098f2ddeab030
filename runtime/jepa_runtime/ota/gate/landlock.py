"""Forbids the calling thread and its children to create, write or remove files, permanently (Landlock).

Requires Linux 6.2, and no privilege. Files that are open already stay usable, and every file stays readable.
"""

from __future__ import annotations

import ctypes
import os
import struct

# From <linux/landlock.h>; the system call numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH, _WRITE_FILE = 1, 1, 1 << 1
# Access rights, by the version of Landlock that introduced them: write, remove and create; move between
# folders; truncate; ioctl on a device.
_ACCESS = {1: 0b1_1111_1111_0010, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
# Scopes, likewise: abstract sockets of, and signals to, processes that are not confined.
_SCOPES = {6: 0b11}
# Earlier versions do not forbid truncating files.
_LEAST_VERSION = 3


def forbid() -> bool:
    """Forbid writing (EACCES) except to ``/dev/null``; the process must have set no_new_privs.

    Returns:
        Whether everything is forbidden. Older kernels forbid what they can; containers may have no Landlock.
    """
    libc = ctypes.CDLL(None)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    # Rights on files, on ports, and scopes. A kernel accepts a field that it does not know if it is 0.
    rules = (ctypes.c_uint64 * 3)(_known(_ACCESS, version), 0, _known(_SCOPES, version))
    ruleset = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    if ruleset < 0:
        return False
    null = os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)
    try:
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", _WRITE_FILE, null), 0)
        return not libc.syscall(_RESTRICT_SELF, ruleset, 0) and version >= _LEAST_VERSION
    finally:
        os.close(null)
        os.close(ruleset)


def _known(by_version: dict[int, int], version: int) -> int:
    return sum(bits for since, bits in by_version.items() if since <= version)
