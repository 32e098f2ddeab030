"""The rounds of a robot whose updates a hawkBit server orders: what :func:`jepa_runtime.ota.daemon.run`
calls again and again.

A round ends what has gone too far to be stopped, asks the server, and does what is wanted. While an update is
in work that can still be stopped, the server is told how far it is, and asked whether it still wants it, as
often as it asks for; from the switch to the commit nobody is talked to. An order that was accepted is carried
out whether or not the server can be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from jepa_runtime import __version__
from jepa_runtime.errors import FetchError, ReleaseRejectedError, StorageError, UpdateError
from jepa_runtime.ota import config, daemon, operator_requests, robot, state
from jepa_runtime.ota.hawkbit import ddi_mapping, saved_state
from jepa_runtime.ota.hawkbit.ddi_client import DdiClient, Offer
from jepa_runtime.ota.hawkbit.ddi_messages import LEAST_SLEEP_S, MOST_SLEEP_S, feedback
from jepa_runtime.ota.hawkbit.saved_state import Answer, Order, SavedState
from jepa_runtime.ota.hawkbit.watched_update import Leave, Opened, Run, measured, updated
from jepa_runtime.ota.operator_alarms import alarms
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.transport.repository_sources import BusyError, Clock, NotFoundError
from jepa_runtime.util import atomic_files

KEPT, LOCK = "hawkbit.json", "hawkbit.lock"
_FIRST_SLEEP_S = 60.0


class HawkbitAgent:
    """One robot of a fleet; a call is a round, and gives the pause until the next in seconds.

    Args:
        root: the robot's folder; ``hawkbit`` in its config.json says where the server is.
        opened: gives the client of the robot; takes ``alive``, ``tell``, ``progress`` and ``only_version``,
            as :func:`jepa_runtime.ota.robot.open_client` does.
        log: takes lines.
        clock: for pauses. now: the time of day.
    """

    def __init__(
        self,
        root: Path,
        opened: Opened,
        *,
        log: Callable[[str], None],
        clock: Clock = time,
        now: Callable[[], datetime] = robot.utc_now,
    ) -> None:
        self._root, self._opened, self._log, self._clock, self._now = root, opened, log, clock, now
        self._kept = SavedState()
        self._sleep_s = _FIRST_SLEEP_S
        self._next_poll = self._next_look = self._next_round = self._quiet_until = clock.monotonic()
        self._only_looks = False
        # The last report on an action in progress: action, execution, and more.
        self._said: tuple[object, ...] = ()
        self._said_since_poll = False
        # The action from whose update somebody took the lock.
        self._interrupted: str | None = None
        self._compared: object = None
        self._server_as: object = None

    def __call__(self, alive: Callable[[], None]) -> float:
        """Do a round; whatever the server does wrong is logged, and the next one tries again.

        Raises:
            KeyboardInterrupt: ``alive`` did.
        """
        only_looks, act = self._only_looks, self._go_on if self._only_looks else self._round
        try:
            with atomic_files.locked(self._root / LOCK, purpose="an agent of hawkBit"):
                pause_s = act(alive)
        except UpdateError as error:
            self._log(f"error: {error}")
            pause_s = self._pause_after(error)
        now = self._clock.monotonic()
        next_round = now + _within(pause_s * daemon.jitter())
        self._next_round = min(self._next_round, next_round) if only_looks else next_round
        # A server that is to be asked seldom keeps nobody from asking the repository.
        self._only_looks = now < self._next_look < self._next_round
        return _within((self._next_look if self._only_looks else self._next_round) - now)

    def _round(self, alive: Callable[[], None]) -> float:
        self._config = config.load(self._root / robot.CONFIG)
        self._kept = self._load()
        if ddi_mapping.must_end(self._state()):
            self._end_what_switched(alive)
        self._server = self._connected()
        try:
            offer = self._poll()
        except UpdateError as error:
            return self._without(error, self._go_on, alive)
        try:
            self._follow(offer)
        except FetchError as error:
            # What may have been cancelled is not carried on.
            return self._without(error, self._look if offer.cancellation else self._go_on, alive)
        self._answer(offer)
        try:
            self._describe(offer)
        except FetchError as error:
            self._log(f"error: {error}")
        return self._confirmed(offer) or self._go_on(alive)

    def _without(
        self,
        error: UpdateError,
        act: Callable[[Callable[[], None]], float],
        alive: Callable[[], None],
    ) -> float:
        self._log(f"error: {error}")
        act(alive)
        return self._pause_after(error)

    def _go_on(self, alive: Callable[[], None]) -> float:
        return self._look(alive) if self._kept.order is None else self._work(alive)

    def _connected(self) -> DdiClient:
        """The server, the same as before unless it is another: it knows what was answered last."""
        settings, name = self._config.hawkbit, self._config.device_id
        if settings is None:
            raise UpdateError(f"{self._root / robot.CONFIG}: names no server of a fleet: give it as hawkbit")
        if self._server_as != (settings, name):
            self._server, self._server_as = DdiClient(self._root, settings, name), (settings, name)
        return self._server

    def _poll(self) -> Offer:
        self._next_poll = self._clock.monotonic() + self._sleep_s
        offer = self._server.poll()
        self._sleep_s, self._said_since_poll = offer.sleep_s, False
        self._next_poll = self._clock.monotonic() + offer.sleep_s
        if (reached := self._kept.reached(self._now())) is not self._kept:
            with suppress(StorageError):
                self._keep(reached)
        return offer

    def _follow(self, offer: Offer) -> None:
        """Make the server's order this robot's."""
        if offer.cancellation is not None:
            self._cancel(offer.cancellation)
            return
        offered, order = offer.deployment or offer.confirmation, self._kept.order
        if order is not None and order.action != offered:
            self._drop(f"deployment {order.action} is not asked for any more")
            self._keep(replace(self._kept, order=None))
        if offered is None:
            return
        try:
            order = self._ordered(offer)
        except ReleaseRejectedError as error:
            if not self._kept.has_answered(offered, ""):
                told = ddi_mapping.details([str(error)])
                self._end(offered, Answer(execution="closed", finished="failure", details=told))
            return
        if order is None or order == self._kept.order or self._kept.has_answered(offered, order.version):
            return
        self._keep(self._kept.ordered(order))

    def _ordered(self, offer: Offer) -> Order | None:
        model = self._config.model_id
        if offer.deployment is not None:
            deployment = self._server.deployment(offer.deployment)
            return ddi_mapping.ordered(offer.deployment, deployment, model, confirmed=True)
        if offer.confirmation is not None:
            deployment = self._server.confirmation(offer.confirmation)
            return ddi_mapping.ordered(offer.confirmation, deployment, model, confirmed=False)
        return None

    def _cancel(self, cancellation: str) -> None:
        stopped = self._server.stopped_by(cancellation)
        order, ended = self._kept.order, self._kept.answers.get(stopped)
        refused = ""
        if order is not None and order.action == stopped:
            try:
                self._drop(f"deployment {stopped} was cancelled")
            except StorageError:
                raise
            except UpdateError as error:
                refused = str(error)
        elif ended is not None and ended.execution != "canceled":
            refused = f"it has ended: {ended.finished}"
        if refused:
            self._log(f"deployment {stopped}: not cancelled: {refused}")
            body = feedback("rejected", "none", ddi_mapping.details([refused]))
        else:
            self._end(stopped, Answer(execution="canceled", finished="none", details=(), sent=True))
            body = feedback("closed", "success", ())
        with suppress(NotFoundError):
            self._server.tell("cancelAction", cancellation, body)

    def _drop(self, reason: str) -> None:
        if self._state().phase is not Phase.IDLE:
            operator_requests.cancel(self._root, reason, now=self._now)

    def _answer(self, offer: Offer) -> None:
        """Send what has not been taken yet, and again what the server goes on asking for."""
        for action, answer in list(self._kept.answers.items()):
            if answer.execution == "canceled" or (answer.sent and action != offer.deployment):
                continue
            try:
                if action == offer.confirmation:
                    denied = {"confirmation": "denied", "details": list(answer.details)}
                    self._server.tell("confirmationBase", action, denied)
                else:
                    body = feedback(answer.execution, answer.finished, answer.details)
                    self._server.tell("deploymentBase", action, body)
            except NotFoundError:
                pass
            except FetchError as error:
                self._log(f"error: {error}")
                continue
            if not answer.sent:
                self._keep(self._kept.answered(action, replace(answer, sent=True)))

    def _describe(self, offer: Offer) -> None:
        """Say what this robot is, where the server asks or would be wrong."""
        now = self._state()
        alarm = "; ".join(alarms(self._root, now))
        told = ddi_mapping.attributes(self._config, replace(now, alarm=alarm), __version__)
        if offer.wants_attributes or told != self._kept.attributes:
            self._server.put_attributes(told)
            self._keep(replace(self._kept, attributes=told))
        serves = told["jepa.version"]
        if offer.installed is not None and self._compared != (offer.installed, serves):
            deployment = self._server.installed(offer.installed)
            self._compared = offer.installed, serves
            with suppress(ReleaseRejectedError):
                order = ddi_mapping.ordered(
                    offer.installed, deployment, self._config.model_id, confirmed=True
                )
                if order.version != serves:
                    self._log(f"the fleet takes {order.version} for installed, but {serves} serves")

    def _confirmed(self, offer: Offer) -> float | None:
        """Agree to an order that waits for that, and was approved where that is needed; None: not yet."""
        order, asks = self._kept.order, self._config.approval
        if order is None or offer.confirmation != order.action:
            return None
        if asks and not ddi_mapping.is_approved(order, self._state()):
            return None
        by = "it was approved here" if asks else "this robot takes what its repository offers"
        body = {"confirmation": "confirmed", "details": [by]}
        try:
            self._server.tell("confirmationBase", order.action, body)
        except FetchError as error:
            self._log(f"error: {error}")
            return None
        return LEAST_SLEEP_S

    def _work(self, alive: Callable[[], None]) -> float:
        """Carry the order out as far as it goes now."""
        order, now = self._kept.order, self._state()
        assert order is not None
        work = now.work
        if ddi_mapping.may_drop(now) and work is not None and work.release.version != order.version:
            self._drop(f"the fleet asks for {order.version}")
            now = self._state()
        if not ddi_mapping.serves(now, order.version) and not ddi_mapping.is_ready(order, now):
            if not order.fetch:
                pause_s = self._look(alive)
                self._say(order, "scheduled", ("it may not be fetched yet",))
                return pause_s
            self._put_off_look()
            return self._settle(order, self._updated(alive, order))
        if ddi_mapping.is_ready(order, now) and self._clock.monotonic() >= self._next_look:
            self._put_off_look()
            with self._opened(alive=alive) as client:
                now = client.make_way()
        return self._settle(order, Run(now))

    def _end_what_switched(self, alive: Callable[[], None]) -> None:
        """End what has gone too far to be stopped, whoever began it."""
        order, work = self._kept.order, self._state().work
        run = self._updated(alive, None)
        if order is not None and work is not None and work.release.version == order.version:
            answer = self._conclusion(order, run)
            if answer is not None:
                self._end(order.action, answer)

    def _settle(self, order: Order, run: Run) -> float:
        """Say what came of an order; gives the pause."""
        now, answer = run.state, None
        if now.phase is Phase.IDLE:
            answer = self._conclusion(order, run)
            if answer is None:
                undecided = now.result == "undecided"
                waits = "it is tried again soon" if undecided else "it waits for its repository"
                self._say(order, "proceeding", ddi_mapping.details([f"{waits}: {now.reason}"]))
                return daemon.pause_s(now, self._sleep_s)
        elif not ddi_mapping.is_ready(order, now):
            # The server has changed its mind, or somebody else had something to say.
            return LEAST_SLEEP_S
        elif order.only_fetch:
            told = ddi_mapping.details(
                ["it is here and has passed its gate", *measured(self._root, self._now)]
            )
            answer = Answer(execution="downloaded", finished="none", details=told, version=order.version)
            self._drop(f"deployment {order.action} was to be fetched and tried, no more")
        if answer is None:
            self._say(order, *ddi_mapping.progress(order, now))
            return self._sleep_s
        self._end(order.action, answer)
        if order.confirmed:
            self._answer(Offer(sleep_s=self._sleep_s))
        return LEAST_SLEEP_S

    def _conclusion(self, order: Order, run: Run) -> Answer | None:
        told = measured(self._root, self._now) if run.tried else []
        return ddi_mapping.concluded(order, run.state, told, asked=run.asked)

    def _end(self, action: str, answer: Answer) -> None:
        self._keep(self._kept.answered(action, answer))
        told = f": {answer.details[0]}" if answer.details else ""
        self._log(f"deployment {action}: {answer.execution}, {answer.finished}{told}")

    def _look(self, alive: Callable[[], None]) -> float:
        """Ask the repository now and then whether what serves was revoked: that has to go whatever the fleet
        orders, once the robot may switch. Gives the pause."""
        waits = self._state().waits_to_go_back
        if not waits and self._clock.monotonic() < self._next_look:
            return self._sleep_s
        self._put_off_look()
        if not waits and ddi_mapping.may_drop(self._state()):
            # Whoever is still at it has the lock, and is not asked for it.
            operator_requests.cancel(self._root, "the fleet orders nothing now", wait_s=0.0, now=self._now)
        now = self._updated(alive, None).state
        if now.waits_to_go_back:
            return LEAST_SLEEP_S
        if now.result != "unchanged":
            self._log(f"{now.result}: {now.reason}")
        for alarm in alarms(self._root, now):
            self._log(f"ALARM: {alarm}")
        return self._sleep_s

    def _put_off_look(self) -> None:
        self._next_look = self._clock.monotonic() + self._config.poll_s * daemon.jitter()

    def _updated(self, alive: Callable[[], None], order: Order | None) -> Run:
        """Update, and install nothing but what was ordered."""
        current = self._state().current
        version = order.version if order else current.version if current else "nothing"
        begin, self._interrupted = order is None or self._interrupted != order.action, None

        def watch(now: State, percent: int | None) -> None:
            if order is None:
                if now.waits_to_go_back and self._clock.monotonic() >= self._next_poll:
                    raise Leave
            elif ddi_mapping.may_drop(now):
                if ddi_mapping.is_ready(order, now):
                    raise Leave
                self._talk(order, now, percent)

        try:
            return updated(self._root, self._opened, alive, version=version, begin=begin, watch=watch)
        except KeyboardInterrupt:
            self._interrupted = None if order is None else order.action
            raise

    def _talk(self, order: Order, now: State, percent: int | None) -> None:
        """Report each new execution at once and news of the same one once per poll, and ask whether the order
        still holds; after a failure the server is left alone for a while.

        Raises:
            Leave: it is not, or otherwise.
        """
        if self._clock.monotonic() < self._quiet_until:
            return
        try:
            execution, doing = ddi_mapping.progress(order, now)
            if not self._said_since_poll or self._said[:2] != (order.action, execution):
                self._say(order, execution, doing, percent)
            if self._clock.monotonic() >= self._next_poll and self._ordered(self._poll()) != order:
                raise Leave
        except UpdateError as error:
            self._log(f"error: {error}")
            self._quiet_until = self._clock.monotonic() + self._pause_after(error)

    def _say(
        self, order: Order, execution: str, details: tuple[str, ...], percent: int | None = None
    ) -> None:
        told = order.action, execution, details, percent
        # Of an order that is not confirmed the server hears nothing yet.
        if order.confirmed and told != self._said:
            self._server.tell("deploymentBase", order.action, feedback(execution, "none", details, percent))
            self._said, self._said_since_poll = told, True

    def _pause_after(self, error: UpdateError) -> float:
        return _within(error.after_s if isinstance(error, BusyError) else self._sleep_s)

    def _state(self) -> State:
        return state.load(self._root / robot.STATE)

    def _load(self) -> SavedState:
        try:
            return saved_state.load(self._root / KEPT)
        except StorageError as error:
            self._log(f"error: {error}")
            return SavedState()

    def _keep(self, after: SavedState) -> None:
        saved_state.save(self._root / KEPT, after)
        self._kept = after


def _within(pause_s: float) -> float:
    return min(max(pause_s, LEAST_SLEEP_S), MOST_SLEEP_S)
