"""The system files, read by the programs that they configure, in an otherwise empty root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jepa_runtime.system_files.shipped import DEVICES, find_shipped
from jepa_runtime.system_files.transaction import apply
from tests.conftest import ROOT

UNITS = sorted(path.name for path in (ROOT / "firmware_configs").glob("*/etc/systemd/system/*.service"))
# Programs started by the units that are not installed here.
PROGRAMS = ("bin/bash", "usr/bin/systemctl", "usr/bin/jetson_clocks", "opt/jepa-edge/bin/jepa-runtime")
_AS_ROOT = ("jepa-clocks.service", "jepa-fan-profile.service", "jepa-power-mode.service")
_WITHOUT_GPU = ("jepa-fan-profile.service",)


def needs(program: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a root with all shipped files and the system units that they refer to."""
    root = tmp_path_factory.mktemp("root")
    apply(root, find_shipped(DEVICES))
    for program in PROGRAMS:
        path = root / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    if Path("/usr/lib/systemd/system").is_dir():
        shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    yield root


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def verify(root: Path, unit: str) -> subprocess.CompletedProcess[str]:
    return run("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", f"--root={root}", unit)


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_accepted_by_systemd(root: Path, unit: str) -> None:
    done = verify(root, unit)
    assert (done.returncode, done.stderr) == (0, "")


@needs("systemd-analyze")
def test_verify_detects_an_invalid_unit(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "root", symlinks=True)
    unit = copy / "etc/systemd/system/jepa-run.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=60", "WatchdogSec=soon"))
    assert "Failed to parse WatchdogSec" in verify(copy, unit.name).stderr


@needs("systemd-analyze")
def test_realtime_drop_in_is_accepted_by_systemd(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "root", symlinks=True)
    example = copy / "etc/systemd/system/jepa-run.service.d/60-realtime.conf.example"
    example.rename(example.with_suffix(""))
    done = verify(copy, "jepa-run.service")
    assert (done.returncode, done.stderr) == (0, "")
    merged = run("systemd-analyze", "cat-config", f"--root={copy}", "systemd/system/jepa-run.service")
    assert "CPUSchedulingPolicy=fifo" in merged.stdout


@needs("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS)
def test_unit_exposure_is_limited(root: Path, unit: str) -> None:
    # NVIDIA's tools run as root, and the capabilities they need are not documented.
    threshold = 65 if unit in _AS_ROOT else 30
    path = root / "etc/systemd/system" / unit
    done = run("systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", path)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({}, None),
        (
            {"JEPA_LAUNCH": "planner:=true params_file:=/etc/p.yaml", "ROS_DISTRO": "humble"},
            ["planner:=true", "params_file:=/etc/p.yaml"],
        ),
    ],
)
@pytest.mark.parametrize(
    ("unit", "launch", "default"),
    [
        (
            "jepa-bringup.service",
            ["world_model.launch.py", "bundle:=/var/lib/jepa-edge/current"],
            ["source:=/dev/video0", "use_respawn:=true"],
        ),
        (
            "jepa-update-manager.service",
            ["update_manager.launch.py", "update_root:=/var/lib/jepa-edge", "image_topic:=camera/image_raw"],
            ["use_respawn:=true"],
        ),
    ],
)
def test_launch_uses_distribution_and_arguments_of_the_environment(
    root: Path,
    tmp_path: Path,
    unit: str,
    launch: list[str],
    default: list[str],
    variables: dict[str, str],
    arguments: list[str] | None,
) -> None:
    text = (root / "etc/systemd/system" / unit).read_text()
    defaults = dict(re.findall(r'^Environment="?(JEPA_LAUNCH|ROS_DISTRO)=(.*?)"?$', text, re.MULTILINE))
    started = re.search(r"^ExecStart=/bin/bash -c '(.*?)'$", text, re.MULTILINE | re.DOTALL)
    assert started
    chosen = defaults | variables
    setups = [f"/opt/ros/{chosen['ROS_DISTRO']}/setup.bash", "/opt/jepa-edge/ros2_ws/install/setup.bash"]
    for setup in setups:
        (tmp_path / setup[1:]).parent.mkdir(parents=True)
        (tmp_path / setup[1:]).write_text(f"echo {setup}\n")
    script = started[1].replace(". /opt/", f". {tmp_path}/opt/").replace("\\\n", " ")
    for program, code in (("ros2", 0), ("fastdds", 1)):
        (tmp_path / program).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"; exit {code}\n')
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **chosen}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    cleans = ["shm", "clean"] if launch[0] == "world_model.launch.py" else []
    command = ["launch", "jepa_bringup", *launch, *(default if arguments is None else arguments)]
    assert done.stdout.split("\n")[:-1] == [*setups, *cleans, *command]


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({}, 0),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "0"}, 0),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, 78),
        ({"ROS_LOCALHOST_ONLY": "1", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, 78),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, 0),
    ],
)
def test_update_manager_that_cannot_reach_the_world_model_is_not_started(
    root: Path, environment: dict[str, str], code: int
) -> None:
    text = (root / "etc/systemd/system/jepa-update-manager.service").read_text()
    checked = re.search(r"^ExecStartPre=/bin/bash -c '(.*?)'$", text, re.MULTILINE | re.DOTALL)
    assert checked
    # systemd joins lines that end in a backslash.
    script = checked[1].replace("\\\n", " ")
    done = subprocess.run(["bash", "-c", script], env={"PATH": "/usr/bin:/bin", **environment}, check=False)
    assert done.returncode == code


