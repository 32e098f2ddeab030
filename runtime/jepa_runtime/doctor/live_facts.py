"""What no file tells, of the machine on which the doctor runs. Everything here only looks."""

from __future__ import annotations

import ctypes
import glob
import grp
import os
import platform
import pwd
import shlex
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from jepa_runtime.doctor.system import Account, Node
from jepa_runtime.errors import UndeterminedError

# From <sys/timex.h>.
_STA_UNSYNC, _TIME_ERROR = 0x40, 5


class _Timex(ctypes.Structure):
    """struct timex of 64-bit Linux up to the field that is read; the kernel fills the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


class LiveFacts:
    """Implements :class:`jepa_runtime.doctor.system.Facts` for this machine."""

    def kernel(self) -> str:
        """The release of the running kernel."""
        return platform.release()

    def architecture(self) -> str:
        """As ``uname -m``."""
        return platform.machine()

    def account(self) -> Account:
        """Who runs the doctor, with the groups of this session: those added since count from the next one."""
        uid = os.geteuid()
        return Account(_user(uid), uid, frozenset(map(_group, [os.getegid(), *os.getgroups()])))

    def nodes(self, pattern: str) -> dict[str, Node]:
        """The device nodes that match; an entry of another kind is none."""
        found = {}
        for path in sorted(glob.glob(pattern)):
            try:
                state = os.stat(path)
            except OSError as error:
                raise UndeterminedError(f"{path} cannot be looked at: {error.strerror}") from error
            if stat.S_ISCHR(state.st_mode):
                found[path] = Node(
                    _user(state.st_uid),
                    _group(state.st_gid),
                    stat.S_IMODE(state.st_mode),
                    granted=os.access(path, os.R_OK | os.W_OK, effective_ids=True),
                )
        return found

    def free_bytes(self, path: str) -> tuple[str, int]:
        """The nearest folder that exists, and the free bytes of its file system."""
        place = Path(path)
        try:
            while not place.exists():
                place = place.parent
            return str(place), shutil.disk_usage(place).free
        except OSError as error:
            raise UndeterminedError(f"{place} cannot be looked at: {error.strerror}") from error

    def clock_synchronized(self) -> bool:
        """What the kernel says of its clock; asking with ``modes`` 0 changes nothing."""
        timex = _Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
        if state < 0:
            raise UndeterminedError(f"adjtimex cannot be asked: {os.strerror(ctypes.get_errno())}")
        return state != _TIME_ERROR and not timex.status & _STA_UNSYNC

    def library_folders(self) -> Sequence[str]:
        """Where this Python looks."""
        return [os.path.abspath(folder)[1:] for folder in sys.path if folder]

    def program(self, name: str) -> str:
        """Beside this Python, where it is there."""
        beside = os.path.join(os.path.dirname(sys.executable), name)
        return shlex.quote(beside if os.path.exists(beside) else shutil.which(name) or name)

    def needs_root_to_install(self) -> bool:
        """Whether this account may not write there."""
        return not os.access(sys.prefix, os.W_OK)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
