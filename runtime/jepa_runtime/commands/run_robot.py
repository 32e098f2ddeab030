"""What `jepa-runtime run --robot` does beside serving: it follows the link `current` of a robot's folder, and
tells updates how the model does that they switched to."""

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
from jepa_runtime.ota.health.serving_socket import ServerSocket, ServingReport, answer, listening
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.util import atomic_files
from jepa_runtime.util.systemd import notify

_LOG = logging.getLogger(__name__)
_LOOK_S = 1.0
# Without a frame that ends for so long, while others come, the model hangs.
_SILENT_S = 10.0
# Without one for so long it may be about to.
_QUIET_S = 2.0
# For longer than an update waits for it.
_OPENING_S = 900.0
# After so long without a crash earlier ones count no more.
_FORGIVEN_S = 3600.0
# What could not be served is tried again, after a pause that doubles.
_FIRST_PAUSE_S, _MOST_PAUSE_S = 2.0, 300.0


def adopt(args: argparse.Namespace) -> list[Path]:
    """Let what the robot's config.json says hold for what ``args`` leave open.

    Returns:
        What is read of the robot.

    Raises:
        UpdateError: the robot is not set up, or has no model yet.
    """
    settings = config.load(args.robot / robot.CONFIG)
    if SlotStore(args.robot).current() is None:
        raise UpdateError(f"{args.robot}: has no model yet: `jepa-runtime update apply --root {args.robot}`")
    args.engine = args.engine or settings.engine
    args.precision = args.precision or settings.precision
    args.allow_untrained = args.allow_untrained or settings.allow_untrained
    return [args.robot / name for name in ("current", robot.CONFIG, robot.STATE)]


