"""The accounts from which compiled models are taken: they are code."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection


def is_own(found: os.stat_result, *, owners: Collection[int] = ()) -> bool:
    """Whether nobody else can write a file, or exchange what this account has put into a folder: in a sticky
    one they cannot. A group that this account has to itself may write (umask 002).

    Args:
        owners: accounts that are trusted as well.
    """
    others = stat.S_IWOTH if _is_private(found.st_gid) else stat.S_IWOTH | stat.S_IWGRP
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    return found.st_uid in (0, os.geteuid(), *owners) and bool(sticky or not found.st_mode & others)


def _is_private(gid: int) -> bool:
    """Whether a group is of this account's name, and has no other members."""
    try:
        account, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    alone = set(group.gr_mem) <= {account.pw_name}
    return alone and (account.pw_gid, account.pw_name) == (gid, group.gr_name)
