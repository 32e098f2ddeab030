"""The folder of a robot, and the assembly of everything that an update needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import InconclusiveError, JepaRuntimeError, ReleaseRejectedError, UpdateError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota import audit_log, config, state
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.gate import engine_build, probe, shadow_test, static_checks
from jepa_runtime.ota.gate.gate import Gate
from jepa_runtime.ota.gate.sequential_test import PairedTest, Verdict, alpha_after
from jepa_runtime.ota.health.serving_interface import Serving
from jepa_runtime.ota.health.serving_socket import LocalServing
from jepa_runtime.ota.release import Budgets, Release, Robot
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import NothingNew, Outcome, RolledBack, Waiting, next_state
from jepa_runtime.ota.steps import UpdateSteps
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.download import Repository
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import Clock, FolderSource, Source, WatchedSource
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from jepa_runtime.sources.base import Source as Frames
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util import atomic_files

CONFIG, STATE, AUDIT, LOCK, TRUSTED_ROOT, META = (
    "config.json", state.NAME, "audit.log", "lock", "root.json", "meta",
)  # fmt: skip
# Release date of this version, updated with each version. A clock that is behind it is wrong.
SOFTWARE_DATE = datetime(2026, 11, 30, tzinfo=timezone.utc)
_SLICE_S = 1.0


def utc_now() -> datetime:
    """Return the time of day by this robot's clock, in UTC."""
    return datetime.now(timezone.utc)


def no_op(*_: Any) -> None:
    """Do nothing: the default of every callback."""


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """What an update may install, and from where.

    Attributes:
        source: A folder with the repository, such as a USB stick; None: the configured repository.
        any_interface: Whether a release may have another action interface than the active model.
        retry_rejected: Whether to retry releases that were rejected earlier.
        only_version: The only version that may be installed, which need not be the channel's latest; None:
            the latest.
    """

    source: Path | None = None
    any_interface: bool = False
    retry_rejected: bool = False
    only_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class UpdateCallbacks:
    """Functions that an update calls to report its progress.

    Attributes:
        on_state: Called with each new state and the reason for it.
        on_progress: Called with the number of bytes of a release that are present, and the total.
        on_comparison: Called about once a second with the intermediate result of a shadow test, on its
            thread.
        on_end: Called with the state in which an update ended; if it raises, it is retried.
    """

    on_state: Callable[[State, str], None] = no_op
    on_progress: Progress = no_op
    on_comparison: Callable[[shadow_test.ShadowReport], None] = no_op
    on_end: Callable[[State], None] = no_op


@dataclass(frozen=True, kw_only=True)
class UpdateComponents:
    """Replacements for parts of an update; None: the part that ``config.json`` describes.

    Attributes:
        repository: The signed repository.
        gate: The gate that a candidate has to pass.
        serving: The interface to the serving process
            (default: :class:`~jepa_runtime.ota.health.serving_socket.LocalServing`).
        frames: Opens the source of frames for the shadow test; see :class:`LocalGate`.
        now: The time of day.
        clock: The clock for durations and pauses.
    """

    repository: Repository | None = None
    gate: Gate | None = None
    serving: Serving | None = None
    frames: Callable[[], Frames] | None = None
    now: Callable[[], datetime] = utc_now
    clock: Clock = time


# Opens the client of one robot; takes ``options``, ``callbacks`` and ``heartbeat`` of :func:`open_client`.
ClientOpener = Callable[..., AbstractContextManager[Client]]


