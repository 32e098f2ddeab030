"""What is done in each phase of an update. Every step may be done again after it was cut off anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from jepa_runtime.bundle import Bundle, Manifest
from jepa_runtime.errors import (
    BundleError,
    FetchError,
    InconclusiveError,
    JepaRuntimeError,
    MachineBusyError,
    ReleaseRejectedError,
    StorageError,
    TransferLimitError,
    TrustError,
    UnlistedTargetError,
)
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.gate.gate import Gate
from jepa_runtime.ota.health.serving_interface import Serving
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.release import (
    MAX_POINTER_BYTES,
    Release,
    Robot,
    interface_of,
    left_out,
    parse_release,
    pointer_path,
    release_path,
)
from jepa_runtime.ota.rollback import (
    is_offered,
    soundly_good,
    way_back,
    way_back_from_crashes,
    way_back_from_damage,
)
from jepa_runtime.ota.state import Phase, State, Work, floor_key
from jepa_runtime.ota.state_machine import (
    WAIT_S,
    Done,
    Dropped,
    Failed,
    NothingNew,
    NotYet,
    Outcome,
    Refused,
    Undecided,
    Unhealthy,
    blocks,
    compared,
    found,
)
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.download import Download, Repository
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.ota.transport.repository_sources import BusyError, Clock
from jepa_runtime.ota.trust.metadata import Floors

_LOOK_S = 1.0
# A server that gives all but a delta is not to keep a release away for good.
_DELTA_ATTEMPTS = 3
# What the repository said longer ago may have changed.
_RECENT = timedelta(minutes=10)
# As it is done where the state could not be kept.
_SWITCHED_AWAY = Unhealthy("it was switched away from before its commit")

Step = tuple[State, Outcome]


@dataclass(frozen=True, kw_only=True)
class UpdateSteps:
    """The steps of one robot.

    Attributes:
        note: writes to the audit log.
        report: tells somebody how an update ended.
        now: the time of day. clock: for durations and pauses.
        alive: is called at least every few seconds while nothing hangs, but for what waits for others within
            limits of its own: a server that says nothing (``fetch.connect_s``, ``fetch.read_s``), frames for
            a comparison, and the serving process, during a swap.
        progress: is told how many bytes of a release are there, and of how many.
        any_interface: whether a release may have other actions than what serves.
        again: whether to try what was refused.
        only_version: the one version that may be installed, which need not be the channel's latest; None: the
            latest.
    """

    config: Config
    store: SlotStore
    repository: Repository
    gate: Gate
    serving: Serving
    note: Callable[..., None]
    report: Callable[[State], None]
    now: Callable[[], datetime]
    clock: Clock
    alive: Callable[[], None]
    progress: Progress
    any_interface: bool = False
    again: bool = False
    only_version: str | None = None

    def __call__(self, state: State) -> Step:
        """Do what the phase of ``state`` is for.

        Returns:
            The state with what became known, in the same phase, and the outcome.

        Raises:
            KeyboardInterrupt: ``alive`` did; nothing counts of what was done.
        """
        self.alive()
        known, outcome = self._tried(state)
        if not isinstance(outcome, Done):
            # Who stops a service stops its children too: a probe that dies of that says nothing of its model.
            self.alive()
        return known, outcome

    def _tried(self, state: State) -> Step:
        step: Callable[[State], Step] = getattr(self, f"_{state.phase}")
        try:
            return step(state)
        except (ReleaseRejectedError, BundleError) as error:
            return state, Refused(str(error))
        except TrustError as error:
            # The next look at the repository may find it in order; this one need not be repeated for it.
            return state, Refused(str(error)) if state.phase is Phase.CHECK else Failed(str(error))
        except MachineBusyError as error:
            return state, Undecided(str(error))
        except InconclusiveError as error:
            return compared(state), Failed(str(error))
        except TransferLimitError as error:
            return state, Dropped(str(error), failed=True)
        except BusyError as error:
            return state, Failed(str(error), error.after_s)
        except JepaRuntimeError as error:
            return state, Failed(str(error))

    def _check(self, state: State) -> Step:
        if not state.attempts:
            crashed = way_back_from_crashes(state, self.store, on_crashes=self.config.rollback_on_crashes)
            if crashed is not None and not self._cannot_switch():
                return state, crashed
        try:
            state, release = self._offered(state)
        except (FetchError, TrustError):
            # Nobody says whether another release is the cure.
            back = None if state.attempts else way_back_from_damage(state, self.store)[0]
            if back is None or self._cannot_switch():
                raise
            return state, back
        return found(state, self.config.channel, release), Done()

    def _offered(self, state: State) -> tuple[State, Release]:
        """The release that the channel offers now, and the state with the floors that follow."""
        channel, model_id = self.config.channel, self.config.model_id
        seen = self.repository.refresh(Floors(state.versions, state.signed_at, state.release_seqs))
        state = replace(state, **vars(seen), checked_at=self.now())
        path = pointer_path(channel, model_id)
        release = parse_release(self.repository.read(path, MAX_POINTER_BYTES), path)
        key = floor_key(channel, model_id)
        floor = state.release_seqs.get(key, 0)
        if release.model_id != model_id:
            raise TrustError(f"{path}: offers {release.model_id}, not {model_id}: publish it again")
        if release.release_seq < floor:
            raise TrustError(
                f"{path}: offers release {release.release_seq}, but {floor} was offered before: an older "
                "version has to be published under a higher number"
            )
        seqs = {**state.release_seqs, key: release.release_seq}
        return replace(state, release_seqs=seqs), self._ordered(release)

    def _ordered(self, latest: Release) -> Release:
        """The release of ``only_version``; the latest where the channel does not list that or revoked it."""
        version = self.only_version
        ordered = latest if version in (None, latest.version) else self._listed(version)
        if (
            ordered is None
            or ordered.release_seq in latest.revoked
            or ordered.manifest_sha256 in latest.revoked_manifests
        ):
            return latest
        # Only the latest pointer is up to date about revocations.
        current = {"revoked": latest.revoked, "revoked_manifests": latest.revoked_manifests}
        return ordered.model_copy(update=current)

    def _listed(self, version: str) -> Release | None:
        """The last release of a version, where the channel lists one."""
        model_id = self.config.model_id
        path = release_path(self.config.channel, model_id, version)
        try:
            release = parse_release(self.repository.read(path, MAX_POINTER_BYTES), path)
        except UnlistedTargetError:
            return None
        if (release.model_id, release.version) != (model_id, version):
            raise TrustError(f"{path}: is of {release.model_id} {release.version}: publish it again")
        return release

    def _committed_seq(self, state: State) -> int:
        """The number of the release that this robot is committed to; 0 if the channel never released it."""
        good = state.good
        if good is None:
            return 0
        same = (good.channel, good.model_id) == (self.config.channel, self.config.model_id)
        known = good.release_seq if same else 0
        listed = self._listed(good.version)
        if listed is None or listed.manifest_sha256 != good.manifest_sha256:
            return known
        return max(known, listed.release_seq)

    def _resolve(self, state: State) -> Step:
        work, now = _work(state), self.now()
        release, name = work.release, work.release.name
        state, back, alarm = way_back(state, work, self.store, self.note)
        if back is not None:
            return state, self._cannot_switch(f"{back.reason}; ") or back
        if alarm and alarm != state.alarm:
            self.note("alarm", reason=alarm)
        state = replace(state, alarm=alarm)
        if self.only_version not in (None, release.version):
            return state, NothingNew(
                f"the fleet asks for {self.only_version}: channel {work.channel} does not list it, or has "
                f"revoked it; its latest is {name}"
            )
        refusal = state.refused.get(release.manifest_sha256)
        if is_offered(state, work):
            if state.owes_way_back:
                return state, NothingNew(f"{name} serves, though it is to make way")
            # The same bytes may have been published under another number.
            return replace(state, current=work.installed, good=work.installed), NothingNew(f"{name} serves")
        if state.pinned and not (state.current and work.revokes(state.current)):
            return state, NothingNew(f"{name} is offered, but this robot is pinned to what it has")
        latest_seq = state.release_seqs.get(floor_key(work.channel, release.model_id), 0)
        if release.release_seq < latest_seq and release.release_seq < (least := self._committed_seq(state)):
            return state, NothingNew(
                f"the fleet asks for {name}, which is older than release {least} that this robot is "
                "committed to: release it again under a higher number (jepa-export release downgrade)"
            )
        if refusal is not None and blocks(refusal, now, state.signed_at) and not self.again:
            until = "" if refusal.not_before is None else f" until {refusal.not_before:%Y-%m-%d %H:%M} UTC"
            how = "is left undecided" if refusal.undecided else "was refused"
            return state, NothingNew(
                f"{name} {how}{until}: {refusal.reason}; `jepa-runtime update apply --again` tries it now",
                "undecided" if refusal.undecided else "refused",
            )
        if why := left_out(release, self.config.device_id):
            return state, NothingNew(why)
        try:
            self.gate.check_release(release, self._robot(state))
        except ReleaseRejectedError as error:
            # Not remembered: what this robot lacks (software, a field of its config.json) it may have soon.
            return state, NothingNew(str(error), "refused")
        return state, Done()

    def _download(self, state: State) -> Step:
        release = _work(state).release
        if not self.store.complete(release.manifest_sha256):
            Download(
                release=release,
                repository=self.repository,
                store=self.store,
                use_deltas=self.config.deltas and state.attempts.get(Phase.DOWNLOAD, 0) < _DELTA_ATTEMPTS,
                free_bytes=self.config.fetch.free_bytes,
                note=self.note,
                progress=self._progress,
                make_room=lambda: self._collect(state, 0),
            ).run()
        return state, Done()

    def _verify(self, state: State) -> Step:
        sha256 = _work(state).release.manifest_sha256
        whole = self.store.complete(sha256)
        try:
            Bundle.open(self.store.folder(sha256) if whole else self.store.staged(sha256))
        except BundleError as error:
            # Either the disk changed it, then it has to be fetched again, or it never was a bundle.
            if self.store.good() == sha256 != self.store.current():
                self.store.point("good", None)
            self.store.drop(sha256)
            return state, Failed(str(error))
        return state, Done()

    def _stage(self, state: State) -> Step:
        self.store.adopt(_work(state).release.manifest_sha256)
        return state, Done()

    def _probe(self, state: State) -> Step:
        release = _work(state).release
        folder = self.store.folder(release.manifest_sha256)
        self.gate.check(Bundle.open(folder), release, self._robot(state))
        current = state.current
        # What took the machine down is not opened to be compared with.
        opens = current is not None and not TrialCounter(self.store).exhausted(current.manifest_sha256)
        active = self.store.folder(current.manifest_sha256) if current is not None and opens else None
        self.note("probed", **self.gate.probe(folder, release.budgets, active))
        return state, Done()

    def _shadow(self, state: State) -> Step:
        release, current = _work(state).release, state.current
        candidate, ratio = release.manifest_sha256, release.budgets.max_error_ratio
        told = None
        if current is None:
            why = "nothing serves yet"
        elif ratio is None:
            why = "its release allows any error (max_error_ratio)"
        elif exhausted := TrialCounter(self.store).exhausted(current.manifest_sha256):
            why = f"the active model is not opened any more: {exhausted}"
        elif harm := self.store.damage(current.manifest_sha256):
            # The candidate is the cure.
            why = f"what serves is damaged: {harm}"
        else:
            serves, tried = self.store.folder(current.manifest_sha256), self.store.folder(candidate)
            told = self.gate.shadow(serves, tried, ratio, comparisons=state.comparisons.get(candidate, 0))
            why = "config.json names no source of frames (shadow)"
        if told is None:
            self.note("not compared", reason=why)
        else:
            self.note("compared", **told)
        return state, Done()

    def _armed(self, state: State) -> Step:
        release = _work(state).release
        if self.config.approval and state.approved != release.manifest_sha256:
            told = f"{release.name} waits for approval: `jepa-runtime update approve`"
            return self._back_meanwhile(state, NotYet(told))
        if (wait := self._cannot_switch()) is not None:
            return state, wait
        asked = state.checked_at
        if state.waits or asked is None or not timedelta() <= self.now() - asked < _RECENT:
            state, outcome = self._still_offered(state)
            # Asking may have taken a while.
            return state, self._cannot_switch() or outcome
        return state, Done()

    def _back_meanwhile(self, state: State, wait: NotYet) -> Step:
        """What was revoked makes way without approval: whether what serves was, is asked every ``poll_s``."""
        if not state.waits or state.waits % max(1, round(self.config.poll_s / WAIT_S)):
            return state, wait
        try:
            state, offered = self._offered(state)
        except (FetchError, TrustError) as error:
            self.note("not asked again while it waits", reason=str(error))
            return state, wait
        work = Work(channel=self.config.channel, release=offered)
        state, back, _ = way_back(state, work, self.store, self.note)
        return state, wait if back is None or self._cannot_switch() else back

    def _cannot_switch(self, why: str = "") -> NotYet | None:
        health = self.serving.health()
        return None if health.may_switch else NotYet(why + (health.absent or "the robot cannot switch now"))

    def _still_offered(self, state: State) -> Step:
        release = _work(state).release
        try:
            state, offered = self._offered(state)
        except FetchError as error:
            self.note("not asked again before the switch", reason=str(error))
            return state, Done()
        work = Work(channel=self.config.channel, release=offered)
        state, back, _ = way_back(state, work, self.store, self.note)
        if back is not None:
            return state, back
        if offered.manifest_sha256 == release.manifest_sha256:
            why = left_out(offered, self.config.device_id)
            return state, Dropped(why) if why else Done()
        if work.revokes(_work(state).installed):
            return state, Dropped(f"{release.name} was revoked before its switch")
        return state, Dropped(f"{offered.name} is offered now, no longer {release.name}")

    def _switch(self, state: State) -> Step:
        sha256 = _work(state).release.manifest_sha256
        if why := TrialCounter(self.store).exhausted(sha256):
            return state, Refused(why)
        folder = self.store.open(sha256).path
        self.store.point("current", sha256)
        self.serving.swap(folder)
        return replace(state, watched=self.serving.health().serves is not None), Done()

    def _observe(self, state: State) -> Step:
        release = _work(state).release
        if self.store.current() != release.manifest_sha256:
            return state, _SWITCHED_AWAY
        if why := TrialCounter(self.store).exhausted(release.manifest_sha256):
            return state, Unhealthy(why)
        ends = self.clock.monotonic() + self.config.health_window_s
        while True:
            self.alive()
            health = self.serving.health()
            if health.failure:
                return state, Unhealthy(health.failure)
            if health.absent or (health.serves is None and state.watched):
                absent = health.absent or "the serving process is not there: start it"
                return state, NotYet(absent, alone=True)
            if health.serves is None:
                # Nobody was there to be watched: that it runs from its slot is what can be known. Whether it
                # is fast enough was judged before the switch.
                others = release.budgets.model_copy(update={"latency_p99_ms": None})
                self.note("probed", **self.gate.probe(self.store.root / "current", others, None))
                return state, Done()
            if health.serves != release.manifest_sha256:
                return state, Unhealthy(f"{health.serves[:12]} serves instead of it")
            if self.clock.monotonic() >= ends:
                idle = NotYet("nothing has come by which it could be judged: no images?")
                return state, idle if health.idle else Done()
            self.clock.sleep(_LOOK_S)

    def _commit(self, state: State) -> Step:
        sha256 = _work(state).release.manifest_sha256
        if self.store.current() != sha256:
            return state, _SWITCHED_AWAY
        self.store.point("good", sha256)
        return state, Done()

    def _report(self, state: State) -> Step:
        self.report(state)
        return state, Done()

    def _gc(self, state: State) -> Step:
        self._collect(state, self.config.keep_slots)
        if state.result == "updated":
            # What came for it and was not needed in the end.
            self.store.keep_staged("", ())
        return state, Done()

    def _collect(self, state: State, others: int) -> None:
        kept = (state.current, state.good, state.previous)
        if removed := self.store.collect([one.manifest_sha256 for one in kept if one], others):
            self.note("removed slots", slots=removed)

    def _rollback(self, state: State) -> Step:
        state = soundly_good(state, self.store, self.note)
        good = None if state.good is None else state.good.manifest_sha256
        self.store.point("current", good)
        self.store.point("good", good)
        if good is not None:
            try:
                self.serving.swap(self.store.folder(good))
            except ReleaseRejectedError:
                self._stay(state)
                raise
        TrialCounter(self.store).retain(good)
        return state, Done()

    def _stay(self, state: State) -> None:
        """What serves is to serve after the next start too, unless it is a candidate that failed."""
        current = state.current
        if state.work is None and current and self.serving.health().serves == current.manifest_sha256:
            self.store.point("current", current.manifest_sha256)

    def _rejected(self, state: State) -> Step:
        return state, Done()

    def _robot(self, state: State) -> Robot:
        """This robot; its software expects the interface of what serves, as that is of what served before."""
        expected = None
        if state.current is not None and not self.any_interface:
            expected = interface_of(self._a_manifest(state))
        return Robot(self.config.hardware_ids, self.config.engine, self.config.precision, expected)

    def _a_manifest(self, state: State) -> Manifest:
        """The first that the disk has not damaged."""
        *others, last = [one.manifest_sha256 for one in (state.current, state.good, state.previous) if one]
        for sha256 in others:
            try:
                return self.store.manifest(sha256)
            except StorageError as error:
                self.note("a manifest is damaged", reason=str(error))
        return self.store.manifest(last)

    def _progress(self, done: int, total: int) -> None:
        self.alive()
        self.progress(done, total)


def _work(state: State) -> Work:
    assert state.work is not None, state.phase
    return state.work
