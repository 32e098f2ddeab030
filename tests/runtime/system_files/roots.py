"""Roots to install on, and their contents."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from jepa_runtime.system_files.shipped import Shipped

# A file system on which fsync is fast.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# Paths with a time of change, owner, permissions and content.
Snapshot = dict[str, tuple[object, ...]]


def file(path: str, text: str, device: str = "common") -> Shipped:
    return Shipped(path=path, device=device, content=text.encode())


FILES: Sequence[Shipped] = (
    file("etc/sysctl.d/60-jepa.conf", "net.core.rmem_max = 33554432\n"),
    file("etc/systemd/system/jepa.service", "[Service]\nExecStart=/bin/true\n"),
    file("usr/local/lib/jepa-edge/tool", "#!/bin/sh\nexit 0\n"),
)


def snapshot(root: Path, *, without_times: Sequence[str] = ()) -> Snapshot:
    """Return every path below ``root`` with all observable properties.

    Args:
        without_times: Folders whose time of change is ignored.
    """
    result: Snapshot = {}
    for folder, folders, files in os.walk(root):
        for name in (".", *folders, *files):
            if name == "." and folder != str(root):
                continue
            path = os.path.normpath(os.path.join(folder, name))
            relative, status = os.path.relpath(path, root), os.lstat(path)
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            xattrs = (
                {}
                if stat.S_ISLNK(status.st_mode)
                else {name: os.getxattr(path, name) for name in os.listxattr(path)}
            )
            time_ns = 0 if relative in without_times else status.st_mtime_ns
            result[relative] = (status.st_mode, status.st_uid, status.st_gid, time_ns, content, xattrs)
    return result


def fill(root: Path) -> None:
    """Create a root with a file, a link and permissions of its own at our paths."""
    (root / "etc/sysctl.d").mkdir(parents=True)
    (root / "etc/systemd/system").mkdir(parents=True)
    theirs = root / FILES[0].path
    theirs.write_bytes(b"net.core.rmem_max = 1 # \xff\n")
    theirs.chmod(0o4640)
    (root / FILES[1].path).symlink_to("/dev/null")
    for path in (theirs, root / FILES[1].path, root / "etc/sysctl.d", root / "etc", root):
        os.utime(path, ns=(1_000_000_001, 1_234_567_891), follow_symlinks=False)