class LocalGate:
    """The gate on this robot, with the engine of the serving process.

    Args:
        settings: The robot's configuration.
        heartbeat: Called while engines are built, during the probe, and with every frame of the shadow test,
            which may take as long as its source.
        frames: Opens a source of frames that ends by itself; None: the source that ``settings`` name.
        on_comparison: See :class:`UpdateCallbacks`.
    """

    def __init__(
        self,
        settings: Config,
        heartbeat: Callable[[], None] = no_op,
        *,
        frames: Callable[[], Frames] | None = None,
        on_comparison: Callable[[shadow_test.ShadowReport], None] = no_op,
    ) -> None:
        self._settings, self._heartbeat, self._on_comparison = settings, heartbeat, on_comparison
        spec = settings.shadow
        self._frames = frames or (None if spec is None else lambda: open_source(spec))
        self._finite_source = frames is not None

    def check_release(self, release: Release, robot: Robot) -> None:
        """See :func:`jepa_runtime.ota.gate.static_checks.check_release`."""
        static_checks.check_release(release, robot)

    def check(self, bundle: Bundle, release: Release, robot: Robot) -> None:
        """See :func:`jepa_runtime.ota.gate.static_checks.check`."""
        static_checks.check(bundle, release, robot, allow_untrained=self._settings.allow_untrained)

    def probe(self, folder: Path, budgets: Budgets, active: Path | None) -> dict[str, Any]:
        """Build the engines of a candidate, then probe it.

        See :func:`jepa_runtime.ota.gate.engine_build.build` and :func:`jepa_runtime.ota.gate.probe.probe`.
        """
        settings = self._settings
        engine_build.build(
            folder,
            engine=settings.engine,
            precision=settings.precision,
            wall_s=settings.probe.build_s,
            heartbeat=self._heartbeat,
        )
        report = probe.probe(
            folder,
            budgets=budgets,
            active=active,
            engine=settings.engine,
            precision=settings.precision,
            limits=settings.probe,
            require_sandbox=settings.require_sandbox,
            heartbeat=self._heartbeat,
        )
        both = report.comparison
        compared = {} if both is None else {"times_active": [round(both.low, 3), round(both.high, 3)]}
        return {
            "latency_p50_ms": round(report.latency_p50_ms, 3),
            "latency_p99_ms": round(report.latency_p99_ms, 3),
            "cost_p99_ms": round(report.cost.p99_ms, 3),
            "cost_by": "clock" if report.by_clock else "processor time",
            "others": None if report.others is None else round(report.others, 2),
            **compared,
            "peak_memory_mb": round(report.peak_memory_mb, 1),
            "network_isolated": report.network_isolated,
            "disk_isolated": report.disk_isolated,
        }

    def shadow(
        self, current: Path, candidate: Path, max_error_ratio: float, *, comparisons: int
    ) -> dict[str, Any] | None:
        """Compare the candidate with the active model; see :func:`jepa_runtime.ota.gate.shadow_test.run`.

        Raises:
            ReleaseRejectedError: The candidate predicts worse than the active model.
            InconclusiveError: The frames ended, or something failed, after the test was first evaluated.
            JepaRuntimeError: The same, before the first evaluation.
        """
        if self._frames is None:
            return None
        test = PairedTest(margin=max_error_ratio - 1, alpha_accept=alpha_after(comparisons))
        try:
            with closing(self._frames()) as source:
                report = shadow_test.run(
                    lambda: self._open(current),
                    lambda: self._open(candidate),
                    source,
                    test,
                    heartbeat=self._heartbeat,
                    on_report=self._on_comparison,
                    finite_source=self._finite_source,
                )
            if report.verdict is Verdict.CONTINUE:
                raise UpdateError(f"{source.name}: {report.reason}", code="gate.shadow_too_few_frames")
        except JepaRuntimeError as error:
            if test.has_evaluated:
                raise InconclusiveError(str(error), code="gate.shadow_inconclusive") from error
            raise
        if report.verdict is Verdict.REFUSE:
            raise ReleaseRejectedError(f"{candidate}: {report.reason}", code="gate.shadow_rejected")
        return {"reason": report.reason, "frames": report.frames, "moving": report.moving}

    def _open(self, folder: Path) -> WorldModel:
        settings = self._settings
        return WorldModel.open(
            folder,
            engine=settings.engine,
            precision=settings.precision,
            options=BackendOptions(threads=settings.probe.threads),
            allow_untrained=settings.allow_untrained,
        )


