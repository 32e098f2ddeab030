"""Forbids the calling thread and its children some system calls, permanently (seccomp, Linux).

Needs no privilege, and no namespaces, which some systems forbid.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Sequence

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
# From <linux/audit.h>, and the number of socket(2).
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
# io_uring_setup(2), which can create sockets too.
_IO_URING_SETUP = 425
# socketpair(2), whose sockets can be connected to services; then the families of chmod(2), chown(2),
# setxattr(2) and removexattr(2), which change who may read a file.
_WITHOUT_DRIVERS = {
    "x86_64": (53, 90, 91, 268, 452, 92, 93, 94, 260, 188, 189, 190, 463, 197, 198, 199, 466),
    "aarch64": (199, 52, 53, 452, 54, 55, 5, 6, 7, 463, 14, 15, 16, 466),
}
# Another ABI of x86-64, with its own numbers.
_X32 = 0x40000000
# From <linux/bpf_common.h> and <linux/seccomp.h>.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# Offsets of the number of the call, the architecture, and the first argument.
_CALL, _MACHINE, _ARGUMENT = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid(*, drivers: bool) -> bool:
    """Forbid all sockets (EPERM) except AF_NETLINK; the process must have set no_new_privs.

    Args:
        drivers: Whether drivers of a GPU or an NPU are needed, which talk to local services by AF_UNIX.
            Without them that is forbidden too, and so are changes of a file's mode, owner or attributes.

    Returns:
        Whether they are forbidden; only x86-64 and ARM64 with seccomp are supported.
    """
    name = platform.machine()
    if name not in _MACHINES:
        return False
    refused = (_IO_URING_SETUP, *(() if drivers else _WITHOUT_DRIVERS[name]))
    code = _filter(*_MACHINES[name], refused, socket.AF_UNIX if drivers else socket.AF_NETLINK)
    program = _Program(len(code) // 8, code)
    return not ctypes.CDLL(None).prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)


def _filter(machine: int, socket_call: int, refused: Sequence[int], allowed: int) -> bytes:
    count = len(refused)
    # Each instruction with the number of instructions to skip if it is true, and if it is false.
    steps = (
        (_LOAD, 0, 0, _MACHINE),
        (_IF_EQUAL, 0, count + 7, machine),
        (_LOAD, 0, 0, _CALL),
        (_IF_AT_LEAST, count + 5, 0, _X32),
        *((_IF_EQUAL, count + 4 - place, 0, call) for place, call in enumerate(refused)),
        (_IF_EQUAL, 0, 3, socket_call),
        (_LOAD, 0, 0, _ARGUMENT),
        (_IF_EQUAL, 1, 0, allowed),
        (_IF_EQUAL, 0, 1, socket.AF_NETLINK),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
