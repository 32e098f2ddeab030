"""A world_model node and an update manager under two accounts, as in the systemd units."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.ota import robot, state
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.release import Budgets
from tests.conftest import ROOT
from tests.ota.repositories import Repository
from tests.ota.robots import release_of, settings, variant

UPDATES, SERVES, GROUP = 61001, 61002, 61001
# Arguments: an empty folder, a folder to expose, its inaccessible parent, and a command.
_REACHABLE = """
mount --bind "$2" "$1"
mount -t tmpfs -o mode=755 tmpfs "$3"
mkdir -p "$2"
mount --bind "$1" "$2"
shift 3
exec "$@"
"""
PROFILES = ROOT / "firmware_configs/common/etc/jepa-edge"

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run programs under other accounts"),
    pytest.mark.skipif(
        os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"]).returncode != 0,
        reason="root may not mount here",
    ),
]


def under(uid: int, folder: Path) -> list[str]:
    """Return the command prefix that runs a program under an account.

    Its view of the file system includes this Python, even if that is in root's home.

    Args:
        uid: User ID.
        folder: Empty folder to mount on.
    """
    account = ["setpriv", f"--reuid={uid}", f"--regid={GROUP}", "--clear-groups"]
    base = Path(sys.base_prefix)
    closed = [path for path in (*reversed(base.parents), base) if not path.stat().st_mode & 0o001]
    if not closed:
        return account
    return [
        "unshare",
        "--mount",
        "sh",
        "-ec",
        _REACHABLE,
        "sh",
        str(folder),
        str(base),
        str(closed[0]),
        *account,
    ]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Create a folder accessible to every account, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="accounts-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_update_across_two_accounts_activates_the_release(
    shared_graph: Any, toy_bundle: Path, open_path: Path
) -> None:
    bundles = [variant(toy_bundle, open_path / version, version) for version in ("1.0.0", "2.0.0")]
    repository = Repository(open_path / "repository", now=datetime.now(timezone.utc))
    root, writes, logs = open_path / "robot", open_path / "writes", open_path / "logs"
    configured = settings(repository=str(repository.folder), health_window_s=1.0)
    provision(root, configured, repository.first_root, bundle=bundles[0].path)
    repository.release(bundles[1], release_of(bundles[1], 2, budgets=Budgets(max_error_ratio=None)))
    for folder, uid, mode in ((writes, SERVES, 0o2770), (logs, SERVES, 0o777)):
        folder.mkdir()
        os.chown(folder, uid, GROUP)
        folder.chmod(mode)
    (root / "serving").symlink_to(writes)
    mounted = open_path / "mounted"
    mounted.mkdir()
    subprocess.run(["chown", "-hR", f"{UPDATES}:{GROUP}", root], check=True)

    processes = []

    def start(node: str, uid: int, profile: str, **parameters: Any) -> None:
        from tests.ros.graph import executable

        given = [
            part for name, value in parameters.items() for part in ("-p", f"{name}:={json.dumps(value)}")
        ]
        environment = os.environ | {
            "HOME": str(logs),
            "ROS_DOMAIN_ID": str(shared_graph.domain),
            "ROS_LOG_DIR": str(logs),
            # With LOCALHOST, Fast DDS discovers other nodes only by shared memory.
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
            "FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILES / profile),
            "FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILES / profile),
        }
        command = [executable(node), "--ros-args", "-r", "image:=camera/image_raw", *given]
        with (open_path / f"{node}.log").open("wb") as log:
            processes.append(
                subprocess.Popen([*under(uid, mounted), *command], env=environment, stdout=log, stderr=log)
            )

    try:
        start("camera", SERVES, "fastdds.xml", source="two_rooms")
        start("world_model", SERVES, "fastdds.xml", bundle=str(root / "current"), lock_memory=False)
        start(
            "update_manager",
            UPDATES,
            "fastdds_udp.xml",
            root=str(root),
            require_safe=False,
            auto=True,
            discovery_s=30.0,
        )
        ends = time.monotonic() + 100
        while (stored := state.load(root / robot.STATE)).result != "updated":
            assert time.monotonic() < ends, f"{stored}" + "".join(
                f"\n--- {log.name}\n{log.read_text()[-2000:]}" for log in open_path.glob("*.log")
            )
            time.sleep(0.2)
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(30) for process in processes]
    assert codes == [0, 0, 0]
    assert "loaded toy 2.0.0" in (open_path / "world_model.log").read_text(), "swapped by its service"

    trusted = [root, *(path for path in root.rglob("*") if not path.is_symlink())]
    tries = "import os, sys; sys.exit(any(os.access(path, os.W_OK) for path in sys.argv[1:]))"
    ended = subprocess.run([*under(SERVES, mounted), sys.executable, "-c", tries, *trusted])
    assert ended.returncode == 0, "the serving process can write something that updates trust"