@pytest.mark.parametrize(
    ("serves", "updates"),
    [("jepa-run.service", "jepa-update.service"), ("jepa-bringup.service", "jepa-update-manager.service")],
)
def test_serving_account_cannot_write_what_updates_trust(root: Path, serves: str, updates: str) -> None:
    """With and without ROS. StateDirectory gives a folder to the account of its unit."""

    def settings(unit: str) -> dict[str, str]:
        text = (root / "etc/systemd/system" / unit).read_text()
        return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))

    serving, updating = settings(serves), settings(updates)
    assert (serving["User"], serving["Group"], updating["User"]) == ("jepa-run", "jepa", "jepa")
    assert "StateDirectory" not in serving and "CacheDirectory" not in serving
    assert serving["ReadWritePaths"] == "-/var/lib/jepa-edge-run" and serving["ProtectSystem"] == "strict"


@needs("systemd-sysusers")
@needs("systemd-tmpfiles")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts, also on another root")
def test_accounts_and_folders_are_created(root: Path) -> None:
    assert run("systemd-sysusers", f"--root={root}").returncode == 0
    lines = (root / "etc/passwd").read_text().splitlines()
    accounts = {line.partition(":")[0]: line for line in lines}
    _, _, uid, gid, _, home, shell = accounts["jepa"].split(":")
    assert (home, shell) == ("/var/lib/jepa-edge", "/usr/sbin/nologin")
    groups = dict(line.split(":", 1) for line in (root / "etc/group").read_text().splitlines())
    for group in ("video", "render"):
        assert set(groups[group].split(":")[-1].split(",")) == {"jepa", "jepa-run"}
    done = run("systemd-tmpfiles", "--create", f"--root={root}", "--prefix=/var", "jepa.conf")
    assert (done.returncode, done.stderr) == (0, "")
    for folder in ("var/lib/jepa-edge", "var/cache/jepa-edge", "var/log/jepa-edge"):
        assert (root / folder).stat().st_uid == int(uid)
    serves = accounts["jepa-run"].split(":")
    assert (root / "var/log/jepa-edge-run").stat().st_uid == int(serves[2])
    writes = (root / "var/lib/jepa-edge/serving").resolve()
    assert writes == root / "var/lib/jepa-edge-run"
    stat = writes.stat()
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (int(serves[2]), int(gid), 0o2770)


