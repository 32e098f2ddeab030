"""Models that crash the machine while they are opened, on a booted Debian: systemd as PID 1, the shipped
units and accounts, and a power cut at each boot."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jepa_runtime.ota import robot, state
from jepa_runtime.ota.health.trial_counter import MAX_ATTEMPTS, MAX_BOOTS
from jepa_runtime.ota.state import Phase
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.system_files.shipped import find_shipped
from jepa_runtime.system_files.transaction import apply
from tests.conftest import ROOT
from tests.ota.fleets import Fleet, edit
from tests.ota.robots import Died, Gate, Serving, client_arguments, dies_in

_PACKAGES = "systemd,systemd-sysv,python3,libgl1,libglib2.0-0,libxcb1"
# No camera, which a container lacks; and updates without a check while a test waits.
_DROP_INS = {
    "jepa-run.service.d/test.conf": "[Service]\nExecStart=\nExecStart=/opt/jepa-edge/bin/jepa-runtime run "
    "--robot /var/lib/jepa-edge --source two_rooms --rate 30\n",
}
_BOOT_S, _END_S = 120.0, 180.0
_NEEDED = ("mmdebstrap", "systemd-nspawn", "systemd-sysusers", "systemctl")

pytestmark = [
    pytest.mark.slow,
    # A Debian system is built, and booted up to seven times.
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a container"),
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in _NEEDED), reason=f"needs {', '.join(_NEEDED)}"
    ),
]


def suite() -> str:
    """Return the release of Debian whose libraries match the Python of these tests."""
    reported = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    return reported.get("VERSION_CODENAME", "").strip('"')


class Machine:
    """Return a Debian system in a folder, with a robot set up as in firmware_configs/README.md."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "var/lib/jepa-edge"
        self.writes = folder / "var/lib/jepa-edge-run"
        created = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", suite(), folder],
            capture_output=True,
            text=True,
        )
        if created.returncode:
            pytest.skip(f"no Debian could be made here: {created.stderr.strip()[-200:]}")
        apply(folder, find_shipped(("common",)))
        units = folder / "etc/systemd/system"
        for name, content in _DROP_INS.items():
            (units / name).parent.mkdir(exist_ok=True)
            (units / name).write_text(content)
        program = folder / "opt/jepa-edge/bin/jepa-runtime"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {Path(sys.executable).with_name("jepa-runtime")} "$@"\n')
        program.chmod(0o755)
        # The Python of these tests may be in root's home.
        (folder / "root").chmod(0o755)
        for command in (["systemd-sysusers"], ["systemctl", "enable", "jepa-run", "jepa-update"]):
            subprocess.run([command[0], f"--root={folder}", *command[1:]], check=True, capture_output=True)

    def take(self, fleet: Fleet) -> None:
        """Bind the robot's folder and the repository."""
        repository = self.folder / "srv/repository"
        for left in (repository, self.root, self.writes):
            if left.exists():
                shutil.rmtree(left)
        shutil.copytree(fleet.repository.folder, repository)
        edit(fleet.root, repository="/srv/repository")
        shutil.copytree(fleet.root, self.root, symlinks=True)
        accounts = dict(line.split(":", 1) for line in (self.folder / "etc/passwd").read_text().splitlines())
        uid, gid = accounts["jepa"].split(":")[1:3]
        subprocess.run(["chown", "-hR", f"{uid}:{gid}", self.root], check=True)

    @contextmanager
    def booted(self) -> Iterator[None]:
        """Boot until a power cut."""
        paths = dict.fromkeys(str(Path(path)) for path in (ROOT, sys.prefix, sys.base_prefix))
        command = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            # A folder of the same name or leftovers of a killed one would conflict.
            f"--machine=boot-{uuid.uuid4().hex[:12]}",
            "--directory",
            self.folder,
        ]
        with (self.folder.parent / "console").open("ab") as console:
            process = subprocess.Popen(
                [*command, *(f"--bind-ro={path}" for path in paths)],
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            )  # fmt: skip
        try:
            yield
        finally:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()

    def opens(self) -> str:
        """Return the model that the serving process opens or serves in this boot, or an empty string."""
        try:
            return (self.writes / "what").read_text().split()[1]
        except (OSError, IndexError):
            return ""

    def forget(self) -> None:
        """Let :meth:`opens` refer to the next boot: after a power cut nothing else reads that file."""
        (self.writes / "what").unlink(missing_ok=True)


def waits(holds: Callable[[], bool], within_s: float) -> bool:
    ends = time.monotonic() + within_s
    while not holds():
        if time.monotonic() >= ends:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("debian")
    yield Machine(folder / "root")
    subprocess.run(["rm", "-rf", folder], check=True)


def test_candidate_that_crashes_the_machine_is_rolled_back_after_three_boots(
    machine: Machine, tmp_path: Path, toy_bundle: Path
) -> None:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    fleet.publish(fleet.bundles[1], 1)
    serving = Serving()
    serving.swap(fleet.root / "current")
    with (
        pytest.raises(Died),
        robot.open_client(
            fleet.root,
            **client_arguments(gate=Gate(), serving=serving, on_state=dies_in(Phase.OBSERVE)),
        ) as client,
    ):
        client.update()
    good, candidate = (bundle.sha256 for bundle in fleet.bundles[:2])
    assert fleet.version == "2.0.0"
    machine.take(fleet)

    opened, ended = boot_until_another_opens(
        machine, candidate, MAX_ATTEMPTS, lambda: SlotStore(machine.root).current() == good
    )
    assert opened == [candidate] * MAX_ATTEMPTS + [good]
    state = _kept(machine)
    assert ended and state.result in ("rejected", "unchanged", "failed"), state
    assert state.current == state.good and f"was opened {MAX_ATTEMPTS} times in {MAX_ATTEMPTS} boots" in (
        state.rejections[candidate].reason
    )


def test_active_model_that_crashes_the_machine_is_replaced_after_five_boots(
    machine: Machine, tmp_path: Path, toy_bundle: Path
) -> None:
    fleet = Fleet(tmp_path, toy_bundle)
    assert fleet.provision() == 0
    fleet.publish(fleet.bundles[1], 1)
    with robot.open_client(fleet.root, **client_arguments(gate=Gate(), serving=Serving())) as client:
        assert client.update().result == "updated"
    earlier, active = (bundle.sha256 for bundle in fleet.bundles[:2])
    machine.take(fleet)

    opened, ended = boot_until_another_opens(
        machine, active, MAX_BOOTS, lambda: SlotStore(machine.root).good() == earlier
    )
    assert opened == [active] * MAX_BOOTS + [earlier]
    state = _kept(machine)
    assert ended and SlotStore(machine.root).current() == earlier, state
    assert f"was opened in {MAX_BOOTS} consecutive boots" in state.rejections[active].reason


def boot_until_another_opens(
    machine: Machine, model: str, most: int, restored: Callable[[], bool]
) -> tuple[list[str], bool]:
    """Boot a machine that ``model`` crashes until it opens another, at most ``most`` + 3 times.

    Returns:
        The model opened in each boot, and whether the update finished with ``restored`` active in the last.
    """
    opened: list[str] = []
    for _ in range(most + 3):
        machine.forget()
        with machine.booted():
            assert waits(lambda: bool(machine.opens()), _BOOT_S), "nothing was opened"
            opened.append(machine.opens())
            if opened[-1] != model:
                ended = waits(restored, _END_S) and waits(lambda: _kept(machine).phase is Phase.IDLE, _END_S)
                return opened, ended
    return opened, False


def _kept(machine: Machine) -> state.State:
    return state.load(machine.root / robot.STATE)
