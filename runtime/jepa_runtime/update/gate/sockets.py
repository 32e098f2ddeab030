"""Forbids the calling thread, and all that it starts, to open sockets, for good (seccomp, Linux). That needs
no privilege, and no namespace, which some systems forbid."""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
# From <linux/audit.h>, and the number of socket(2); that of io_uring_setup(2), which can make sockets too.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP = 425
# Another ABI of x86-64, with numbers of its own.
_X32 = 0x40000000
# From <linux/bpf_common.h> and <linux/seccomp.h>.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
# Where the filter finds the number of the call, the machine, and the first argument.
_CALL, _MACHINE, _ARGUMENT = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid(*, local: bool) -> bool:
    """Forbid all sockets (EPERM) but AF_NETLINK and, unless ``local``, AF_UNIX. The process must have no new
    privileges.

    Args:
        local: forbid AF_UNIX too, by which services of this machine could act for the process.

    Returns:
        Whether they are forbidden now; only x86-64 and ARM64 with seccomp can.
    """
    known = _MACHINES.get(platform.machine())
    if known is None:
        return False
    code = _filter(*known, socket.AF_NETLINK if local else socket.AF_UNIX)
    program = _Program(len(code) // 8, code)
    return not ctypes.CDLL(None).prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)


def _filter(machine: int, socket_call: int, allowed: int) -> bytes:
    steps = (
        (_LOAD, 0, 0, _MACHINE),
        (_IF_EQUAL, 0, 8, machine),
        (_LOAD, 0, 0, _CALL),
        (_IF_AT_LEAST, 6, 0, _X32),
        (_IF_EQUAL, 5, 0, _IO_URING_SETUP),
        (_IF_EQUAL, 0, 3, socket_call),
        (_LOAD, 0, 0, _ARGUMENT),
        (_IF_EQUAL, 1, 0, allowed),
        (_IF_EQUAL, 0, 1, socket.AF_NETLINK),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
