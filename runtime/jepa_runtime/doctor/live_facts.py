"""Facts about the running machine that cannot be read from files. Everything here is read-only."""

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
    """Struct timex of 64-bit Linux, up to the field that is read; ``rest`` holds the others."""

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
    """The :class:`jepa_runtime.doctor.system.Facts` of this machine."""

    def kernel(self) -> str:
        """Return the release of the running kernel."""
        return platform.release()

    def architecture(self) -> str:
        """Return the architecture as ``uname -m`` prints it."""
        return platform.machine()

    def account(self) -> Account:
        """Return the account of this process with the groups of this session.

        Groups that were added after login take effect in the next session.
        """
        uid = os.geteuid()
        return Account(_user(uid), uid, frozenset(map(_group, [os.getegid(), *os.getgroups()])))

    def nodes(self, pattern: str) -> dict[str, Node]:
        """Return the character devices whose path matches ``pattern``."""
        found = {}
        for path in sorted(glob.glob(pattern)):
            try:
                state = os.stat(path)
            except OSError as error:
                raise UndeterminedError(
                    f"cannot stat {path}: {error.strerror}", code="doctor.unreadable"
                ) from error
            if stat.S_ISCHR(state.st_mode):
                found[path] = Node(
                    _user(state.st_uid),
                    _group(state.st_gid),
                    stat.S_IMODE(state.st_mode),
                    granted=os.access(path, os.R_OK | os.W_OK, effective_ids=True),
                )
        return found

    def free_bytes(self, path: str) -> tuple[str, int]:
        """Return the nearest existing folder at or above ``path``, and the free bytes of its file system."""
        place = Path(path)
        try:
            while not place.exists():
                place = place.parent
            return str(place), shutil.disk_usage(place).free
        except OSError as error:
            raise UndeterminedError(
                f"cannot read the free space of {place}: {error.strerror}", code="doctor.unreadable"
            ) from error

    def clock_synchronized(self) -> bool:
        """Return whether the kernel considers its clock synchronized."""
        # modes is 0, which makes the call read-only.
        timex = _Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
        if state < 0:
            raise UndeterminedError(
                f"adjtimex(2) failed: {os.strerror(ctypes.get_errno())}", code="doctor.unreadable"
            )
        return state != _TIME_ERROR and not timex.status & _STA_UNSYNC

    def library_folders(self) -> Sequence[str]:
        """Return the import path of this Python, relative to the root."""
        return [os.path.abspath(folder)[1:] for folder in sys.path if folder]

    def program(self, name: str) -> str:
        """Return the program next to this Python if it exists, else that on ``PATH``, quoted for a shell."""
        sibling = os.path.join(os.path.dirname(sys.executable), name)
        return shlex.quote(sibling if os.path.exists(sibling) else shutil.which(name) or name)

    def needs_root_to_install(self) -> bool:
        """Return whether this account cannot write to the environment of this Python."""
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
