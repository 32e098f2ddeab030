"""The account that owns a robot's folder: files of another account in it would block later updates."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from pathlib import Path

from jepa_runtime.errors import UpdateError


def require_owner(folder: Path) -> None:
    """Check that this process runs as the owner of a folder; a missing folder passes.

    Raises:
        UpdateError: The folder belongs to another account.
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
        f"{folder}: belongs to {account_name(owner)}, who could not replace files that "
        f"{account_name(os.geteuid())} writes there: run `sudo -u {account_name(owner)} {command}`",
        code="update.wrong_account",
    )


def account_name(uid: int) -> str:
    """Return the name of an account, or ``#UID`` (as sudo accepts it) if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
