"""Whose compiled models are: they are code, and are taken from this account and root alone."""

from __future__ import annotations

import os
import stat


def is_own(found: os.stat_result) -> bool:
    """Whether nobody else can write a file, or exchange what this account has put into a folder: in a sticky
    one they cannot. Who is of this account's own group may: where umask is 002, each account has one to
    itself."""
    others = stat.S_IWOTH if found.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    return found.st_uid in (0, os.geteuid()) and bool(sticky or not found.st_mode & others)
