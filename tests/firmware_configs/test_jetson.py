"""The scripts for a Jetson, with NVIDIA's documented configuration and stand-ins for its programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

JETSON = ROOT / "firmware_configs" / "jetson"
PROGRAMS = JETSON / "usr" / "local" / "lib" / "jepa-edge"
# Modes listed in the developer guides for each module, in the documented layout.
ORIN_NANO = ("15W", "25W", "MAXN_SUPER", "7W")
AGX_ORIN = ("MAXN", "MODE_15W", "MODE_30W", "MODE_50W")
THOR = ("MAXN", "120W", "90W", "70W")
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


def nvpmodel_conf(modes: tuple[str, ...]) -> str:
    lines = [
        "# < POWER_MODEL ID=9 NAME=NOT_THIS_ONE >",
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >",
        "CORE_0 /sys/devices/system/cpu/cpu0/online",
        "< PARAM TYPE=CLOCK NAME=GPU >",
        "MAX_FREQ /sys/class/devfreq/17000000.gpu/max_freq",
    ]
    for number, name in enumerate(modes):
        lines += [f"< POWER_MODEL ID={number} NAME={name} >", "CPU_ONLINE CORE_0 1", "GPU MAX_FREQ -1", ""]
    return "\n".join([*lines, "< PM_CONFIG DEFAULT=1 >", ""])


class FakeNvpmodel:
    """Fake NVIDIA's nvpmodel: store a mode, and fail where it would require a restart."""

    def __init__(self, folder: Path, modes: tuple[str, ...]) -> None:
        self.conf, self.mode, self.calls = folder / "nvpmodel.conf", folder / "mode", folder / "calls"
        self.conf.write_text(nvpmodel_conf(modes))
        self.mode.write_text("1\n")
        self.calls.touch()
        self._bin = folder / "bin"
        self._bin.mkdir()
        (self._bin / "nvpmodel").write_text(
            "#!/bin/sh\n"
            f'echo "$*" >>{self.calls}\n'
            f'if [ "$1" = -q ]; then echo "NV Power Mode: X"; cat {self.mode}; exit; fi\n'
            'if [ "$2" = 3 ]; then read -r answer || exit 1; fi\n'
            f'echo "$2" >{self.mode}\n'
        )
        (self._bin / "nvpmodel").chmod(0o755)

    def run(self, mode: str, shell: str = "sh") -> subprocess.CompletedProcess[str]:
        shells = {"busybox": ["busybox", "sh"]}
        environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "NVPMODEL_CONF": str(self.conf),
            "POWER_MODES": mode,
        }
        return subprocess.run(
            [*shells.get(shell, [shell]), PROGRAMS / "power-mode"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("modes", "mode", "number"),
    [
        (ORIN_NANO, "MAXN_SUPER MAXN", 2),
        (AGX_ORIN, "MAXN_SUPER MAXN", 0),
        (AGX_ORIN, "MODE_30W", 2),
        (THOR, "MAXN_SUPER MAXN", 0),
        (THOR, "90W", 2),
    ],
)
def test_power_mode_is_selected_by_name(
    tmp_path: Path, shell: str, modes: tuple[str, ...], mode: str, number: int
) -> None:
    nvpmodel = FakeNvpmodel(tmp_path, modes)
    done = nvpmodel.run(mode, shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"power mode {modes[number]} ({number}) set\n"
    assert nvpmodel.mode.read_text() == f"{number}\n"


def test_power_mode_already_set_is_not_set_again(tmp_path: Path) -> None:
    nvpmodel = FakeNvpmodel(tmp_path, THOR)
    assert nvpmodel.run("120W").stdout == "power mode 120W (1) is set\n"
    assert nvpmodel.calls.read_text() == "-q\n"


@pytest.mark.parametrize("mode", ["MAXIMUM", "15", "W", "NOT_THIS_ONE"])
def test_power_mode_unknown_is_an_error_that_lists_the_modes(tmp_path: Path, mode: str) -> None:
    nvpmodel = FakeNvpmodel(tmp_path, ORIN_NANO)
    done = nvpmodel.run(mode)
    assert done.returncode == 1
    assert done.stderr.endswith(f"has none of: {mode}; it has: 15W 25W MAXN_SUPER 7W\n")
    assert nvpmodel.mode.read_text() == "1\n"


def test_power_mode_that_needs_a_reboot_is_an_error(tmp_path: Path) -> None:
    done = FakeNvpmodel(tmp_path, ORIN_NANO).run("7W")
    assert done.returncode == 1 and "set it once by hand: nvpmodel -m 3" in done.stderr


def test_power_mode_without_name_or_jetson_is_an_error(tmp_path: Path) -> None:
    nvpmodel = FakeNvpmodel(tmp_path, THOR)
    assert "name a mode in /etc/default/jepa-power-mode" in nvpmodel.run("").stderr
    nvpmodel.conf.unlink()
    assert "is this a Jetson?" in nvpmodel.run("MAXN").stderr


FAN = """POLLING_INTERVAL 2
<FAN 1>
\tFAN_PROFILE quiet {
\t\t#TEMP HYST PWM RPM
\t\t0 0 0 0
\t}
\tFAN_PROFILE cool {
\t\t0 0 0 0
\t}
\tFAN_DEFAULT_CONTROL open_loop
\tFAN_DEFAULT_PROFILE quiet
\tFAN_DEFAULT_GOVERNOR pid
"""


# At exit, store the initial profile in the status file.
SYSTEMCTL = """#!/bin/sh
cd "$(dirname "$0")"
echo "$*" >>calls
case "$*" in
  "-q is-active nvfancontrol.service") [ -e running ] ;;
  "stop nvfancontrol.service") mv running status ;;
  "--no-block start nvfancontrol.service") [ -e status ] || grep FAN_DEFAULT_PROFILE nvfancontrol.conf >status
    mv status running ;;
  *) exit 1 ;;
esac
"""


def fan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "systemctl").write_text(SYSTEMCTL)
    (folder / "systemctl").chmod(0o755)
    environment = os.environ | {
        "NVFANCONTROL_CONF": str(folder / "nvfancontrol.conf"),
        "NVFANCONTROL_STATUS": str(folder / "status"),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    command = ["sh", PROGRAMS / "fan-profile", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_fan_profile_is_set_through_a_link_and_restored(tmp_path: Path) -> None:
    board, status = tmp_path / "board.conf", tmp_path / "status"
    board.write_text(FAN)
    (tmp_path / "nvfancontrol.conf").symlink_to(board)
    status.touch()
    assert fan(tmp_path, "set", "cool", str(tmp_path / "before")).returncode == 0
    assert board.read_text() == FAN.replace("FAN_DEFAULT_PROFILE quiet", "FAN_DEFAULT_PROFILE cool")
    assert not status.exists() and (tmp_path / "nvfancontrol.conf").is_symlink()
    assert fan(tmp_path, "restore", str(tmp_path / "before")).returncode == 0
    assert board.read_text() == FAN


def test_fan_profile_unknown_is_an_error_that_lists_the_profiles(tmp_path: Path) -> None:
    (tmp_path / "nvfancontrol.conf").write_text(FAN)
    done = fan(tmp_path, "set", "silent", str(tmp_path / "before"))
    assert done.returncode == 1 and "has no profile silent; it has: quiet cool" in done.stderr
    assert (tmp_path / "nvfancontrol.conf").read_text() == FAN


def test_fan_profile_previous_survives_a_power_cut(tmp_path: Path) -> None:
    (tmp_path / "nvfancontrol.conf").write_text(FAN)
    before = tmp_path / "before"
    for _ in range(2):
        assert fan(tmp_path, "set", "cool", str(before)).returncode == 0
    assert fan(tmp_path, "restore", str(before)).returncode == 0
    assert (tmp_path / "nvfancontrol.conf").read_text() == FAN and not before.exists()
    unit = (JETSON / "etc/systemd/system/jepa-fan-profile.service").read_text()
    assert "StateDirectory=jepa-fan-profile" in unit and "/var/lib/jepa-fan-profile/before" in unit


def test_fan_profile_restarts_a_running_daemon(tmp_path: Path) -> None:
    (tmp_path / "nvfancontrol.conf").write_text(FAN)
    running = tmp_path / "running"
    running.write_text("FAN_DEFAULT_PROFILE quiet")
    assert fan(tmp_path, "set", "cool", str(tmp_path / "before")).returncode == 0
    assert running.read_text().split() == ["FAN_DEFAULT_PROFILE", "cool"]
    assert fan(tmp_path, "restore", str(tmp_path / "before")).returncode == 0
    assert running.read_text().split() == ["FAN_DEFAULT_PROFILE", "quiet"]


def test_fan_profile_failure_restarts_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "nvfancontrol.conf").write_text(FAN)
    (tmp_path / "running").touch()
    (tmp_path / "status").mkdir()
    assert fan(tmp_path, "set", "cool", str(tmp_path / "before")).returncode != 0
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "--no-block start nvfancontrol.service"


def test_fan_profile_does_not_block_a_starting_daemon(tmp_path: Path) -> None:
    (tmp_path / "nvfancontrol.conf").write_text(FAN)
    assert fan(tmp_path, "set", "cool", str(tmp_path / "before")).returncode == 0
    assert (tmp_path / "calls").read_text().splitlines() == ["-q is-active nvfancontrol.service"]