@pytest.mark.parametrize("unit", ["jepa-bringup.service", "jepa-update-manager.service"])
def test_ros_logs_are_deleted_after_a_week(root: Path, unit: str) -> None:
    """Each start of a node creates one: every two seconds for an unplugged camera."""
    text = (root / "etc/systemd/system" / unit).read_text()
    folder = re.search(r"^Environment=ROS_LOG_DIR=(.*)$", text, re.MULTILINE)
    rules = (root / "etc/tmpfiles.d/jepa.conf").read_text()
    assert folder and re.search(rf"^d {folder[1]} .* \d+d$", rules, re.MULTILINE)


@needs("systemd-tmpfiles")
def test_governor_is_written_to_every_cpu_policy(root: Path) -> None:
    policies = [root / f"sys/devices/system/cpu/cpufreq/policy{number}" for number in range(2)]
    for policy in policies:
        policy.mkdir(parents=True)
        (policy / "scaling_governor").write_text("powersave\n")
    done = run(
        "systemd-tmpfiles", "--create", "--boot", f"--root={root}", "--prefix=/sys", "jepa-governor.conf"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {(policy / "scaling_governor").read_text().strip() for policy in policies} == {"performance"}


@needs("udevadm")
def test_rules_are_accepted_by_udev(root: Path) -> None:
    done = run("udevadm", "verify", "--resolve-names=never", f"--root={root}")
    assert done.returncode == 0 and "Success: 3" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("unit", "key", "others"),
    [
        *((unit, "After", {"nv-load-display-modules.service"}) for unit in UNITS if unit not in _WITHOUT_GPU),
        ("jepa-power-mode.service", "Before", {"jepa-build-engine.service", "jepa-run.service"}),
        ("jepa-clocks.service", "Before", {"jepa-build-engine.service", "jepa-run.service"}),
        ("jepa-build-engine.service", "Before", {"jepa-run.service", "jepa-bringup.service"}),
    ],
)
def test_units_start_after_gpu_driver_and_clocks(root: Path, unit: str, key: str, others: set[str]) -> None:
    text = (root / "etc/systemd/system" / unit).read_text()
    named = re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
    assert others <= set(" ".join(named).split())


@pytest.mark.parametrize(
    "unit", ["jepa-update.service", "jepa-update-manager.service", "jepa-bringup.service"]
)
def test_unit_continues_when_memory_runs_out(root: Path, unit: str) -> None:
    """By default systemd stops a unit when one of its processes was killed for lack of memory."""
    assert "\nOOMPolicy=continue\n" in (root / "etc/systemd/system" / unit).read_text()


@needs("systemd-analyze")
def test_journal_is_limited(root: Path) -> None:
    merged = run("systemd-analyze", "cat-config", f"--root={root}", "systemd/journald.conf").stdout
    assert "SystemMaxUse=500M" in merged and "RateLimitBurst=1000" in merged


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit not in _AS_ROOT])
def test_system_call_filter_has_landlock(root: Path, unit: str) -> None:
    """Before systemd 257 @system-service lacks them, and a probe would write to the disk."""
    text = (root / "etc/systemd/system" / unit).read_text()
    allowed = re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)
    calls = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}
    assert calls <= set(" ".join(allowed).split())


def test_units_do_not_wait_for_the_network(root: Path) -> None:
    for unit in ("jepa-update.service", "jepa-run.service"):
        lines = re.findall(r"^[^#].*$", (root / "etc/systemd/system" / unit).read_text(), re.MULTILINE)
        assert not any("network-online" in line for line in lines)


def test_shipped_paths_are_unique() -> None:
    paths = [file.path for file in find_shipped(DEVICES)]
    assert sorted(set(paths)) == paths


def test_shipped_files_do_not_affect_booting() -> None:
    assert not [file.path for file in find_shipped(DEVICES) if file.path.startswith("boot/")]
