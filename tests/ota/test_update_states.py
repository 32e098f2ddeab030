"""Random histories of a robot and its signed repository, checked against a model of the update.

Everything is real but the engine: the folder, the signed repository, the client. Each history ends with a
robot that accepts a new release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Literal
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.ota import audit_log, config, operator_requests, robot, state, state_machine
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.release import Release
from jepa_runtime.ota.state import Installed, Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.repository_sources import Limits
from tests.errors import code
from tests.ota import robots
from tests.ota.disk_faults import failing_disk
from tests.ota.repositories import Repository
from tests.ota.robots import Clock, Died, Gate, Serving
from tests.ota.states import LETTER

# The letters of tests.ota.states: the phases that may follow each phase, in addition to itself.
_FOLLOWING = {
    "I": "CB", "C": "RIB", "R": "CDIJB", "D": "CVIJ", "V": "CDSIJ", "S": "CDPIJ", "P": "HIJ", "H": "AIJ",
    "A": "WIJB", "W": "OB", "O": "KB", "K": "EB", "E": "G", "G": "I", "B": "JC", "J": "E",
}  # fmt: skip
_DROPPABLE, _CANDIDATE = "CRDVSPHA", "DVSPHAWOK"
_HOUR, _WEEK = timedelta(hours=1), timedelta(days=7)
_MAX_WAITS = 4


@dataclass(frozen=True)
class Interruption:
    """What ends an update early, at the n-th file-system call after it entered a phase."""

    how: Literal["stopped", "killed", "full", "failing"]
    phase: Phase
    call: int = 0


_INTERRUPTIONS = st.none() | st.builds(
    Interruption,
    st.sampled_from(["killed", "killed", "full", "failing", "stopped"]),
    st.sampled_from([phase for phase in Phase if phase is not Phase.IDLE]),
    st.integers(0, 30),
)
_STEPS = st.sampled_from([1, 1, 2, 3])
# What may change around the robot; the last value of each is the usual one.
_CIRCUMSTANCES = [
    (name, value)
    for name, values in {
        "approval": [True, False], "keep_slots": [1, 0], "busy": [True, False], "may_switch": [False, True],
        "available": [False, True], "hours": [0.1, 0.5, 2, 24, 24 * 8],
        "clock_error": [-1 / 24, -30, -365 * 50, 0.5, 400, 0],
    }.items()
    for value in values
]  # fmt: skip


@dataclass(frozen=True)
class Rejection:
    """When a release was rejected, and until when it is at least, and at most, left alone."""

    at: datetime
    least: timedelta | None
    most: timedelta | None
    result: str = "rejected"


class UpdateStates(RuleBasedStateMachine):
    """A robot, what its repository offers, and what an operator, the disk and the clock do to it."""

    home: ClassVar[Path]
    models: ClassVar[list[Bundle]]
    number: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        UpdateStates.number += 1
        home = self.home / str(self.number)
        self.root, self.mount = home / "robot", home / "mount"
        self.clock, self.gate, self.serving = Clock(), Gate(), Serving()
        self.clock_error = timedelta()
        self.repository = Repository(home / "repository", robots.NOW)
        self.settings = robots.settings(repository=str(self.mount), fetch=Limits(free_bytes=0))
        with failing_disk():
            provision(
                self.root,
                self.settings,
                self.repository.first_root,
                bundle=self.models[0].path,
                now=lambda: robots.NOW,
            )
        self.serving.swap(self.root / "current")
        self.stored = state.load(self.root / robot.STATE)
        self.seq = self.version = 0
        self.revoked: set[int] = set()
        self.revoked_manifests: set[str] = set()
        self.rejections: dict[str, Rejection] = {}
        self.approved = ""
        self.retries = self.operator_rolls_back = False
        self.change(("available", True))
        self.publish(0)

    @rule(step=_STEPS, interruption=_INTERRUPTIONS)
    def update_to_good_release(self, step: int, interruption: Interruption | None) -> None:
        """Publish another version, and update."""
        self.publish(step)
        self.update(interruption, retry=False)

    @rule(
        step=_STEPS,
        fails=st.sampled_from(["check", "probe", "shadow", "service", "service"]),
        interruption=_INTERRUPTIONS,
    )
    def update_to_bad_release(self, step: int, fails: str, interruption: Interruption | None) -> None:
        """Publish a version that does not pass the gate, or fails in service, and update."""
        self.publish(step, fails=fails)
        self.update(interruption, retry=False)

    @rule(
        step=_STEPS,
        percent=st.sampled_from([0.0, 100.0]),
        revokes=st.sampled_from(["active", "earlier"]),
        interruption=_INTERRUPTIONS,
    )
    def update_after_revocation(
        self, step: int, percent: float, revokes: str, interruption: Interruption | None
    ) -> None:
        """Publish a version that revokes others and may not be for this robot, and update."""
        self.publish(step, percent, revokes)
        self.update(interruption, retry=False)

    def publish(self, step: int, percent: float = 100.0, revokes: str = "none", fails: str = "") -> None:
        """Publish the version ``step`` versions after the latest release, and revoke others."""
        self.version = (self.version + step) % len(self.models)
        active, model = self.stored.current, self.models[self.version]
        self.gate.bad[model.manifest.version] = fails
        self.serving.bad = tuple(name for name, where in self.gate.bad.items() if where == "service")
        if revokes == "active" and active is not None:
            self.revoked.add(active.release_seq)
            self.revoked_manifests.add(active.manifest_sha256)
        elif revokes == "earlier":
            self.revoked.update(range(1, self.seq + 1))
        self.seq += 1
        self.offered: Release = robots.release_of(
            model,
            self.seq,
            rollout={"percent": percent, "salt": "s"},
            budgets={"latency_p99_ms": 20.0},
            revoked=tuple(sorted(self.revoked - {0})),
            revoked_manifests=tuple(sorted(self.revoked_manifests)),
        )
        self.repository.now = self.clock.now()
        self.repository.release(model, self.offered)

    @rule(change=st.sampled_from(_CIRCUMSTANCES))
    def change(self, change: tuple[str, float]) -> None:
        """Change one thing around the robot."""
        match change:
            case ("busy", busy):
                self.gate.busy = bool(busy)
            case ("may_switch", allowed):
                self.serving.may_switch = bool(allowed)
            case ("available", available):
                self.mount.unlink(missing_ok=True)
                if available:
                    self.mount.symlink_to(self.repository.folder)
            case ("hours", hours):
                self.clock.sleep(3600 * hours)
                self.repository.now = self.clock.now()
                self.repository.publish("root", "targets", "channel-stable", "channel-canary")
            case ("clock_error", days):
                self.clock_error = timedelta(days=days)
            case setting:
                self.settings = self.settings.model_copy(update=dict([setting]))
                config.save(self.root / robot.CONFIG, self.settings)

    @rule()
    def replay(self) -> None:
        """Attack: serve an old state of the repository after the robot has seen a later one."""
        self.change(("available", True))
        earlier = self.repository.copy(f"earlier-{self.repository.signed['timestamp'].version}")
        self.repository.publish()
        self.check()
        latest = self.repository.signed["timestamp"].version
        if self.stored.versions.get("timestamp") == latest and not self.stored.rollback_pending:
            self.mount.unlink()
            self.mount.symlink_to(earlier)
            self.update(None, retry=True, expected=("failed", _sha256(self.stored.current)))
            self.change(("available", True))

    @rule(pinned=st.sampled_from([False, False, True]))
    def pin(self, pinned: bool) -> None:
        """Pin the robot, which drops an update that has not switched, or unpin it."""
        before = self.stored
        self.take(operator_requests.pin(self.root, pinned=pinned, now=self.now))
        dropped = pinned and LETTER[before.phase] in _DROPPABLE
        assert self.stored.pinned == pinned
        assert self.stored.phase is (Phase.IDLE if dropped else before.phase)

    @rule()
    def approve(self) -> None:
        """Approve a switch, which only a candidate that waits for it needs."""
        if self.stored.phase is Phase.ARMED:
            assert self.stored.candidate is not None
            self.approved = self.stored.candidate.release.manifest_sha256
            self.take(operator_requests.approve(self.root))
        else:
            with self.rejected("update.nothing_to_approve"):
                operator_requests.approve(self.root)

    @rule()
    def cancel(self) -> None:
        """Cancel an update, which is possible before its switch."""
        phase = self.stored.phase
        if LETTER[phase] in _DROPPABLE:
            self.take(operator_requests.cancel(self.root, "cancelled", now=self.now))
            assert (self.stored.phase, self.stored.result) == (Phase.IDLE, "unchanged")
        else:
            with self.rejected(f"update.{'nothing' if phase is Phase.IDLE else 'too_late'}_to_cancel"):
                operator_requests.cancel(self.root, "cancelled", now=self.now)

    @rule()
    def check(self) -> None:
        """Check for an update, which installs and rolls back nothing."""
        before, current = self.stored, SlotStore(self.root).current()
        expected = None if self.revokes(before.current) else self.expected(retry=False)
        with self.opened() as client:
            if LETTER[before.phase] in "ICR":
                result = client.check()
                assert self.stored.phase is Phase.IDLE
                assert result is None or result.manifest_sha256 == self.offered.manifest_sha256
                if expected is not None and expected[0] in ("updated", "unchanged"):
                    assert (result is not None) == (expected[0] == "updated")
            else:
                with pytest.raises(UpdateError, check=code("update.in_progress")):
                    client.check()
        assert before.phase is not Phase.IDLE or _sha256(self.stored.current) == _sha256(before.current)
        assert SlotStore(self.root).current() == current

    @rule(interruption=_INTERRUPTIONS, retry=st.booleans())
    def update_again(self, interruption: Interruption | None, retry: bool) -> None:
        """Update without a new release, or resume an update."""
        self.update(interruption, retry=retry)

    @rule(interruption=_INTERRUPTIONS)
    def roll_back(self, interruption: Interruption | None) -> None:
        """Roll back by hand to the model before the active one, which the next update does not undo."""
        before = self.stored
        earlier = [one for one in (before.good, before.previous) if one not in (None, before.current)]
        letter = LETTER[before.phase]
        self.operator_rolls_back = True
        try:
            with self.opened(interruption) as client:
                client.rollback("rolled back by hand")
        except (KeyboardInterrupt, Died, StorageError):
            assert interruption is not None
        except UpdateError as error:
            assert error.code == "update.no_earlier_model" and not earlier and letter not in "WOKBJ"
        else:
            if interruption is None:
                self.check_end()
                assert letter in "BJ" or self.stored.reason == "rolled back by hand"
                assert letter in "WOKBJ" or self.stored.current == earlier[0]
        finally:
            self.operator_rolls_back = False
            self.reload()
        if interruption is None:
            self.update(None, retry=False)

    def update(
        self,
        interruption: Interruption | None,
        *,
        retry: bool,
        expected: tuple[str, str | None] | None = None,
    ) -> None:
        """Update, and compare the end with the model's prediction unless it was interrupted."""
        expected = expected or self.expected(retry=retry)
        self.retries = retry
        try:
            with self.opened(interruption) as client:
                client.update()
        except (KeyboardInterrupt, Died, StorageError):
            assert interruption is not None
        else:
            if interruption is None:
                self.check_end()
                active = self.stored.current
                if expected is not None:
                    assert (self.stored.result, _sha256(active)) == expected, self.stored.reason
                if self.stored.result == "unchanged" and _sha256(active) == self.offered.manifest_sha256:
                    assert active is not None and active.release_seq == self.offered.release_seq
        finally:
            self.retries = False
            self.reload()

    def expected(self, *, retry: bool) -> tuple[str, str | None] | None:
        """Return the result of the next update and the model that is active then; None: not predicted."""
        before, offered = self.stored, self.offered.manifest_sha256
        if before.phase is not Phase.IDLE or before.rollback_pending:
            return None
        active, good, previous = map(_sha256, (before.current, before.good, before.previous))
        if not self.mount.exists() or self.clock_error > timedelta(days=1):
            return "failed", active
        revoked = before.current is not None and self.revokes(before.current)
        if before.current is not None and self.revokes(before.previous):
            previous = None
        if revoked and previous not in (None, active):
            if not self.serving.may_switch:
                return "failed", active
            active = good = previous
            revoked = False
        elif revoked:
            good = None
        if offered == active or (before.pinned and not revoked):
            return "unchanged", active
        rejection = self.rejections.get(offered)
        if rejection is not None and not retry:
            since = self.now() - rejection.at
            if rejection.least is None or timedelta() <= since < rejection.least - timedelta(minutes=2):
                return rejection.result, active
            if rejection.most is None or since <= rejection.most:
                return None
        if not self.offered.rollout.percent:
            return "unchanged", active
        fails = self.gate.bad.get(self.offered.version)
        if fails in ("check", "probe") or (fails == "shadow" and active is not None and not self.gate.busy):
            return "rejected", active
        if self.gate.busy:
            return "undecided", active
        if self.settings.approval or not self.serving.may_switch:
            return "failed", active
        return ("rejected", good) if fails == "service" else ("updated", offered)

    def revokes(self, installed: Installed | None) -> bool:
        """Return whether the offered release revokes an installed one."""
        if installed is None or installed.manifest_sha256 == self.offered.manifest_sha256:
            return False
        return (
            installed.release_seq in self.offered.revoked
            or installed.manifest_sha256 in self.offered.revoked_manifests
        )

    def recorded(self, after: State, _: str) -> None:
        """Check a state that the client has just stored, and the step that led to it."""
        before, self.stored = self.stored, after
        assert state.load(self.root / robot.STATE) == after
        came_from, entered = LETTER[before.phase], LETTER[after.phase]
        rolls_back = self.operator_rolls_back and entered == "B"
        assert entered == came_from or entered in _FOLLOWING[came_from] or rolls_back, (came_from, entered)
        self.check_floors(before, after)
        work = after.candidate or before.candidate
        candidate = "" if work is None else work.release.manifest_sha256
        store = SlotStore(self.root)
        if (came_from, entered) == ("R", "D"):
            self.gate.calls.clear()
            self.check_wanted(after)
        if entered == "W" and came_from == "A":
            assert self.serving.may_switch
            assert not self.settings.approval or self.approved == candidate
            assert {"check", "probe"} <= set(self.gate.calls)
        if entered in "WOK" and after.good is not None:
            assert store.good() in (after.good.manifest_sha256, candidate)
            assert store.complete(after.good.manifest_sha256)
        if came_from == "K" and entered == "E":
            assert store.current() == store.good() == candidate
            assert after.previous == before.good or after.previous == before.previous
            assert candidate not in after.rejections
            self.rejections.pop(candidate, None)
        if entered == "I":
            self.approved = ""
        if (entered == "J" and came_from in "DVSPHA") or (entered == "B" and came_from in "WOK"):
            self.reject(candidate, _HOUR, _WEEK)
        elif came_from == "P" and after.result == "undecided":
            self.reject(candidate, timedelta(minutes=5), _HOUR, "undecided")
        elif entered == "B" and came_from != "B" and after.result == "rolled_back" and before.current:
            self.reject(before.current.manifest_sha256, None, None)

    def reject(
        self, sha256: str, least: timedelta | None, most: timedelta | None, result: str = "rejected"
    ) -> None:
        """Remember that the robot has rejected a release; a permanent rejection stays permanent."""
        known = self.rejections.get(sha256)
        if known is None or known.least is not None:
            self.rejections[sha256] = Rejection(self.trusted_now(), least, most, result)

    def check_wanted(self, after: State) -> None:
        """Check that the release that is about to be downloaded is one to install."""
        assert after.candidate is not None
        release = after.candidate.release
        assert release.rollout.percent
        assert not after.pinned or (after.current is not None and after.candidate.revokes(after.current))
        rejection = self.rejections.get(release.manifest_sha256)
        if rejection is not None and not self.retries:
            assert rejection.least is not None, "a release that was rolled back is installed again"
            assert not timedelta() <= self.trusted_now() - rejection.at < rejection.least

    def check_floors(self, before: State, after: State) -> None:
        """Check that no signed version, release number or time decreases."""
        for name in ("versions", "release_seqs"):
            earlier: Mapping[str, int] = getattr(before, name)
            later: Mapping[str, int] = getattr(after, name)
            assert all(later[key] >= value for key, value in earlier.items())
        assert before.signed_at is None or (
            after.signed_at is not None and after.signed_at >= before.signed_at
        )

    def check_end(self) -> None:
        """Check a robot whose update or rollback ended undisturbed."""
        assert self.stored.phase is Phase.IDLE
        store = SlotStore(self.root)
        current = _sha256(self.stored.current)
        assert store.current() == current
        assert self.stored.good is None or self.stored.good == self.stored.current
        if current is not None:
            assert self.serving.serves is not None and self.serving.serves.sha256 == current
        retained = {_sha256(one) for one in (self.stored.current, self.stored.good, self.stored.previous)}
        if self.stored.result in ("updated", "rolled_back"):
            assert len(set(store.present()) - retained) <= self.settings.keep_slots
        leftovers = [
            path
            for folder in (self.root, store.staging, *store.slots.iterdir(), self.root / "meta")
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.name.endswith(".tmp") or path.name.startswith("tmp")
        ]
        assert not leftovers and not list(store.trash.iterdir())
        list(audit_log.AuditLog(self.root / robot.AUDIT, self.now).entries())

    @invariant()
    def active_models_are_complete(self) -> None:
        """Check that the links lead to verified slots; a revoked model may be the last one."""
        store = SlotStore(self.root)
        for slot in {store.current(), store.good()}:
            assert slot is not None or self.revoked or self.revoked_manifests
            if slot is not None:
                assert store.complete(slot) and store.open(slot).sha256 == slot

    def teardown(self) -> None:
        """Remove every obstacle: the robot then installs a new release."""
        for change in {name: (name, value) for name, value in _CIRCUMSTANCES}.values():
            self.change(change)
        self.pin(False)
        self.publish(1)
        if _sha256(self.stored.current) == self.offered.manifest_sha256:
            self.publish(1)
        for _ in range(3):
            self.update(None, retry=True)
        assert _sha256(self.stored.current) == self.offered.manifest_sha256
        assert not self.stored.alarm

    def now(self) -> datetime:
        """Return the time of day by the robot's clock."""
        return self.clock.now() + self.clock_error

    def trusted_now(self) -> datetime:
        """Return the time from which the robot counts rejections."""
        return max(self.now(), self.stored.signed_at or self.now())

    @contextmanager
    def rejected(self, expected: str) -> Iterator[None]:
        """Check that a request is rejected with a code, and leaves the state and the log as they are."""
        files = [self.root / name for name in (robot.STATE, robot.AUDIT)]
        before = [file.read_bytes() for file in files]
        with pytest.raises(UpdateError, check=code(expected)):
            yield
        assert [file.read_bytes() for file in files] == before

    def take(self, stored: State) -> None:
        """Take a state that an operator's request has stored."""
        self.recorded(stored, "")

    def reload(self) -> None:
        """Read the state, which may have been stored just before the process was killed."""
        stored = state.load(self.root / robot.STATE)
        if stored != self.stored:
            self.recorded(stored, "")

    @contextmanager
    def opened(self, interruption: Interruption | None = None) -> Iterator[Client]:
        """Open the client, which is interrupted."""
        how, phase, call = (None, None, 0) if interruption is None else astuple(interruption)

        def heartbeat() -> None:
            if how == "stopped" and self.stored.phase is phase:
                raise KeyboardInterrupt

        arguments = robots.client_arguments(
            gate=self.gate,
            serving=self.serving,
            on_state=self.recorded,
            now=self.now,
            clock=self.clock,
            retry_rejected=self.retries,
            heartbeat=heartbeat,
        )
        with (
            patch.object(robot, "SOFTWARE_DATE", robots.NOW),
            patch.object(state_machine, "MAX_WAITS", _MAX_WAITS),
            failing_disk(None if how == "stopped" else how, call, lambda: self.stored.phase is phase),
            robot.open_client(self.root, **arguments) as client,
        ):
            yield client


def _sha256(installed: Installed | None) -> str | None:
    return None if installed is None else installed.manifest_sha256


@pytest.mark.parametrize(
    ("histories", "steps"),
    [
        pytest.param(50, 15, marks=pytest.mark.timeout(300), id="short"),
        pytest.param(200, 40, marks=[pytest.mark.slow, pytest.mark.timeout(1800)], id="long"),
    ],
)
def test_updates_of_random_histories_match_the_model(
    tmp_path: Path, bundles: list[Bundle], histories: int, steps: int
) -> None:
    UpdateStates.home, UpdateStates.models = tmp_path, bundles
    run_state_machine_as_test(
        UpdateStates,
        settings=hypothesis_settings(
            max_examples=histories,
            stateful_step_count=steps,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
