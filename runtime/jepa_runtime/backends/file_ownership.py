"""Ownership checks of compiled models: they are code, so only trusted accounts may write them."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection


def is_own(found: os.stat_result, *, owners: Collection[int] = ()) -> bool:
    """Return whether no other account can write a file, or replace files of this account in a folder.

    In a sticky folder other accounts cannot. The private group of this account may write (umask 002).

    Args:
        found: The status of the file or folder.
        owners: Other trusted accounts.
    """
    others = stat.S_IWOTH if _is_private(found.st_gid) else stat.S_IWOTH | stat.S_IWGRP
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    return found.st_uid in (0, os.geteuid(), *owners) and bool(sticky or not found.st_mode & others)


def _is_private(gid: int) -> bool:
    """Return whether a group has the name of this account and no other members."""
    try:
        account, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    alone = set(group.gr_mem) <= {account.pw_name}
    return alone and (account.pw_gid, account.pw_name) == (gid, group.gr_name)
