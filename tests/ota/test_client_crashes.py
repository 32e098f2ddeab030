"""Kills and disk failures at any point of an update: a valid model is active; the next start continues."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import StorageError
from jepa_runtime.ota import robot
from jepa_runtime.ota.health.serving_interface import Health
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import Outcome
from jepa_runtime.ota.steps import UpdateSteps
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.util import atomic_files
from tests.errors import code
from tests.ota.robots import Serving, Site

ALL = (
    Phase.CHECK, Phase.RESOLVE, Phase.DOWNLOAD, Phase.VERIFY, Phase.STAGE, Phase.PROBE, Phase.SHADOW,
    Phase.ARMED, Phase.SWITCH, Phase.OBSERVE, Phase.COMMIT, Phase.REPORT, Phase.GC,
)  # fmt: skip


@pytest.mark.parametrize("when", ["bad", "observed", "switched"])
def test_full_disk_leaves_no_failed_or_unmonitored_model_active(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    class Filling(Serving):
        """The disk is full after the swap, or after the first health report during the observation."""

        full, num_requests = False, 0

        def swap(self, folder: Path) -> None:
            super().swap(folder)
            self.full = when == "switched"

        def health(self) -> Health:
            self.num_requests += bool(self.swaps)
            self.full |= self.num_requests > 1
            return super().health()

    site.serving = serving = Filling(bad=("2.0.0",) if when == "bad" else ())
    site.repository.publish(bundles[1], 2)
    write = atomic_files.write

    def write_unless_full(path: Path, content: bytes) -> None:
        if serving.full:
            raise StorageError(f"{path}: cannot be written: No space left on device", code="storage.full")
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(atomic_files, "write", write_unless_full)
        with pytest.raises(StorageError, check=code("storage.full")):
            site.update()
    assert (site.version, serving.swaps) == ("1.0.0", ["2.0.0", "1.0.0"])
    site.serving = None
    state = site.update()
    # A switch is repeated. The observed model does not count as healthy because another one is.
    assert state.result == ("updated" if when == "switched" else "rejected")
    assert state.current == state.good and state.current is not None and state.current.version == site.version


def in_child(run: Callable[[], object]) -> int:
    """Run a function in a child process that may be killed; return its status as os.wait does."""
    child = os.fork()
    if not child:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


def dying(phase: Phase, *, after: bool) -> type[UpdateSteps]:
    class Dying(UpdateSteps):
        def __call__(self, state: State) -> tuple[State, Outcome]:
            if state.phase is phase and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = super().__call__(state)
            if state.phase is phase:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    return Dying


@pytest.mark.parametrize("phase", [Phase.OBSERVE, Phase.COMMIT])
def test_candidate_that_was_switched_away_from_is_not_committed(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    site.repository.publish(bundles[1], 2)
    with monkeypatch.context() as patched:
        patched.setattr(robot, "UpdateSteps", dying(phase, after=False))
        assert os.WIFSIGNALED(in_child(site.update))
    SlotStore(site.root).point("current", bundles[0].sha256)
    state = site.update()
    assert (state.result, site.version, site.good) == ("rejected", "1.0.0", "1.0.0")
    assert state.current == state.good and "the link `current` was changed" in state.reason


def test_model_that_crashes_the_machine_is_rolled_back_after_three_attempts(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.repository.publish(bundles[1], 2)
    with monkeypatch.context() as patched:
        patched.setattr(robot, "UpdateSteps", dying(Phase.OBSERVE, after=False))
        for _ in range(3):
            assert os.WIFSIGNALED(in_child(site.update))
            assert site.version == "2.0.0"
        assert os.WEXITSTATUS(in_child(site.update)) == 0
    assert site.version == site.good == "1.0.0"