@contextmanager
def open_client(
    root: Path,
    *,
    options: UpdateOptions | None = None,
    callbacks: UpdateCallbacks | None = None,
    components: UpdateComponents | None = None,
    heartbeat: Callable[[], None] = no_op,
    wait_s: float = 0.0,
) -> Iterator[Client]:
    """Open the update client of the robot in ``root``, and hold the robot's lock until the block ends.

    Opening also removes what a power cut left behind.

    Args:
        root: The robot's folder.
        options: What may be installed.
        callbacks: Receive the progress.
        components: Replacements for parts, such as the interface to a ROS node.
        heartbeat: Called at least every few seconds unless the update hangs (see :class:`UpdateSteps` for the
            exceptions). A KeyboardInterrupt that it raises stops the update; the next call resumes it.
        wait_s: How long to wait for the lock; see :func:`jepa_runtime.util.atomic_files.locked`.

    Raises:
        UpdateError: The robot is not provisioned, its folder belongs to another account, or
            ``options.source`` holds no repository.
        StorageError: Another process holds the lock, or the state or the disk is damaged.
    """
    options, callbacks = options or UpdateOptions(), callbacks or UpdateCallbacks()
    components = components or UpdateComponents()
    settings = config.load(root / CONFIG)
    folder_owner.require_owner(root)
    now, clock = components.now, components.clock
    with atomic_files.locked(root / LOCK, purpose="an update", wait_s=wait_s):
        log = audit_log.AuditLog(root / AUDIT, now)
        store = SlotStore(root)
        removed = store.recover()
        if removed:
            log.append("removed leftovers", names=removed)
        stored = _with_unrecorded_rollback(store, state.load(root / STATE), now())
        _restore_links(store, stored)

        def record(before: State, outcome: Outcome | None, after: State) -> None:
            reason = getattr(outcome, "reason", "")
            if _is_worth_logging(before, outcome, after):
                log.append(f"{before.phase} -> {after.phase}", **release_facts(before, after), reason=reason)
            state.save(root / STATE, after)
            callbacks.on_state(after, reason)

        def sleep(seconds: float) -> None:
            while seconds > 0:
                heartbeat()
                clock.sleep(min(seconds, _SLICE_S))
                seconds -= _SLICE_S

        steps = UpdateSteps(
            config=settings,
            store=store,
            repository=components.repository or _repository(root, settings, options.source, now, heartbeat),
            gate=components.gate
            or LocalGate(
                settings, heartbeat, frames=components.frames, on_comparison=callbacks.on_comparison
            ),
            serving=components.serving or LocalServing(root, heartbeat),
            note=log.append,
            on_end=callbacks.on_end,
            now=now,
            clock=clock,
            heartbeat=heartbeat,
            on_progress=callbacks.on_progress,
            any_interface=options.any_interface,
            retry_rejected=options.retry_rejected,
            only_version=options.only_version,
        )
        yield Client(stored, run_step=steps, record=record, now=now, sleep=sleep)


def release_facts(before: State, after: State) -> dict[str, Any]:
    """Return what a log entry says about the release of the update in progress."""
    work = after.candidate or before.candidate
    if work is None:
        return {}
    return {"release_seq": work.release.release_seq, "version": work.release.version}


def _with_unrecorded_rollback(store: SlotStore, stored: State, now: datetime) -> State:
    """Resume a rollback that moved the links but could not be recorded because the disk was full."""
    to = stored.previous
    if stored.phase is not Phase.IDLE or to is None or stored.current != stored.good:
        return stored
    if not store.current() == store.good() == to.manifest_sha256:
        return stored
    reason = "an earlier rollback could not be recorded, because the disk was full"
    return next_state(stored, RolledBack(to, reason), now)


def _restore_links(store: SlotStore, stored: State) -> None:
    """Make the links agree with the state between updates: one may have been removed by hand.

    If a rollback was still pending, the last known good model may be active already.
    """
    if stored.phase is not Phase.IDLE:
        return
    is_rolled_back = stored.good is not None and store.current() == stored.good.manifest_sha256
    current = stored.good if is_rolled_back else stored.current
    for name, installed in (("current", current), ("good", stored.good)):
        if installed is not None and store.complete(installed.manifest_sha256):
            store.point(name, installed.manifest_sha256)


def _is_worth_logging(before: State, outcome: Outcome | None, after: State) -> bool:
    """Return False for a check that found nothing, which happens every hour, and for continued waiting."""
    if isinstance(outcome, Waiting) and after.reason == before.reason:
        return False
    if after.phase is Phase.RESOLVE and not isinstance(outcome, Waiting):
        return False
    return outcome is not None and not isinstance(outcome, NothingNew)


def _repository(
    root: Path,
    settings: Config,
    source: Path | None,
    now: Callable[[], datetime],
    heartbeat: Callable[[], None],
) -> Repository:
    if source is not None and not (source / "metadata").is_dir():
        # A folder given on the command line must exist now; the configured one may be mounted later.
        raise UpdateError(
            f"{source}: not a repository (no folder metadata/): check that the medium is mounted",
            code="update.no_repository",
        )
    base = str(source) if source is not None else settings.repository.rstrip("/")
    targets = settings.targets if source is None and settings.targets else f"{base}/targets"
    path = root / TRUSTED_ROOT
    try:
        trusted = path.read_bytes()
    except OSError as error:
        raise UpdateError(
            f"{path}: cannot read the trusted root: {error.strerror}: copy the repository's root.json there",
            code="update.trusted_root_unreadable",
        ) from error
    return RepositoryTrust(
        root / META,
        root=trusted,
        metadata=WatchedSource(_source(f"{base}/metadata", settings), heartbeat),
        targets=WatchedSource(_source(targets, settings), heartbeat),
        limits=settings.fetch,
        now=now,
        not_before=SOFTWARE_DATE,
    )


def _source(address: str, settings: Config) -> Source:
    if address.startswith(("http://", "https://")):
        return HttpSource(address, settings.fetch)
    return FolderSource(Path(address))