def _end(why: str) -> None:
    try:
        print(f"jepa-runtime: {why}: this process ends, to be started again", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


class Follower:
    """Between the pipeline of one process and the updates of the robot in ``root``.

    Args:
        open_model: opens a verified bundle, on the pipeline's thread.
        deadline_ms: of encode and predict, where a release says nothing else.
        end: ends the process at once, where nothing else helps: a model that is to make way hangs, or its
            device is lost.
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
        self._store, self._conduct = SlotStore(root), ServingHealth()
        self._trials = TrialCounter(self._store)
        self._pipeline: Pipeline | None = None
        self._seat: ServerSocket | None = None
        self._opening: tuple[str, float] | None = None
        self._standby = ""
        self._refused, self._reason, self._passing = "", "", False
        self._again_at, self._pause_s = 0.0, _FIRST_PAUSE_S
        self._ended, self._received, self._ended_at, self._silent_s = 0, 0, 0.0, 0.0
        self._served_at = 0.0
        self._wake, self._ending = Event(), Event()
        self._told_alive_at = -math.inf

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Answer updates until the end of the block, which is that of serving. On a read-only file system,
        where nothing can be updated either, the block runs without that.

        Raises:
            UpdateError: the folder belongs to another account.
            StorageError: another process serves from there, or the folder cannot be used.
        """
        with ExitStack() as stack:
            try:
                seat = stack.enter_context(listening(self._root))
            except StorageError as error:
                if not atomic_files.is_read_only(error):
                    raise
                _LOG.warning("serving without a lock and a socket for updates: %s", error)
                yield
                return
            self._seat, closing = seat, Event()
            seat.server.settimeout(_LOOK_S)

            def answer_all() -> None:
                while not closing.is_set():
                    self._end_if_opening_hangs()
                    try:
                        connection, _ = seat.server.accept()
                    except TimeoutError:
                        continue
                    except OSError:
                        # No descriptor is free, for instance.
                        closing.wait(_LOOK_S)
                        continue
                    self._wake.set()
                    try:
                        answer(connection, self._told(seat.nothing))
                    except Exception as error:
                        _LOG.warning("%s: whoever asked has no answer: %s", self._root, error)

            with _running(answer_all, closing):
                yield

    def open(self) -> WorldModel:
        """Return the model that serves first: the one that the link ``current`` names or, if that cannot be
        served, took the process before this one with it, or took down too many processes or machines, the
        last known good model.

        Raises:
            Exception: opening the last of them failed.
        """
        current, good = self._store.current() or "", self._store.good()
        if good is None or good == current:
            return self._opened_instead_of(current)
        if self._seat is not None and self._seat.nothing.blamed == current:
            self._refuse(current, BackendError(f"{self._root}: the serving process died with it"))
            self._again_at = math.inf
            with suppress(Exception):
                return self._opened_instead_of(good)
            return self._opened(current)
        try:
            return self._opened(current)
        except Exception as error:
            _LOG.warning("the last known good model %s is opened instead: %s", good[:12], error)
            self._refuse(current, error)
        return self._opened_instead_of(good)

    def await_model(self, stopping: Event) -> bool:
        """Wait until there is a model that may be opened: another release, or one whose attempts to open it
        were forgotten (see ota/health/trial_counter.py). Updates are answered meanwhile.

        Returns:
            Whether there is one; False: ``stopping`` was set.
        """
        reported = ""
        while why := self._nothing_to_open():
            if why != reported:
                _LOG.error("no model is opened, and the robot has to stand: %s", why)
                reported = why
            if self._seat is not None:
                refused = self._store.current() or ""
                self._seat.nothing = replace(self._seat.nothing, refused=refused, reason=why)
            notify("READY=1\nSTATUS=no model is opened\nWATCHDOG=1")
            if stopping.wait(_LOOK_S):
                notify("STOPPING=1")
                return False
        if self._seat is not None:
            self._seat.nothing = replace(self._seat.nothing, refused="", reason="")
        return True

    def _nothing_to_open(self) -> str:
        """Why no model may be opened; empty: one may be."""
        current, good = self._store.current(), self._store.good()
        if current is None:
            return f"{self._root}: has no model: publish a release"
        why = ""
        for sha256 in (current, good):
            if sha256 is not None and not (why := self._trials.exhausted(self._trials.instead_of(sha256))):
                return ""
        return why

    def _opened_instead_of(self, sha256: str) -> WorldModel:
        """Open a model or, where it may not be opened any more, the one that was good before it."""
        instead = self._trials.instead_of(sha256)
        if instead != sha256:
            why = self._trials.exhausted(sha256)
            _LOG.error("the model before it, %s, is opened instead: %s", instead[:12], why)
            self._refuse(sha256, BackendError(why))
        return self._opened(instead)

    def _opened(self, sha256: str) -> WorldModel:
        with self._trials.opening(sha256):
            self._blame(sha256)
            try:
                return self._open_model(self._store.open(sha256))
            except DeviceLostError as error:
                self._end(str(error))
                raise

    def _blame(self, sha256: str) -> None:
        if self._seat is not None and not self._ending.is_set():
            self._seat.blame(sha256)

    def serves(self, model: WorldModel) -> None:
        """From now on ``model`` serves; between two frames."""
        self._blame(model.bundle.sha256)
        budget_ms = self._budget_ms(model.bundle.sha256)
        self._conduct.begin(budget_ms or self._deadline_ms)
        self._conduct.forgive(lateness=budget_ms is None)
        self._ended_at = self._served_at = time.monotonic()

    @contextmanager
    def following(self, pipeline: Pipeline) -> Iterator[None]:
        """Let ``pipeline``, which has started, serve what the link names, until the end of the block."""
        self._pipeline = pipeline
        self.serves(pipeline.model)
        notify("READY=1")

        def follow() -> None:
            while not self._ending.is_set():
                self._wake.wait(_LOOK_S)
                self._wake.clear()
                try:
                    self._look(pipeline)
                    self._see(pipeline)
                except Exception as error:
                    _LOG.warning("%s: not followed for now: %s", self._root, error)

        try:
            with _running(follow, self._ending):
                yield
                self._ending.set()
                if self._seat is not None:
                    # Whoever ends this process may not wait for what is being opened: that is no fault of it.
                    self._seat.blame("")
                self._trials.close()
        finally:
            notify("STOPPING=1")

    def result(self, result: Result) -> None:
        """A result of the pipeline; on its thread."""
        self._tell_alive()
        self._conduct.latent(result.latent)
        if result.surprise is not None:
            self._conduct.surprise(result.surprise, result.surprising)
        self._conduct.timed(result.timings_ms["encode"] + result.timings_ms["predict"])

    def failed(self, error: Exception) -> None:
        """A frame failed; on the pipeline's thread."""
        self._tell_alive()
        self._conduct.failed(f"{type(error).__name__}: {error}")
        if isinstance(error, DeviceLostError):
            self._end(str(error))

    def _look(self, pipeline: Pipeline) -> None:
        """Serve what the link names, and let go of what is not gone back to any more."""
        wanted, serves = self._store.current(), pipeline.model.bundle.sha256
        if wanted is None or wanted == serves:
            self._refused, self._pause_s = "", _FIRST_PAUSE_S
            if self._standby and self._store.good() == serves:
                self._standby = ""
                pipeline.commit()
        elif wanted != self._refused or self._may_try_again(wanted):
            try:
                self._opening = (wanted, time.monotonic())
                self._exchange(pipeline, wanted)
            except Exception as error:
                # Whatever opening it raised: what serves serves on.
                self._blame(serves)
                self._refuse(wanted, error)
                if self._silent_s > _SILENT_S:
                    self._end(f"what serves hangs, and does not make way: {error}")
            finally:
                self._opening = None

    def _may_try_again(self, refused: str) -> bool:
        if self._again_at == math.inf:
            # It took a process with it, unless it was found to be good since.
            return self._store.good() == refused
        return time.monotonic() >= self._again_at

    def _exchange(self, pipeline: Pipeline, wanted: str) -> None:
        before, is_open = pipeline.model.bundle.sha256, wanted == self._standby
        self._standby = ""
        if is_open:
            pipeline.rollback()
        else:
            pipeline.swap(lambda: self._open_if_wanted(wanted))
        self._standby, self._refused, self._pause_s = before, "", _FIRST_PAUSE_S

    def _open_if_wanted(self, wanted: str) -> WorldModel:
        model = self._opened(wanted)
        try:
            if self._store.current() != wanted:
                raise UpdateError(f"{self._root}: {wanted[:12]} is not wanted any more")
        except UpdateError:
            model.close()
            raise
        return model

    def _refuse(self, wanted: str, error: Exception) -> None:
        self._reason = f"{type(error).__name__}: {error}"
        self._passing = not isinstance(error, BundleError | BackendError)
        self._again_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MOST_PAUSE_S)
        # Last: whoever asks meanwhile gets all of it, or nothing.
        self._refused = wanted

    def _budget_ms(self, serves: str) -> float | None:
        """What the release in work allows, if it is what serves."""
        with suppress(JepaRuntimeError):
            work = state.load(self._root / robot.STATE).work
            if work is not None and work.release.manifest_sha256 == serves:
                return work.release.budgets.latency_p99_ms
        return None

    def _end_if_opening_hangs(self) -> None:
        opening = self._opening
        if opening is None or time.monotonic() - opening[1] <= _OPENING_S:
            return
        with suppress(JepaRuntimeError):
            if self._store.current() != opening[0]:
                self._end(f"{opening[0][:12]} hangs while it is opened")

    def _see(self, pipeline: Pipeline) -> None:
        """For how long frames have come and none has ended, and whether it has served for long."""
        stats, now = pipeline.stats(), time.monotonic()
        if self._seat is not None and now - self._served_at > _FORGIVEN_S:
            self._seat.forgive(pipeline.model.bundle.sha256)
        ended = stats.processed + stats.failed
        if stats.received == self._received:
            # No image, no work: that is not the fault of the model.
            self._tell_alive()
        if ended != self._ended or stats.received == self._received:
            self._ended, self._received, self._ended_at = ended, stats.received, now
        self._silent_s = now - self._ended_at
        if self._silent_s > _SILENT_S:
            self._conduct.find(f"images come, but nothing is computed for {_SILENT_S:g} s")

    def _tell_alive(self) -> None:
        """A sign of life for systemd, of which one a moment will do."""
        now = time.monotonic()
        if now - self._told_alive_at >= _LOOK_S:
            self._told_alive_at = now
            notify("WATCHDOG=1")

    def _told(self, nothing: ServingReport) -> ServingReport:
        if self._pipeline is None:
            return nothing
        return replace(
            nothing,
            serves=self._pipeline.model.bundle.sha256,
            failure=self._conduct.failure(),
            idle=self._conduct.idle or self._silent_s > _QUIET_S,
            refused=self._refused,
            reason=self._reason,
            passing=self._passing,
        )


@contextmanager
def _running(work: Callable[[], None], ending: Event) -> Iterator[None]:
    """Do ``work``, which ends soon after ``ending`` was set, beside the block."""
    thread = Thread(target=work, name=work.__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
