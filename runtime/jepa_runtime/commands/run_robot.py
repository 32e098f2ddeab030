"""What `jepa-runtime run --robot` does beside serving: it follows the link `current` of a robot's folder, and
tells updates how the model does that they switched to."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Self

from jepa_runtime.errors import JepaRuntimeError, UpdateError
from jepa_runtime.pipeline import Pipeline, Result
from jepa_runtime.update import config, robot, state
from jepa_runtime.update.conduct import Conduct
from jepa_runtime.update.local_serving import Told, answer, listening
from jepa_runtime.update.store import Store
from jepa_runtime.world_model import WorldModel

_LOOK_S = 1.0
_LINK = "current"
_FEWEST_FAILED = 10


def adopt(args: argparse.Namespace) -> None:
    """Let what the robot's config.json says hold for what ``args`` leave open.

    Raises:
        UpdateError: the robot is not set up, or has no model yet.
    """
    settings = config.load(args.robot / robot.CONFIG)
    # What the link names may be another model by the time that it is opened.
    args.bundle = (args.robot / _LINK).resolve()
    if not args.bundle.exists():
        raise UpdateError(f"{args.robot}: has no model yet: `jepa-runtime update apply --root {args.robot}`")
    args.engine = args.engine or settings.engine
    args.precision = args.precision or settings.precision
    args.allow_untrained = args.allow_untrained or settings.allow_untrained


class Follower:
    """Between the pipeline of one process and the updates of the robot in ``root``.

    Use it as a context manager around the pipeline: whoever asks waits until :meth:`follow` answers, and
    knows that the process died if it did before that.

    Args:
        open_model: opens what lies in a folder, on the pipeline's thread.
        deadline_ms: of encode and predict, where a release says nothing else.

    Raises:
        UpdateError: another process serves from there.
        StorageError: the folder cannot be used.
    """

    def __init__(self, root: Path, open_model: Callable[[Path], WorldModel], *, deadline_ms: float) -> None:
        self._root, self._open_model, self._deadline_ms = root, open_model, deadline_ms
        self._store, self._conduct = Store(root), Conduct()
        self._standby = self._refused = self._reason = self._last_error = ""
        self._failed = self._processed = 0
        self._ending = Event()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._socket = self._stack.enter_context(listening(self._root))
        self._socket.settimeout(_LOOK_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def follow(self, pipeline: Pipeline) -> Iterator[None]:
        """Follow and answer, on a thread of its own, until the end of the block."""
        self._pipeline = pipeline
        self._begin()
        thread = Thread(target=self._serve, name="follower", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def result(self, result: Result) -> None:
        """A result of the pipeline; on its thread."""
        self._conduct.latent(result.latent)
        if result.surprise is not None:
            self._conduct.surprise(result.surprise, result.surprising)
        self._conduct.timed(result.timings_ms["encode"] + result.timings_ms["predict"])

    def error(self, error: Exception) -> None:
        """An error of the pipeline; on its thread."""
        self._last_error = f"{type(error).__name__}: {error}"

    def _serve(self) -> None:
        while not self._ending.is_set():
            connection: socket.socket | None = None
            with suppress(TimeoutError):
                connection, _ = self._socket.accept()
            self._look()
            if connection is not None:
                answer(connection, self._told())

    def _look(self) -> None:
        """Serve what the link names, and let go of what is not gone back to any more."""
        with suppress(JepaRuntimeError):
            wanted, serves = self._store.current(), self._serves
            if wanted in (None, serves):
                self._refused = self._reason = ""
                if self._standby and self._store.good() == serves:
                    self._standby = ""
                    self._pipeline.commit()
            elif wanted is not None and wanted != self._refused:
                self._exchange(wanted)

    def _exchange(self, wanted: str) -> None:
        before = self._serves
        try:
            if wanted == self._standby:
                self._pipeline.rollback()
            else:
                folder = self._store.folder(wanted)
                self._pipeline.swap(lambda: self._open_model(folder))
        except Exception as error:
            # Whatever opening it raised: what serves serves on.
            self._standby, self._refused, self._reason = "", wanted, f"{type(error).__name__}: {error}"
            return
        self._standby, self._refused, self._reason = before, "", ""
        self._begin()

    def _begin(self) -> None:
        stats = self._pipeline.stats()
        self._failed, self._processed = stats.failed, stats.processed
        self._conduct.begin(self._budget_ms())

    def _budget_ms(self) -> float:
        """That of the release in work, if it is what serves."""
        with suppress(JepaRuntimeError):
            work = state.load(self._root / robot.STATE).work
            if work is not None and work.release.manifest_sha256 == self._serves:
                return work.release.budgets.latency_p99_ms or self._deadline_ms
        return self._deadline_ms

    @property
    def _serves(self) -> str:
        return self._pipeline.model.bundle.sha256

    def _told(self) -> Told:
        stats = self._pipeline.stats()
        failed, processed = stats.failed - self._failed, stats.processed - self._processed
        if failed >= _FEWEST_FAILED and failed > processed:
            self._conduct.find(f"{failed} of {failed + processed} frames failed: {self._last_error}")
        return Told(
            pid=os.getpid(),
            serves=self._serves,
            failure=self._conduct.failure(),
            idle=self._conduct.idle and not failed,
            refused=self._refused,
            reason=self._reason[:1000],
        )
