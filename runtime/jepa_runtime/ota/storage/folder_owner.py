"""The account that may change a robot's folder: files of another one there stop all later updates."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from pathlib import Path

from jepa_runtime.errors import UpdateError


def require_owner(folder: Path) -> None:
    """Check that this process runs as the account that owns a folder; one that is not there has no owner yet.

    Raises:
        UpdateError: it belongs to another account; the message has the command to run.
    """
    try:
        owner = folder.stat().st_uid
    except OSError:
        return
    if owner == os.geteuid():
        return
    program, *arguments = sys.argv
    command = shlex.join([program, *arguments]) if Path(program).name == "jepa-runtime" else "…"
    raise UpdateError(
        f"{folder}: belongs to {account_name(owner)}, which could not replace files that "
        f"{account_name(os.geteuid())} writes there: run `sudo -u {account_name(owner)} {command}`"
    )


def account_name(uid: int) -> str:
    """The name of an account, or ``#UID`` (as sudo takes it) where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
