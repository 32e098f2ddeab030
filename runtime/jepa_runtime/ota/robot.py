"""The folder of a robot, and all that its updates need, put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
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
from jepa_runtime.ota.state_machine import NothingNew, NotYet, Outcome, RolledBack, follow
from jepa_runtime.ota.steps import UpdateSteps
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.download import Repository
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import Clock, FolderSource, Source, Watched
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from jepa_runtime.sources.base import Source as Frames
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util import atomic_files

CONFIG, STATE, AUDIT, LOCK, TRUSTED_ROOT, META = (
    "config.json", state.NAME, "audit.log", "lock", "root.json", "meta",
)  # fmt: skip
# Raised with each version: no clock is right that is behind it.
SOFTWARE_DATE = datetime(2026, 11, 30, tzinfo=timezone.utc)
_SLICE_S = 1.0


def utc_now() -> datetime:
    """The time of day, as this robot has it."""
    return datetime.now(timezone.utc)


def nothing(*_: Any) -> None:
    """Tell nobody."""


class LocalGate:
    """The gate on this robot, with the engine that serves.

    Args:
        alive: is called while a candidate is built for and probed, and with every frame of a comparison,
            which may take as long as its source.
        frames: opens the source for a comparison, which ends by itself; None: the one that ``settings`` name.
        compared: is told about once a second how a comparison stands, on a thread of its own.
    """

    def __init__(
        self,
        settings: Config,
        alive: Callable[[], None] = nothing,
        *,
        frames: Callable[[], Frames] | None = None,
        compared: Callable[[shadow_test.ShadowReport], None] = nothing,
    ) -> None:
        self._settings, self._alive, self._compared = settings, alive, compared
        spec = settings.shadow
        self._frames = frames or (None if spec is None else lambda: open_source(spec))
        self._ends = frames is not None

    def check_release(self, release: Release, robot: Robot) -> None:
        """See :func:`jepa_runtime.ota.gate.static_checks.check_release`."""
        static_checks.check_release(release, robot)

    def check(self, bundle: Bundle, release: Release, robot: Robot) -> None:
        """See :func:`jepa_runtime.ota.gate.static_checks.check`."""
        static_checks.check(bundle, release, robot, allow_untrained=self._settings.allow_untrained)

    def probe(self, folder: Path, budgets: Budgets, active: Path | None) -> dict[str, Any]:
        """Build its engines (:mod:`jepa_runtime.ota.gate.engine_build`), then try it
        (:func:`jepa_runtime.ota.gate.probe.probe`)."""
        settings = self._settings
        engine_build.build(
            folder,
            engine=settings.engine,
            precision=settings.precision,
            wall_s=settings.probe.build_s,
            alive=self._alive,
        )
        report = probe.probe(
            folder,
            budgets=budgets,
            active=active,
            engine=settings.engine,
            precision=settings.precision,
            limits=settings.probe,
            require_sandbox=settings.require_sandbox,
            alive=self._alive,
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
            "network_cut": report.network_cut,
            "disk_cut": report.disk_cut,
        }

    def shadow(
        self, current: Path, candidate: Path, max_error_ratio: float, *, comparisons: int
    ) -> dict[str, Any] | None:
        """See :func:`jepa_runtime.ota.gate.shadow_test.run`.

        Raises:
            ReleaseRejectedError: the candidate is not as good as what serves.
            InconclusiveError: the frames ended, or something failed, after the test had looked.
            JepaRuntimeError: the same, before.
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
                    alive=self._alive,
                    compared=self._compared,
                    ends=self._ends,
                )
            if report.verdict is Verdict.CONTINUE:
                raise UpdateError(f"{source.name}: {report.reason}")
        except JepaRuntimeError as error:
            if test.has_looked:
                raise InconclusiveError(str(error)) from error
            raise
        if report.verdict is Verdict.REFUSE:
            raise ReleaseRejectedError(f"{candidate}: {report.reason}")
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
    source: Path | None = None,
    repository: Repository | None = None,
    gate: Gate | None = None,
    serving: Serving | None = None,
    report: Callable[[State], None] = nothing,
    progress: Progress = nothing,
    tell: Callable[[State, str], None] = nothing,
    alive: Callable[[], None] = nothing,
    now: Callable[[], datetime] = utc_now,
    clock: Clock = time,
    frames: Callable[[], Frames] | None = None,
    compared: Callable[[shadow_test.ShadowReport], None] = nothing,
    any_interface: bool = False,
    again: bool = False,
    only_version: str | None = None,
    wait_s: float = 0.0,
) -> Iterator[Client]:
    """The client of the robot in ``root``, with whatever a power cut left cleared away. One at a time.

    Args:
        source: a folder with the repository, a USB stick's for instance; None: as set up.
        repository, gate, serving: None: the real ones; see :mod:`jepa_runtime.ota.health.serving_socket`.
        report: tells somebody how an update ended.
        progress: is told how many bytes of a release are there, and of how many.
        tell: is told each new state, and why.
        alive: is called at least every few seconds while nothing hangs (see :class:`UpdateSteps` for where it
            is not); a KeyboardInterrupt that it raises stops the update, to go on at the next call.
        frames, compared: see :class:`LocalGate`.
        any_interface, again, only_version: see :class:`UpdateSteps`.
        wait_s: see :func:`jepa_runtime.util.atomic_files.locked`.

    Raises:
        UpdateError: the robot is not set up, its folder belongs to another account, or there is no repository
            in ``source``.
        StorageError: something else has the lock, or the state or the disk is damaged.
    """
    settings = config.load(root / CONFIG)
    folder_owner.require_owner(root)
    with atomic_files.locked(root / LOCK, purpose="an update", wait_s=wait_s):
        log = audit_log.AuditLog(root / AUDIT, now)
        store = SlotStore(root)
        left = store.recover()
        if left:
            log.append("cleared away", names=left)
        kept = _as_gone_back(store, state.load(root / STATE), now())
        _point_as_kept(store, kept)

        def record(before: State, outcome: Outcome | None, after: State) -> None:
            why = getattr(outcome, "reason", "")
            if _is_worth_noting(before, outcome, after):
                log.append(f"{before.phase} -> {after.phase}", **facts(before, after), reason=why)
            state.save(root / STATE, after)
            tell(after, why)

        def rest(seconds: float) -> None:
            while seconds > 0:
                alive()
                clock.sleep(min(seconds, _SLICE_S))
                seconds -= _SLICE_S

        steps = UpdateSteps(
            config=settings,
            store=store,
            repository=repository or _repository(root, settings, source, now, alive),
            gate=gate or LocalGate(settings, alive, frames=frames, compared=compared),
            serving=serving or LocalServing(root, alive),
            note=log.append,
            report=report,
            now=now,
            clock=clock,
            alive=alive,
            progress=progress,
            any_interface=any_interface,
            again=again,
            only_version=only_version,
        )
        yield Client(kept, steps=steps, record=record, now=now, rest=rest)


