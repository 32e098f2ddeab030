"""The thread that updates: by itself, every now and then, and when somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jepa_runtime.errors import UpdateError
from jepa_runtime.ota import daemon
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.release import Release
from jepa_runtime.ota.state import Phase, State

_TICK_S = 0.2


@dataclass(eq=False)
class Request:
    """What somebody asks for.

    Attributes:
        look: whether there is an update, without installing it.
        source, again, any_interface: see :func:`jepa_runtime.ota.robot.open_client`.
        state: how it ended; None: it did not.
        error: why not; empty, if the node stops.
        offered: what was found by a look.
        done: set at the end.
    """

    look: bool = False
    source: Path | None = None
    again: bool = False
    any_interface: bool = False
    state: State | None = None
    error: str = ""
    offered: Release | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def ordinary(self) -> bool:
        """Whether it is what the robot does by itself."""
        return not (self.look or self.source or self.again or self.any_interface)


class Worker:
    """Does one thing at a time; what is asked for in between comes first. An update that the robot began by
    itself answers whoever asks for an ordinary one meanwhile.

    Args:
        opened: gives the client; takes ``alive``, ``source``, ``again`` and ``any_interface``.
        poll_s: the pause between two looks by itself in seconds, with its jitter; None:
            it does not look by itself now.
        root: the robot's folder.
        log: takes lines.
        rest: is called every now and then while there is nothing to do.
        fleet: what the robot does by itself where others order its updates, such as
            :class:`jepa_runtime.ota.hawkbit.agent.HawkbitAgent`; gives the pause until it is done again.
    """

    def __init__(
        self,
        opened: Callable[..., AbstractContextManager[Client]],
        *,
        poll_s: Callable[[], float | None],
        root: Path,
        log: Callable[[str], None],
        rest: Callable[[], None] = lambda: None,
        fleet: Callable[[daemon.Alive], float] | None = None,
    ) -> None:
        self._opened, self._poll_s, self._root, self._log, self._fleet = opened, poll_s, root, log, fleet
        self._rest = rest
        self.stopping = threading.Event()
        self._waits, self._hurry = False, threading.Event()
        self._lock = threading.Lock()
        self._asked: Request | None = None
        self._own: Request | None = None
        self._at: Request | None = None
        self._looked_at = -float("inf")
        self._jitter, self._failed = 1.0, 0
        self._fleet_pause_s = 0.0
        self._update: Callable[[daemon.Alive], State] | None = None

    def run(self) -> None:
        """Work until :attr:`stopping` is set; then an update in work goes on at the next start."""
        try:
            daemon.run(self._round, stopping=self.stopping, log=self._log, root=self._root)
        finally:
            with self._lock:
                asked, self._asked = self._asked, None
                self.stopping.set()
            if asked is not None:
                asked.done.set()

    @property
    def free(self) -> bool:
        """Whether a request would be taken."""
        return self._asked is None and not self.stopping.is_set()

    def ask(self, request: Request) -> bool:
        """Take a request, unless there is one already, or the worker stops."""
        with self._lock:
            if not self.free or (request.look and self._own):
                return False
            self._asked = request
            return True

    def withdraw(self, request: Request) -> bool:
        """Forget a request whose turn has not come; whether it could be."""
        with self._lock:
            if self._asked is not request or self._at is request or (self._own and self._joins(request)):
                return False
            self._asked = None
        request.error = "it was withdrawn before it began"
        request.done.set()
        return True

    def hurry(self) -> None:
        """The robot may switch: an update, or a way back, that waits for that need not wait until it would
        look again."""
        if self._waits:
            self._hurry.set()

    def follow(self, state: State) -> None:
        """A state was entered."""
        self._waits = state.phase is Phase.ARMED or state.waits_to_go_back

    def _round(self, alive: daemon.Alive) -> float:
        request = self._next()
        if request is None:
            self._rest()
            return _TICK_S

        def alive_or_hurried() -> None:
            alive()
            if self._hurry.is_set():
                self._hurry.clear()
                raise daemon.Yield

        try:
            if self._fleet is not None and request is self._own:
                self._fleet_pause_s = self._fleet(alive_or_hurried)
            else:
                request.state = self._do(request, alive_or_hurried)
        except UpdateError as error:
            request.error = str(error)
            self._log(f"error: {error}")
        self._end(request)
        return 0.0

    def _do(self, request: Request, alive: daemon.Alive) -> State:
        opened = partial(
            self._opened, source=request.source, again=request.again, any_interface=request.any_interface
        )
        if request.look:
            with opened(alive=alive) as client:
                request.offered = client.check()
                return client.state
        # Of as many calls as it has to yield.
        self._update = self._update or daemon.carrying(opened)
        return self._update(alive)

    def _next(self) -> Request | None:
        with self._lock:
            if self._own is None and self._asked is None and self._is_due():
                self._own = Request()
            self._at = self._own or self._asked
            return self._at

    def _is_due(self) -> bool:
        poll_s = self._poll_s()
        if poll_s is None:
            return False
        pause_s = min(poll_s, daemon.retry_s(self._failed)) * self._jitter
        if self._fleet is not None:
            pause_s = self._fleet_pause_s
        return time.monotonic() - self._looked_at >= pause_s

    def _joins(self, request: Request) -> bool:
        """Whether what the robot does by itself answers a request."""
        return request.ordinary and self._fleet is None

    def _end(self, request: Request) -> None:
        self._update = None
        with self._lock:
            asked, self._own, self._at = self._asked, None, None
            if asked is not request and not (asked is not None and self._joins(asked)):
                asked = None
            else:
                self._asked = None
            if not request.look:
                self._looked_at = time.monotonic()
                self._jitter = daemon.jitter()
                look_failed = request.error or (request.state is not None and request.state.failed_looks)
                self._failed = self._failed + 1 if look_failed else 0
        if asked is not None:
            asked.state, asked.error = request.state, request.error
            asked.done.set()
