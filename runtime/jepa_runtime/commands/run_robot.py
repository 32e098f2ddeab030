"""The part of `jepa-runtime run --robot` that follows the link `current` and reports the model's health."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import (
    BackendError,
    BundleError,
    DeviceLostError,
    JepaRuntimeError,
    StorageError,
    UpdateError,
)
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota import config, robot, state
from jepa_runtime.ota.health.serving_health import ServingHealth
from jepa_runtime.ota.health.serving_socket import ServerSocket, ServingReport, listen, send_report
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.util import atomic_files
from jepa_runtime.util.systemd import notify

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0
# Without a processed frame for this long, while others arrive, the model hangs.
_SILENT_S = 10.0
# Without a processed frame for this long, it may be about to hang.
_QUIET_S = 2.0
# Longer than an update waits for it.
_OPENING_S = 900.0
# After this long without a crash, earlier crashes no longer count.
_STABLE_S = 3600.0
# A model that could not be served is retried after a pause that doubles.
_FIRST_PAUSE_S, _MAX_PAUSE_S = 2.0, 300.0


def adopt(args: argparse.Namespace) -> list[Path]:
    """Complete ``args`` from the robot's config.json.

    Returns:
        The files of the robot that are read.

    Raises:
        UpdateError: The robot is not provisioned, or has no model yet.
    """
    settings = config.load(args.robot / robot.CONFIG)
    if SlotStore(args.robot).current() is None:
        raise UpdateError(
            f"{args.robot}: no model is installed: run `jepa-runtime update apply --robot {args.robot}`",
            code="update.no_model",
        )
    args.engine = args.engine or settings.engine
    args.precision = args.precision or settings.precision
    args.allow_untrained = args.allow_untrained or settings.allow_untrained
    return [args.robot / name for name in ("current", robot.CONFIG, robot.STATE)]


def _end(why: str) -> None:
    try:
        print(f"jepa-runtime: {why}: this process exits to be restarted", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


class Follower:
    """Connects the pipeline of one process with the updates of the robot in ``root``.

    Args:
        root: The robot's folder.
        open_model: Opens a verified bundle, on the pipeline's thread.
        deadline_ms: Deadline of encode and predict, if the release has no latency budget.
        end: Ends the process at once, as the last resort: the model to replace hangs, or its device is lost.
    """

    def __init__(
        self,
        root: Path,
        open_model: Callable[[Bundle], WorldModel],
        *,
        deadline_ms: float,
        end: Callable[[str], None] = _end,
    ) -> None:
        self._root, self._open_model, self._deadline_ms, self._end = root, open_model, deadline_ms, end
        self._store, self._health = SlotStore(root), ServingHealth()
        self._trials = TrialCounter(self._store)
        self._pipeline: Pipeline | None = None
        self._socket: ServerSocket | None = None
        self._opening: tuple[str, float] | None = None
        self._standby = ""
        self._refused, self._reason, self._passing = "", "", False
        self._retry_at, self._pause_s = 0.0, _FIRST_PAUSE_S
        self._ended, self._received, self._ended_at, self._silent_s = 0, 0, 0.0, 0.0
        self._served_at = 0.0
        self._wake, self._ending = Event(), Event()
        self._heartbeat_at = -math.inf

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Answer requests of updates until the end of the block, in which the process serves.

        On a read-only file system, where no update is possible either, the block runs without a socket.

        Raises:
            UpdateError: The folder belongs to another account.
            StorageError: Another process serves from it, or the folder cannot be used.
        """
        with ExitStack() as stack:
            try:
                server_socket = stack.enter_context(listen(self._root))
            except StorageError as error:
                if not atomic_files.is_read_only(error):
                    raise
                _LOG.warning("serving without a lock and a socket: %s", error)
                yield
                return
            self._socket, closing = server_socket, Event()
            server_socket.server.settimeout(_POLL_S)

            def answer_all() -> None:
                while not closing.is_set():
                    self._end_if_opening_hangs()
                    try:
                        connection, _ = server_socket.server.accept()
                    except TimeoutError:
                        continue
                    except OSError:
                        # For example, no file descriptor is available.
                        closing.wait(_POLL_S)
                        continue
                    self._wake.set()
                    try:
                        send_report(connection, self._report(server_socket.idle_report))
                    except Exception as error:
                        _LOG.warning("%s: cannot send the report: %s", self._root, error)

            with _running_thread(answer_all, closing):
                yield

    def open(self) -> WorldModel:
        """Return the model to serve first.

        This is the target of the link ``current``. It is the last known good model instead if the other one
        cannot be served, took the previous process down, or took too many processes or machines down.

        Raises:
            Exception: The last candidate could not be opened.
        """
        current, good = self._store.current() or "", self._store.good()
        if good is None or good == current:
            return self._open_or_substitute(current)
        if self._socket is not None and self._socket.idle_report.blamed == current:
            error = BackendError(f"{self._root}: the serving process died with it", code="serving.died")
            self._reject(current, error)
            self._retry_at = math.inf
            with suppress(Exception):
                return self._open_or_substitute(good)
            return self._open_counted(current)
        try:
            return self._open_counted(current)
        except Exception as error:
            _LOG.warning("opening the last known good model %s instead: %s", good[:12], error)
            self._reject(current, error)
        return self._open_or_substitute(good)

    def await_model(self, stopping: Event) -> bool:
        """Wait for a model that may be opened, and answer requests of updates in the meantime.

        It may be another release, or a model whose attempts were reset (see ota/health/trial_counter.py).

        Returns:
            Whether there is one; False: ``stopping`` was set.
        """
        reported = ""
        while why := self._nothing_to_open():
            if why != reported:
                _LOG.error("no model is opened, the robot cannot run: %s", why)
                reported = why
            if self._socket is not None:
                refused = self._store.current() or ""
                self._socket.idle_report = replace(self._socket.idle_report, refused=refused, reason=why)
            notify("READY=1\nSTATUS=no model is opened\nWATCHDOG=1")
            if stopping.wait(_POLL_S):
                notify("STOPPING=1")
                return False
        if self._socket is not None:
            self._socket.idle_report = replace(self._socket.idle_report, refused="", reason="")
        return True

    def _nothing_to_open(self) -> str:
        """Return why no model may be opened, or an empty string."""
        current, good = self._store.current(), self._store.good()
        if current is None:
            return f"{self._root}: no model is installed: publish a release"
        why = ""
        for sha256 in (current, good):
            if sha256 is not None and not (
                why := self._trials.exhausted(self._trials.substitute_for(sha256))
            ):
                return ""
        return why

    def _open_or_substitute(self, sha256: str) -> WorldModel:
        """Open a model or, if it is no longer opened, the one that was good before it."""
        instead = self._trials.substitute_for(sha256)
        if instead != sha256:
            why = self._trials.exhausted(sha256)
            _LOG.error("opening the previous model %s instead: %s", instead[:12], why)
            self._reject(sha256, BackendError(why, code="serving.too_many_attempts"))
        return self._open_counted(instead)

    def _open_counted(self, sha256: str) -> WorldModel:
        with self._trials.opening(sha256):
            self._blame(sha256)
            try:
                return self._open_model(self._store.open(sha256))
            except DeviceLostError as error:
                self._end(str(error))
                raise

    def _blame(self, sha256: str) -> None:
        if self._socket is not None and not self._ending.is_set():
            self._socket.blame(sha256)

    def serves(self, model: WorldModel) -> None:
        """Assess ``model``, which serves from now on; called between two frames."""
        self._blame(model.bundle.sha256)
        budget_ms = self._budget_ms(model.bundle.sha256)
        self._health.begin(budget_ms or self._deadline_ms)
        self._health.forgive(lateness=budget_ms is None)
        self._ended_at = self._served_at = time.monotonic()

    @contextmanager
    def following(self, pipeline: Pipeline) -> Iterator[None]:
        """Let the started ``pipeline`` serve the target of the link until the end of the block."""
        self._pipeline = pipeline
        self.serves(pipeline.model)
        notify("READY=1")

        def follow() -> None:
            while not self._ending.is_set():
                self._wake.wait(_POLL_S)
                self._wake.clear()
                try:
                    self._follow_link(pipeline)
                    self._check_progress(pipeline)
                except Exception as error:
                    _LOG.warning("%s: cannot follow the link now: %s", self._root, error)

        try:
            with _running_thread(follow, self._ending):
                yield
                self._ending.set()
                if self._socket is not None:
                    # An interrupted opening does not count against the model.
                    self._socket.blame("")
                self._trials.close()
        finally:
            notify("STOPPING=1")

    def result(self, result: Result) -> None:
        """Record a result of the pipeline, on its thread."""
        self._send_heartbeat()
        self._health.latent(result.latent)
        if result.surprise is not None:
            self._health.surprise(result.surprise, result.surprising)
        self._health.timed(result.timings_ms["encode"] + result.timings_ms["predict"])

    def failed(self, error: Exception) -> None:
        """Record a frame that failed, on the pipeline's thread."""
        self._send_heartbeat()
        self._health.failed(f"{type(error).__name__}: {error}")
        if isinstance(error, DeviceLostError):
            self._end(str(error))

    def _follow_link(self, pipeline: Pipeline) -> None:
        """Serve the target of the link, and close the previous model after the commit."""
        wanted, serves = self._store.current(), pipeline.model.bundle.sha256
        if wanted is None or wanted == serves:
            self._refused, self._pause_s = "", _FIRST_PAUSE_S
            if self._standby and self._store.good() == serves:
                self._standby = ""
                pipeline.commit()
        elif wanted != self._refused or self._may_retry(wanted):
            try:
                self._opening = (wanted, time.monotonic())
                self._swap(pipeline, wanted)
            except Exception as error:
                # Whatever the error was, the active model stays.
                self._blame(serves)
                self._reject(wanted, error)
                if self._silent_s > _SILENT_S:
                    self._end(f"the active model hangs, and cannot be replaced: {error}")
            finally:
                self._opening = None

    def _may_retry(self, refused: str) -> bool:
        if self._retry_at == math.inf:
            # It took a process down, so it is not retried unless it was committed since.
            return self._store.good() == refused
        return time.monotonic() >= self._retry_at

    def _swap(self, pipeline: Pipeline, wanted: str) -> None:
        before, is_open = pipeline.model.bundle.sha256, wanted == self._standby
        self._standby = ""
        if is_open:
            pipeline.rollback()
        else:
            pipeline.swap(lambda: self._open_if_wanted(wanted))
        self._standby, self._refused, self._pause_s = before, "", _FIRST_PAUSE_S

    def _open_if_wanted(self, wanted: str) -> WorldModel:
        model = self._open_counted(wanted)
        try:
            if self._store.current() != wanted:
                raise UpdateError(
                    f"{self._root}: {wanted[:12]} is no longer the target of the link",
                    code="serving.link_changed",
                )
        except UpdateError:
            model.close()
            raise
        return model

    def _reject(self, wanted: str, error: Exception) -> None:
        self._reason = f"{type(error).__name__}: {error}"
        self._passing = not isinstance(error, BundleError | BackendError)
        self._retry_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)
        # Last, so that a concurrent report has all fields or none.
        self._refused = wanted

    def _budget_ms(self, serves: str) -> float | None:
        """Return the latency budget of the release in progress, if its model is active."""
        with suppress(JepaRuntimeError):
            work = state.load(self._root / robot.STATE).candidate
            if work is not None and work.release.manifest_sha256 == serves:
                return work.release.budgets.latency_p99_ms
        return None

    def _end_if_opening_hangs(self) -> None:
        opening = self._opening
        if opening is None or time.monotonic() - opening[1] <= _OPENING_S:
            return
        with suppress(JepaRuntimeError):
            if self._store.current() != opening[0]:
                self._end(f"opening {opening[0][:12]} hangs")

    def _check_progress(self, pipeline: Pipeline) -> None:
        """Measure how long no frame was processed, and reset crashes after an hour of service."""
        stats, now = pipeline.stats(), time.monotonic()
        if self._socket is not None and now - self._served_at > _STABLE_S:
            self._socket.forgive(pipeline.model.bundle.sha256)
        ended = stats.processed + stats.failed
        if stats.received == self._received:
            # Without images the model has no work, which is not its fault.
            self._send_heartbeat()
        if ended != self._ended or stats.received == self._received:
            self._ended, self._received, self._ended_at = ended, stats.received, now
        self._silent_s = now - self._ended_at
        if self._silent_s > _SILENT_S:
            self._health.find(f"images arrive, but none was processed for {_SILENT_S:g} s")

    def _send_heartbeat(self) -> None:
        """Send a heartbeat to systemd, at most once a second."""
        now = time.monotonic()
        if now - self._heartbeat_at >= _POLL_S:
            self._heartbeat_at = now
            notify("WATCHDOG=1")

    def _report(self, idle_report: ServingReport) -> ServingReport:
        if self._pipeline is None:
            return idle_report
        return replace(
            idle_report,
            serves=self._pipeline.model.bundle.sha256,
            failure=self._health.failure(),
            idle=self._health.idle or self._silent_s > _QUIET_S,
            refused=self._refused,
            reason=self._reason,
            passing=self._passing,
        )


@contextmanager
def _running_thread(work: Callable[[], None], ending: Event) -> Iterator[None]:
    """Run ``work``, which ends soon after ``ending`` was set, on a thread during the block."""
    thread = Thread(target=work, name=work.__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
