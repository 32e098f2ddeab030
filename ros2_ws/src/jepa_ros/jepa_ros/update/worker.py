"""The update thread: periodic checks for updates, and requests of operators."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jepa_runtime.errors import UpdateError
from jepa_runtime.ota import Client, Phase, Release, State, UpdateOptions, daemon

_TICK_S = 0.2


@dataclass(eq=False)
class Request:
    """Represent a request to the worker.

    Attributes:
        check_only: Whether to only look for an update, without installing it.
        source: See :class:`jepa_runtime.ota.robot.UpdateOptions`, as for the next two.
        retry_rejected: Whether to include releases that were rejected earlier.
        any_interface: Whether to accept other actions, limits or steps, and models that read no poses.
        state: Final state, or None if the request has not completed.
        error: Why it failed. Empty if the node shuts down.
        offered: Release found by a check.
        done: Set at the end.
    """

    check_only: bool = False
    source: Path | None = None
    retry_rejected: bool = False
    any_interface: bool = False
    state: State | None = None
    error: str = ""
    offered: Release | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def is_default(self) -> bool:
        """Whether the request equals a periodic update."""
        return not (self.check_only or self.source or self.retry_rejected or self.any_interface)


class Worker:
    """Process one request at a time, and periodic updates in between.

    A periodic update in progress also completes a default request that arrives meanwhile.

    Args:
        open_client: Opens the client; takes ``heartbeat`` and ``options``.
        poll_s: Returns the interval of periodic updates without jitter [s], or None if they are disabled.
        root: Folder of the robot.
        log: Receives log lines. An error that repeats in periodic updates is logged once, and that of a check
            not at all, since the service reports it.
        on_idle: Called periodically while there is nothing to do.
        fleet: Replaces the periodic update if a fleet server manages the robot, for example
            :class:`jepa_runtime.ota.hawkbit.agent.HawkbitAgent`. Returns the pause until the next call [s].
    """

    def __init__(
        self,
        open_client: Callable[..., AbstractContextManager[Client]],
        *,
        poll_s: Callable[[], float | None],
        root: Path,
        log: daemon.Log,
        on_idle: Callable[[], None] = lambda: None,
        fleet: Callable[[daemon.Heartbeat], float] | None = None,
    ) -> None:
        self._open_client, self._poll_s, self._root = open_client, poll_s, root
        self._log, self._fleet, self._on_idle = log, fleet, on_idle
        self.stopping = threading.Event()
        self._waits, self._wake = False, threading.Event()
        self._lock = threading.Lock()
        self._requested: Request | None = None
        self._periodic: Request | None = None
        self._current: Request | None = None
        self._updated_at = -float("inf")
        self._jitter, self._failures = 1.0, 0
        self._periodic_error = ""
        self._fleet_pause_s = 0.0
        self._update: Callable[[daemon.Heartbeat], State] | None = None

    def run(self) -> None:
        """Run until :attr:`stopping` is set. An update in progress resumes at the next start."""
        try:
            daemon.run(self._round, stopping=self.stopping, log=self._log, root=self._root)
        finally:
            with self._lock:
                request, self._requested = self._requested, None
                self.stopping.set()
            if request is not None:
                request.done.set()

    @property
    def accepts_requests(self) -> bool:
        """Whether a request would be accepted."""
        return self._requested is None and not self.stopping.is_set()

    def submit(self, request: Request) -> bool:
        """Accept a request unless another one is pending or the worker stops."""
        with self._lock:
            if not self.accepts_requests or (request.check_only and self._periodic):
                return False
            self._requested = request
            return True

    def withdraw(self, request: Request) -> bool:
        """Remove a request that has not started; return whether that was possible."""
        with self._lock:
            if (
                self._requested is not request
                or self._current is request
                or (self._periodic and self._completes(request))
            ):
                return False
            self._requested = None
        request.error = "it was withdrawn before it started"
        request.done.set()
        return True

    def wake(self) -> None:
        """Continue an update or rollback that waits for the permission to switch, without its usual delay."""
        if self._waits:
            self._wake.set()

    def on_state(self, state: State) -> None:
        """Record that a state was entered."""
        self._waits = state.phase is Phase.ARMED or state.waits_to_roll_back

    def _round(self, alive: daemon.Heartbeat) -> float:
        request = self._next()
        if request is None:
            self._on_idle()
            return _TICK_S

        def alive_or_woken() -> None:
            alive()
            if self._wake.is_set():
                self._wake.clear()
                raise daemon.YieldLock

        try:
            if self._fleet is not None and request is self._periodic:
                self._fleet_pause_s = self._fleet(alive_or_woken)
            else:
                request.state = self._process(request, alive_or_woken)
        except UpdateError as error:
            request.error = str(error)
        is_repeated = False
        if request is self._periodic:
            is_repeated, self._periodic_error = request.error == self._periodic_error, request.error
        if request.error and not request.check_only and not is_repeated:
            self._log(logging.ERROR, request.error)
        self._end(request)
        return 0.0

    def _process(self, request: Request, alive: daemon.Heartbeat) -> State:
        options = UpdateOptions(
            source=request.source,
            retry_rejected=request.retry_rejected,
            any_interface=request.any_interface,
        )
        open_client = partial(self._open_client, options=options)
        if request.check_only:
            with open_client(heartbeat=alive) as client:
                request.offered = client.check()
                return client.state
        # One update may take several calls, since it yields.
        self._update = self._update or daemon.resumable_update(open_client)
        return self._update(alive)

    def _next(self) -> Request | None:
        with self._lock:
            if self._periodic is None and self._requested is None and self._is_due():
                self._periodic = Request()
            self._current = self._periodic or self._requested
            return self._current

    def _is_due(self) -> bool:
        poll_s = self._poll_s()
        if poll_s is None:
            return False
        pause_s = min(poll_s, daemon.retry_s(self._failures)) * self._jitter
        if self._fleet is not None:
            pause_s = self._fleet_pause_s
        return time.monotonic() - self._updated_at >= pause_s

    def _completes(self, request: Request) -> bool:
        """Return whether a periodic update also completes ``request``."""
        return request.is_default and self._fleet is None

    def _end(self, request: Request) -> None:
        self._update = None
        with self._lock:
            requested, self._periodic, self._current = self._requested, None, None
            if requested is not request and not (requested is not None and self._completes(requested)):
                requested = None
            else:
                self._requested = None
            if not request.check_only:
                self._updated_at = time.monotonic()
                self._jitter = daemon.jitter()
                failed = request.error or (request.state is not None and request.state.failed_checks)
                self._failures = self._failures + 1 if failed else 0
        if requested is not None:
            requested.state, requested.error = request.state, request.error
            requested.done.set()
