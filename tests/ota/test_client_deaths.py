"""Kills and disk failures at any point of an update: a valid model is active; the next start continues."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.ota import operator_requests, robot
from jepa_runtime.ota.health.serving_interface import Health
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import Outcome
from jepa_runtime.ota.steps import UpdateSteps
from jepa_runtime.ota.storage.slots import MARK, SlotStore
from jepa_runtime.util import atomic_files
from tests.ota.robots import Died, Serving, Site, dies_in, unreachable

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
            raise StorageError(f"{path}: cannot be written: No space left on device")
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(atomic_files, "write", write_unless_full)
        with pytest.raises(StorageError, match="No space left"):
            site.update()
    assert (site.version, serving.swaps) == ("1.0.0", ["2.0.0", "1.0.0"])
    site.serving = None
    state = site.update()
    # A switch is repeated. The observed model does not count as healthy because another one is.
    assert state.result == ("updated" if when == "switched" else "refused")
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


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("phase", [*ALL, Phase.ROLLBACK, Phase.REJECTED])
def test_process_killed_at_any_step_leaves_a_valid_model_and_the_next_finishes_the_update(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, phase: Phase, after: bool
) -> None:
    fails = phase in (Phase.ROLLBACK, Phase.REJECTED)
    site.repository.publish(bundles[1], 2)
    site.serving = Serving(bad=("2.0.0",) if fails else ())
    with monkeypatch.context() as patched:
        patched.setattr(robot, "UpdateSteps", dying(phase, after=after))
        status = in_child(site.update)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    switched = phase in ALL[ALL.index(Phase.OBSERVE) :] or (phase, after) in (
        (Phase.SWITCH, True),
        (Phase.ROLLBACK, False),
    )
    assert site.version == ("2.0.0" if switched else "1.0.0")
    # The serving process survives.
    site.serving.swap(site.root / "current")
    state = site.update()
    assert state.result == ("refused" if fails else "updated")
    assert site.version == site.good == ("1.0.0" if fails else "2.0.0")
    assert site.slots == (1 if fails else 2)


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
    assert (state.result, site.version, site.good) == ("refused", "1.0.0", "1.0.0")
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


class Lives(RuleBasedStateMachine):
    """A robot with any offers, failures and kills at any step."""

    home: Path
    offered: list[Bundle]
    count = 0

    def __init__(self) -> None:
        super().__init__()
        Lives.count += 1
        self.site = Site(self.home / str(Lives.count), self.offered[0])
        self.site.serving = Serving()
        self.seq = 5
        self.revoked: set[int] = set()
        self.site.repository.publish(self.offered[0], self.seq)

    @rule(number=st.integers(0, 3), percent=st.sampled_from([0.0, 100.0]), revokes=st.booleans())
    def publish(self, number: int, percent: float, revokes: bool) -> None:
        self.seq += 1
        revoked = (self.seq - 1,) if revokes else ()
        self.revoked.update(revoked)
        rollout = {"percent": percent, "salt": "s"}
        self.site.repository.publish(self.offered[number], self.seq, revoked=revoked, rollout=rollout)

    @rule(
        bad=st.dictionaries(
            st.sampled_from(["1.0.0", "2.0.0", "3.0.0"]), st.sampled_from(["check", "probe", "serving"])
        )
    )
    def break_models(self, bad: dict[str, str]) -> None:
        self.site.gate.bad = bad
        self.site.serving = Serving(
            bad=tuple(version for version, where in bad.items() if where == "serving")
        )

    @rule(fails=st.booleans())
    def network(self, fails: bool) -> None:
        self.site.repository.error = unreachable() if fails else None

    @rule(hours=st.integers(1, 200))
    def time_passes(self, hours: int) -> None:
        self.site.clock.sleep(3600.0 * hours)

    @rule(pinned=st.booleans())
    def pin(self, pinned: bool) -> None:
        operator_requests.pin(self.site.root, pinned=pinned)

    @rule()
    def cancel(self) -> None:
        try:
            assert operator_requests.cancel(self.site.root, "by hand").phase is Phase.IDLE
        except UpdateError as error:
            assert "no update is in progress" in str(error) or "after its switch" in str(error)

    @rule()
    def update(self) -> None:
        state = self.site.update(on_state=self.after_step)
        assert state.phase is Phase.IDLE
        assert state.current == state.good or (state.good is None and self.revoked)

    @rule(phase=st.sampled_from([*ALL, Phase.ROLLBACK, Phase.REJECTED]))
    def update_and_lose_power(self, phase: Phase) -> None:
        dies = dies_in(phase)

        def tell(state: State, why: str) -> None:
            self.after_step(state, why)
            dies(state, why)

        with suppress(Died):
            self.site.update(on_state=tell)

    @rule()
    def roll_back(self) -> None:
        with self.site.opened(on_state=self.after_step) as client:
            try:
                client.rollback("by hand")
            except UpdateError as error:
                assert "no earlier model" in str(error)

    def after_step(self, *_: object) -> None:
        self.a_valid_model_serves()

    @invariant()
    def a_valid_model_serves(self) -> None:
        """A revoked model stays active until another replaces it, but is no rollback target: if the other
        fails, there is none."""
        store = SlotStore(self.site.root)
        for slot in (store.current(), store.good()):
            if slot is None and self.revoked:
                continue
            assert slot is not None and (store.slots / slot / MARK).exists()
            assert Bundle.open(store.folder(slot)).sha256 == slot

    def teardown(self) -> None:
        self.site.repository.error = None
        state = self.site.update()
        assert state.phase is Phase.IDLE


def test_updates_under_random_faults_keep_a_valid_model_active_and_finish(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    Lives.home, Lives.offered = tmp_path, bundles
    run_state_machine_as_test(Lives, settings=hypothesis_settings(max_examples=30, stateful_step_count=10))
