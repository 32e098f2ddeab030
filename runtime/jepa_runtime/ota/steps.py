"""What an update does in each phase. Every step may be repeated after an interruption at any point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    interface_digest,
    parse_release,
    pointer_path,
    release_path,
    rollout_exclusion,
)
from jepa_runtime.ota.rollback import (
    find_rollback,
    is_offered,
    rollback_from_crashes,
    rollback_from_damage,
    with_usable_good,
)
from jepa_runtime.ota.state import ChannelRelease, Phase, State, floor_key
from jepa_runtime.ota.state_machine import (
    WAIT_S,
    Done,
    Dropped,
    Failed,
    NothingNew,
    Outcome,
    Rejected,
    Undecided,
    Unhealthy,
    Waiting,
    blocks,
    count_comparison,
    with_offer,
)
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.download import Download, Repository
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.ota.transport.repository_sources import BusyError, Clock
from jepa_runtime.ota.trust.metadata import Floors

_POLL_S = 1.0
# After this many attempts files are downloaded whole: a server may have all files but a delta.
_DELTA_ATTEMPTS = 3
# An answer of the repository that is older than this may be outdated.
_RECENT = timedelta(minutes=10)
# Happens where the state could not be stored.
_LINK_CHANGED = Unhealthy("the link `current` was changed before the commit")

Step = tuple[State, Outcome]


@dataclass(frozen=True, kw_only=True)
class UpdateSteps:
    """The steps of one robot.

    Attributes:
        note: Writes to the audit log.
        on_end: Reports how an update ended.
        now: The time of day.
        clock: The clock for durations and pauses.
        heartbeat: Called at least every few seconds unless the update hangs, except during waits with limits
            of their own: for a silent server (``fetch.connect_s``, ``fetch.read_s``), for frames of a shadow
            test, and for the serving process during a swap.
        on_progress: Called with the number of bytes of a release that are present, and the total.
        any_interface: Whether a release may have another action interface than the active model.
        retry_rejected: Whether to retry releases that were rejected earlier.
        only_version: The only version that may be installed, which need not be the channel's latest; None:
            the latest.
    """

    config: Config
    store: SlotStore
    repository: Repository
    gate: Gate
    serving: Serving
    note: Callable[..., None]
    on_end: Callable[[State], None]
    now: Callable[[], datetime]
    clock: Clock
    heartbeat: Callable[[], None]
    on_progress: Progress
    any_interface: bool = False
    retry_rejected: bool = False
    only_version: str | None = None

    def __call__(self, state: State) -> Step:
        """Run the step of the phase that ``state`` is in.

        Returns:
            The state with everything that the step learned, in the same phase, and the outcome.

        Raises:
            KeyboardInterrupt: ``heartbeat`` did; the result of the step is discarded.
        """
        self.heartbeat()
        known, outcome = self._run(state)
        if not isinstance(outcome, Done):
            # Stopping a service also kills its children: a probe that was killed says nothing about its
            # model.
            self.heartbeat()
        return known, outcome

    def _run(self, state: State) -> Step:
        try:
            return _STEPS[state.phase](self, state)
        except (ReleaseRejectedError, BundleError) as error:
            return state, Rejected(str(error))
        except TrustError as error:
            # Metadata is not checked again within one update; a failed download may be.
            return state, Rejected(str(error)) if state.phase is Phase.CHECK else Failed(str(error))
        except MachineBusyError as error:
            return state, Undecided(str(error))
        except InconclusiveError as error:
            return count_comparison(state), Failed(str(error))
        except TransferLimitError as error:
            return state, Dropped(str(error), failed=True)
        except BusyError as error:
            return state, Failed(str(error), error.after_s)
        except JepaRuntimeError as error:
            return state, Failed(str(error))

    def _check(self, state: State) -> Step:
        if not state.attempts:
            crashed = rollback_from_crashes(state, self.store, on_crashes=self.config.rollback_on_crashes)
            if crashed is not None and not self._cannot_switch():
                return state, crashed
        try:
            state, release = self._offered(state)
        except (FetchError, TrustError):
            # Without the repository it is unknown whether another release would replace the damaged model.
            back = None if state.attempts else rollback_from_damage(state, self.store)[0]
            if back is None or self._cannot_switch():
                raise
            return state, back
        return with_offer(state, self.config.channel, release), Done()

    def _offered(self, state: State) -> tuple[State, Release]:
        """Return the state with raised floors, and the release that the channel offers now."""
        channel, model_id = self.config.channel, self.config.model_id
        seen = self.repository.refresh(Floors(state.versions, state.signed_at, state.release_seqs))
        state = replace(state, **vars(seen), checked_at=self.now())
        path = pointer_path(channel, model_id)
        release = parse_release(self.repository.read(path, MAX_POINTER_BYTES), path)
        key = floor_key(channel, model_id)
        floor = state.release_seqs.get(key, 0)
        if release.model_id != model_id:
            raise TrustError(
                f"{path}: offers model {release.model_id} instead of {model_id}: publish the release again",
                code="trust.pointer_mismatch",
            )
        if release.release_seq < floor:
            raise TrustError(
                f"{path}: offers release {release.release_seq}, but release {floor} was offered before: "
                "publish the older version again under a higher number (jepa-export release downgrade)",
                code="trust.release_rollback",
            )
        seqs = {**state.release_seqs, key: release.release_seq}
        return replace(state, release_seqs=seqs), self._ordered(release)

    def _ordered(self, latest: Release) -> Release:
        """Return the release of ``only_version``, or the latest if that is unlisted or revoked."""
        version = self.only_version
        ordered = latest if version in (None, latest.version) else self._listed(version)
        if (
            ordered is None
            or ordered.release_seq in latest.revoked
            or ordered.manifest_sha256 in latest.revoked_manifests
        ):
            return latest
        # Only the latest pointer lists current revocations.
        current = {"revoked": latest.revoked, "revoked_manifests": latest.revoked_manifests}
        return ordered.model_copy(update=current)

    def _listed(self, version: str) -> Release | None:
        """Return the last release of a version, or None if the channel does not list one."""
        model_id = self.config.model_id
        path = release_path(self.config.channel, model_id, version)
        try:
            release = parse_release(self.repository.read(path, MAX_POINTER_BYTES), path)
        except UnlistedTargetError:
            return None
        if (release.model_id, release.version) != (model_id, version):
            raise TrustError(
                f"{path}: names {release.model_id} {release.version}: publish the release again",
                code="trust.pointer_mismatch",
            )
        return release

    def _committed_seq(self, state: State) -> int:
        """Return the number of the last known good release in this channel, or 0 if it was never released."""
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
        offer, now = _candidate(state), self.now()
        release, name = offer.release, offer.release.name
        state, rollback, alarm = find_rollback(state, offer, self.store, self.note)
        if rollback is not None:
            return state, self._cannot_switch(f"{rollback.reason}; ") or rollback
        if alarm and alarm != state.alarm:
            self.note("alarm", reason=alarm)
        state = replace(state, alarm=alarm)
        if self.only_version not in (None, release.version):
            return state, NothingNew(
                f"the fleet requests version {self.only_version}, which channel {offer.channel} does not "
                f"list or has revoked; the latest is {name}"
            )
        rejection = state.rejections.get(release.manifest_sha256)
        if is_offered(state, offer):
            if state.rollback_pending:
                return state, NothingNew(f"{name} is active, though its rollback is pending")
            # The same bytes may have been published under another number.
            return replace(state, current=offer.installed, good=offer.installed), NothingNew(
                f"{name} is active"
            )
        if state.pinned and not (state.current and offer.revokes(state.current)):
            return state, NothingNew(f"{name} is offered, but this robot is pinned to its active model")
        latest_seq = state.release_seqs.get(floor_key(offer.channel, release.model_id), 0)
        if release.release_seq < latest_seq and release.release_seq < (least := self._committed_seq(state)):
            return state, NothingNew(
                f"the fleet requests {name}, which is older than the committed release {least}: publish it "
                "again under a higher number (jepa-export release downgrade)"
            )
        if rejection is not None and blocks(rejection, now, state.signed_at) and not self.retry_rejected:
            until = (
                "" if rejection.not_before is None else f" until {rejection.not_before:%Y-%m-%d %H:%M} UTC"
            )
            how = "is undecided" if rejection.undecided else "was rejected"
            return state, NothingNew(
                f"{name} {how}{until}: {rejection.reason}; retry now with `jepa-runtime update apply "
                "--retry-rejected`",
                "undecided" if rejection.undecided else "rejected",
            )
        if reason := rollout_exclusion(release, self.config.device_id):
            return state, NothingNew(reason)
        try:
            self.gate.check_release(release, self._robot(state))
        except ReleaseRejectedError as error:
            # Not remembered: an upgrade or a new field in config.json may remove the reason at any time.
            return state, NothingNew(str(error), "rejected")
        return state, Done()

    def _download(self, state: State) -> Step:
        release = _candidate(state).release
        if not self.store.complete(release.manifest_sha256):
            Download(
                release=release,
                repository=self.repository,
                store=self.store,
                use_deltas=self.config.deltas and state.attempts.get(Phase.DOWNLOAD, 0) < _DELTA_ATTEMPTS,
                free_bytes=self.config.fetch.free_bytes,
                note=self.note,
                on_progress=self._progress,
                make_room=lambda: self._collect(state, 0),
            ).run()
        return state, Done()

    def _verify(self, state: State) -> Step:
        sha256 = _candidate(state).release.manifest_sha256
        whole = self.store.complete(sha256)
        try:
            Bundle.open(self.store.folder(sha256) if whole else self.store.staged(sha256))
        except BundleError as error:
            # Either the disk damaged it, and it has to be downloaded again, or it never was a valid bundle.
            if self.store.good() == sha256 != self.store.current():
                self.store.point("good", None)
            self.store.drop(sha256)
            return state, Failed(str(error))
        return state, Done()

    def _stage(self, state: State) -> Step:
        self.store.adopt(_candidate(state).release.manifest_sha256)
        return state, Done()

    def _probe(self, state: State) -> Step:
        release = _candidate(state).release
        folder = self.store.folder(release.manifest_sha256)
        self.gate.check(Bundle.open(folder), release, self._robot(state))
        current = state.current
        # A model that took the machine down is not opened for a comparison.
        opens = current is not None and not TrialCounter(self.store).exhausted(current.manifest_sha256)
        active = self.store.folder(current.manifest_sha256) if current is not None and opens else None
        self.note("probed", **self.gate.probe(folder, release.budgets, active))
        return state, Done()

    def _shadow(self, state: State) -> Step:
        release, current = _candidate(state).release, state.current
        candidate, ratio = release.manifest_sha256, release.budgets.max_error_ratio
        result = None
        if current is None:
            reason = "no model is active"
        elif ratio is None:
            reason = "the release sets no max_error_ratio"
        elif exhausted := TrialCounter(self.store).exhausted(current.manifest_sha256):
            reason = f"the active model is no longer opened: {exhausted}"
        elif damage := self.store.damage(current.manifest_sha256):
            # The candidate replaces the damaged model.
            reason = f"the active model is damaged: {damage}"
        else:
            active, folder = self.store.folder(current.manifest_sha256), self.store.folder(candidate)
            compared = state.comparisons.get(candidate, 0)
            result = self.gate.shadow(active, folder, ratio, comparisons=compared)
            reason = "config.json sets no source of frames (shadow)"
        if result is None:
            self.note("not compared", reason=reason)
        else:
            self.note("compared", **result)
        return state, Done()

    def _armed(self, state: State) -> Step:
        release = _candidate(state).release
        if self.config.approval and state.approved != release.manifest_sha256:
            reason = f"{release.name} waits for approval: run `jepa-runtime update approve`"
            return self._rollback_while_waiting(state, Waiting(reason))
        if (wait := self._cannot_switch()) is not None:
            return state, wait
        checked = state.checked_at
        if state.waits or checked is None or not timedelta() <= self.now() - checked < _RECENT:
            state, outcome = self._still_offered(state)
            # The request may have taken a while.
            return state, self._cannot_switch() or outcome
        return state, Done()

    def _rollback_while_waiting(self, state: State, wait: Waiting) -> Step:
        """Check every ``poll_s`` whether the active model was revoked: its rollback needs no approval."""
        if not state.waits or state.waits % max(1, round(self.config.poll_s / WAIT_S)):
            return state, wait
        try:
            state, offered = self._offered(state)
        except (FetchError, TrustError) as error:
            self.note("repository not checked while waiting", reason=str(error))
            return state, wait
        offer = ChannelRelease(channel=self.config.channel, release=offered)
        state, rollback, _ = find_rollback(state, offer, self.store, self.note)
        return state, wait if rollback is None or self._cannot_switch() else rollback

    def _cannot_switch(self, prefix: str = "") -> Waiting | None:
        health = self.serving.health()
        if health.may_switch:
            return None
        return Waiting(prefix + (health.absent or "the robot does not allow a model switch now"))

    def _still_offered(self, state: State) -> Step:
        release = _candidate(state).release
        try:
            state, offered = self._offered(state)
        except FetchError as error:
            self.note("repository not checked before the switch", reason=str(error))
            return state, Done()
        offer = ChannelRelease(channel=self.config.channel, release=offered)
        state, rollback, _ = find_rollback(state, offer, self.store, self.note)
        if rollback is not None:
            return state, rollback
        if offered.manifest_sha256 == release.manifest_sha256:
            reason = rollout_exclusion(offered, self.config.device_id)
            return state, Dropped(reason) if reason else Done()
        if offer.revokes(_candidate(state).installed):
            return state, Dropped(f"{release.name} was revoked before the switch")
        return state, Dropped(f"{offered.name} is offered instead of {release.name}")

    def _switch(self, state: State) -> Step:
        sha256 = _candidate(state).release.manifest_sha256
        if reason := TrialCounter(self.store).exhausted(sha256):
            return state, Rejected(reason)
        folder = self.store.open(sha256).path
        self.store.point("current", sha256)
        self.serving.swap(folder)
        return replace(state, serving_observed=self.serving.health().serves is not None), Done()

    def _observe(self, state: State) -> Step:
        release = _candidate(state).release
        if self.store.current() != release.manifest_sha256:
            return state, _LINK_CHANGED
        if reason := TrialCounter(self.store).exhausted(release.manifest_sha256):
            return state, Unhealthy(reason)
        ends = self.clock.monotonic() + self.config.health_window_s
        while True:
            self.heartbeat()
            health = self.serving.health()
            if health.failure:
                return state, Unhealthy(health.failure)
            if health.absent or (health.serves is None and state.serving_observed):
                absent = health.absent or "the serving process is not running: start it"
                return state, Waiting(absent, unobserved=True)
            if health.serves is None:
                # No serving process could be observed: what can be checked is that the model runs from its
                # slot. Its latency was checked before the switch.
                others = release.budgets.model_copy(update={"latency_p99_ms": None})
                self.note("probed", **self.gate.probe(self.store.root / "current", others, None))
                return state, Done()
            if health.serves != release.manifest_sha256:
                return state, Unhealthy(
                    f"the serving process runs {health.serves[:12]} instead of the candidate"
                )
            if self.clock.monotonic() >= ends:
                idle = Waiting("too few frames were processed to assess the model: check that images arrive")
                return state, idle if health.idle else Done()
            self.clock.sleep(_POLL_S)

    def _commit(self, state: State) -> Step:
        sha256 = _candidate(state).release.manifest_sha256
        if self.store.current() != sha256:
            return state, _LINK_CHANGED
        self.store.point("good", sha256)
        return state, Done()

    def _report(self, state: State) -> Step:
        self.on_end(state)
        return state, Done()

    def _gc(self, state: State) -> Step:
        self._collect(state, self.config.keep_slots)
        if state.result == "updated":
            # Files that were downloaded for it and are not part of it.
            self.store.prune_staged("", ())
        return state, Done()

    def _collect(self, state: State, others: int) -> None:
        retained = (state.current, state.good, state.previous)
        if removed := self.store.collect([one.manifest_sha256 for one in retained if one], others):
            self.note("removed slots", slots=removed)

    def _rollback(self, state: State) -> Step:
        state = with_usable_good(state, self.store, self.note)
        good = None if state.good is None else state.good.manifest_sha256
        self.store.point("current", good)
        self.store.point("good", good)
        if good is not None:
            try:
                self.serving.swap(self.store.folder(good))
            except ReleaseRejectedError:
                self._retain_active(state)
                raise
        TrialCounter(self.store).retain(good)
        return state, Done()

    def _retain_active(self, state: State) -> None:
        """Point ``current`` at the active model again, unless that is a candidate that failed."""
        current = state.current
        if state.candidate is None and current and self.serving.health().serves == current.manifest_sha256:
            self.store.point("current", current.manifest_sha256)

    def _rejected(self, state: State) -> Step:
        return state, Done()

    def _robot(self, state: State) -> Robot:
        """Return this robot; its software expects the interface of the active model."""
        robot = Robot(self.config.hardware_ids, self.config.engine, self.config.precision)
        if state.current is None or self.any_interface:
            return robot
        active = self._first_readable_manifest(state)
        needs_poses = bool(active.graphs.relative_pose)
        return replace(robot, interface=interface_digest(active), needs_poses=needs_poses)

    def _first_readable_manifest(self, state: State) -> Manifest:
        """Return the manifest of the active, last known good or previous model, whichever is undamaged."""
        *others, last = [one.manifest_sha256 for one in (state.current, state.good, state.previous) if one]
        for sha256 in others:
            try:
                return self.store.manifest(sha256)
            except StorageError as error:
                self.note("a manifest is damaged", reason=str(error))
        return self.store.manifest(last)

    def _progress(self, done: int, total: int) -> None:
        self.heartbeat()
        self.on_progress(done, total)


def _candidate(state: State) -> ChannelRelease:
    assert state.candidate is not None, state.phase
    return state.candidate


_STEPS: Mapping[Phase, Callable[[UpdateSteps, State], Step]] = {
    Phase.CHECK: UpdateSteps._check,
    Phase.RESOLVE: UpdateSteps._resolve,
    Phase.DOWNLOAD: UpdateSteps._download,
    Phase.VERIFY: UpdateSteps._verify,
    Phase.STAGE: UpdateSteps._stage,
    Phase.PROBE: UpdateSteps._probe,
    Phase.SHADOW: UpdateSteps._shadow,
    Phase.ARMED: UpdateSteps._armed,
    Phase.SWITCH: UpdateSteps._switch,
    Phase.OBSERVE: UpdateSteps._observe,
    Phase.COMMIT: UpdateSteps._commit,
    Phase.REPORT: UpdateSteps._report,
    Phase.GC: UpdateSteps._gc,
    Phase.ROLLBACK: UpdateSteps._rollback,
    Phase.REJECTED: UpdateSteps._rejected,
}