def facts(before: State, after: State) -> dict[str, Any]:
    """What the log says of the release in work."""
    work = after.work or before.work
    if work is None:
        return {}
    return {"release_seq": work.release.release_seq, "version": work.release.version}


def _as_gone_back(store: SlotStore, kept: State, now: datetime) -> State:
    """A way back that a full disk let be gone and not be kept is a way back in work."""
    to = kept.previous
    if kept.phase is not Phase.IDLE or to is None or kept.current != kept.good:
        return kept
    if not store.current() == store.good() == to.manifest_sha256:
        return kept
    return follow(kept, RolledBack(to, "it went back before, and the disk did not let that be kept"), now)


def _point_as_kept(store: SlotStore, kept: State) -> None:
    """Between updates the links follow the state; somebody may have removed one. On a way back that could not
    be gone at once, what is good may serve by now."""
    if kept.phase is not Phase.IDLE:
        return
    is_back = kept.good is not None and store.current() == kept.good.manifest_sha256
    current = kept.good if is_back else kept.current
    for name, installed in (("current", current), ("good", kept.good)):
        if installed is not None and store.complete(installed.manifest_sha256):
            store.point(name, installed.manifest_sha256)


def _is_worth_noting(before: State, outcome: Outcome | None, after: State) -> bool:
    """Looking for an update and finding none is not: it happens every hour; nor is waiting on."""
    if isinstance(outcome, NotYet) and after.reason == before.reason:
        return False
    if after.phase is Phase.RESOLVE and not isinstance(outcome, NotYet):
        return False
    return outcome is not None and not isinstance(outcome, NothingNew)


def _repository(
    root: Path,
    settings: Config,
    source: Path | None,
    now: Callable[[], datetime],
    alive: Callable[[], None],
) -> Repository:
    if source is not None and not (source / "metadata").is_dir():
        # Whoever names a folder is there to name another; one that is set up may be mounted later.
        raise UpdateError(f"{source}: no repository (a folder with metadata/): check that it is mounted")
    base = str(source) if source is not None else settings.repository.rstrip("/")
    targets = settings.targets if source is None and settings.targets else f"{base}/targets"
    path = root / TRUSTED_ROOT
    try:
        trusted = path.read_bytes()
    except OSError as error:
        raise UpdateError(
            f"{path}: cannot be read ({error.strerror}): put the trusted root of the repository there"
        ) from error
    return RepositoryTrust(
        root / META,
        root=trusted,
        metadata=Watched(_source(f"{base}/metadata", settings), alive),
        targets=Watched(_source(targets, settings), alive),
        limits=settings.fetch,
        now=now,
        not_before=SOFTWARE_DATE,
    )


def _source(address: str, settings: Config) -> Source:
    if address.startswith(("http://", "https://")):
        return HttpSource(address, settings.fetch)
    return FolderSource(Path(address))
