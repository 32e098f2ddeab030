"""The agent of a robot whose updates a hawkBit server orders; :func:`jepa_runtime.ota.daemon.run` calls it.

A round finishes an update that has switched already, polls the server, and carries out its order. While an
update can still be stopped, the agent reports its progress and checks, at the server's poll interval, whether
the order is still valid. From the switch to the commit it does not talk to the server. An accepted order is
carried out whether or not the server can be reached.
"""

from __future__ import annotations

import logging
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
from jepa_runtime.ota.hawkbit.ddi_messages import MAX_SLEEP_S, MIN_SLEEP_S, feedback
from jepa_runtime.ota.hawkbit.saved_state import Answer, Order, SavedState
from jepa_runtime.ota.hawkbit.watched_update import Suspend, UpdateRun, gate_measurements, run_update
from jepa_runtime.ota.operator_alarms import alarms
from jepa_runtime.ota.state import RESULT_NAMES, Phase, State
from jepa_runtime.ota.transport.repository_sources import BusyError, Clock, NotFoundError
from jepa_runtime.util import atomic_files

STATE_FILE, LOCK = "hawkbit.json", "hawkbit.lock"
_FIRST_SLEEP_S = 60.0


class HawkbitAgent:
    """The agent of one robot; each call runs a round and returns the pause until the next one in seconds.

    Args:
        root: The robot's folder; ``hawkbit`` in its config.json configures the server.
        open_client: Opens the update client; takes ``heartbeat``, ``callbacks`` and ``options`` as
            :func:`jepa_runtime.ota.robot.open_client` does.
        log: Takes log lines.
        clock: The clock for pauses.
        now: The time of day.
    """

    def __init__(
        self,
        root: Path,
        open_client: robot.ClientOpener,
        *,
        log: daemon.Log,
        clock: Clock = time,
        now: Callable[[], datetime] = robot.utc_now,
    ) -> None:
        self._root, self._open_client, self._log, self._clock, self._now = root, open_client, log, clock, now
        self._saved = SavedState()
        self._sleep_s = _FIRST_SLEEP_S
        self._next_poll = self._next_check = self._next_round = self._backoff_until = clock.monotonic()
        self._only_checks = False
        # The last progress report: action, execution, details, percentage.
        self._last_report: tuple[object, ...] = ()
        self._reported_since_poll = False
        # The action whose update yielded the lock.
        self._interrupted: str | None = None
        self._compared: object = None
        self._server_config: object = None

    def __call__(self, heartbeat: Callable[[], None]) -> float:
        """Run a round. Errors of the server are logged, and the next round tries again.

        Raises:
            KeyboardInterrupt: ``heartbeat`` did.
        """
        only_checks, act = self._only_checks, self._continue if self._only_checks else self._round
        try:
            with atomic_files.locked(self._root / LOCK, purpose="the hawkBit agent"):
                pause_s = act(heartbeat)
        except UpdateError as error:
            self._log(logging.ERROR, str(error))
            pause_s = self._pause_after(error)
        now = self._clock.monotonic()
        next_round = now + _within(pause_s * daemon.jitter())
        self._next_round = min(self._next_round, next_round) if only_checks else next_round
        # The repository is checked at its own interval, also if the server is polled less often.
        self._only_checks = now < self._next_check < self._next_round
        return _within((self._next_check if self._only_checks else self._next_round) - now)

    def _round(self, heartbeat: Callable[[], None]) -> float:
        self._config = config.load(self._root / robot.CONFIG)
        self._saved = self._load()
        if ddi_mapping.must_finish(self._state()):
            self._finish_switched_update(heartbeat)
        self._server = self._connect()
        try:
            offer = self._poll()
        except UpdateError as error:
            return self._continue_offline(error, self._continue, heartbeat)
        try:
            self._accept_order(offer)
        except FetchError as error:
            # The order may have been cancelled, so it is not continued.
            return self._continue_offline(
                error, self._check_repository if offer.cancellation else self._continue, heartbeat
            )
        self._send_answers(offer)
        try:
            self._send_attributes(offer)
        except FetchError as error:
            self._log(logging.ERROR, str(error))
        return self._confirm(offer) or self._continue(heartbeat)

    def _continue_offline(
        self,
        error: UpdateError,
        act: Callable[[Callable[[], None]], float],
        heartbeat: Callable[[], None],
    ) -> float:
        self._log(logging.ERROR, str(error))
        act(heartbeat)
        return self._pause_after(error)

    def _continue(self, heartbeat: Callable[[], None]) -> float:
        return self._check_repository(heartbeat) if self._saved.order is None else self._carry_out(heartbeat)

    def _connect(self) -> DdiClient:
        """Return the client of the server; it is kept while its settings do not change, with its cache."""
        settings, name = self._config.hawkbit, self._config.device_id
        if settings is None:
            raise UpdateError(
                f"{self._root / robot.CONFIG}: has no field hawkbit: configure the server there",
                code="hawkbit.not_configured",
            )
        if self._server_config != (settings, name):
            self._server, self._server_config = DdiClient(self._root, settings, name), (settings, name)
        return self._server

    def _poll(self) -> Offer:
        self._next_poll = self._clock.monotonic() + self._sleep_s
        offer = self._server.poll()
        self._sleep_s, self._reported_since_poll = offer.sleep_s, False
        self._next_poll = self._clock.monotonic() + offer.sleep_s
        if (reached := self._saved.reached(self._now())) is not self._saved:
            with suppress(StorageError):
                self._save(reached)
        return offer

    def _accept_order(self, offer: Offer) -> None:
        """Make the server's order the order of this robot."""
        if offer.cancellation is not None:
            self._cancel(offer.cancellation)
            return
        offered, order = offer.deployment or offer.confirmation, self._saved.order
        if order is not None and order.action != offered:
            self._cancel_update(f"deployment {order.action} is no longer requested")
            self._save(replace(self._saved, order=None))
        if offered is None:
            return
        try:
            order = self._requested_order(offer)
        except ReleaseRejectedError as error:
            if not self._saved.has_answered(offered, ""):
                rejected = ddi_mapping.details([str(error)])
                self._end_action(offered, Answer(execution="closed", finished="failure", details=rejected))
            return
        if order is None or order == self._saved.order or self._saved.has_answered(offered, order.version):
            return
        self._save(self._saved.ordered(order))

    def _requested_order(self, offer: Offer) -> Order | None:
        model = self._config.model_id
        if offer.deployment is not None:
            deployment = self._server.deployment(offer.deployment)
            return ddi_mapping.parse_order(offer.deployment, deployment, model, confirmed=True)
        if offer.confirmation is not None:
            deployment = self._server.confirmation(offer.confirmation)
            return ddi_mapping.parse_order(offer.confirmation, deployment, model, confirmed=False)
        return None

    def _cancel(self, cancellation: str) -> None:
        stopped = self._server.cancelled_action(cancellation)
        order, ended = self._saved.order, self._saved.answers.get(stopped)
        refused = ""
        if order is not None and order.action == stopped:
            try:
                self._cancel_update(f"deployment {stopped} was cancelled")
            except StorageError:
                raise
            except UpdateError as error:
                refused = str(error)
        elif ended is not None and ended.execution != "canceled":
            refused = f"it has ended already: {ended.finished}"
        if refused:
            self._log(logging.WARNING, f"deployment {stopped} was not cancelled: {refused}")
            body = feedback("rejected", "none", ddi_mapping.details([refused]))
        else:
            self._end_action(stopped, Answer(execution="canceled", finished="none", details=(), sent=True))
            body = feedback("closed", "success", ())
        with suppress(NotFoundError):
            self._server.send_feedback("cancelAction", cancellation, body)

    def _cancel_update(self, reason: str) -> None:
        if self._state().phase is not Phase.IDLE:
            operator_requests.cancel(self._root, reason, now=self._now)

    def _send_answers(self, offer: Offer) -> None:
        """Send answers that the server has not accepted yet, and repeat the one that it requests again."""
        for action, answer in list(self._saved.answers.items()):
            if answer.execution == "canceled" or (answer.sent and action != offer.deployment):
                continue
            try:
                if action == offer.confirmation:
                    denied = {"confirmation": "denied", "details": list(answer.details)}
                    self._server.send_feedback("confirmationBase", action, denied)
                else:
                    body = feedback(answer.execution, answer.finished, answer.details)
                    self._server.send_feedback("deploymentBase", action, body)
            except NotFoundError:
                pass
            except FetchError as error:
                self._log(logging.ERROR, str(error))
                continue
            if not answer.sent:
                self._save(self._saved.answered(action, replace(answer, sent=True)))

    def _send_attributes(self, offer: Offer) -> None:
        """Send the robot's attributes if the server requests them or they have changed."""
        now = self._state()
        alarm = "; ".join(alarms(self._root, now))
        attributes = ddi_mapping.attributes(self._config, replace(now, alarm=alarm), __version__)
        if offer.wants_attributes or attributes != self._saved.attributes:
            self._server.put_attributes(attributes)
            self._save(replace(self._saved, attributes=attributes))
        serves = attributes["jepa.version"]
        if offer.installed is not None and self._compared != (offer.installed, serves):
            deployment = self._server.installed(offer.installed)
            self._compared = offer.installed, serves
            with suppress(ReleaseRejectedError):
                order = ddi_mapping.parse_order(
                    offer.installed, deployment, self._config.model_id, confirmed=True
                )
                if order.version != serves:
                    self._log(
                        logging.WARNING,
                        f"the server lists {order.version} as installed, but {serves} is active",
                    )

    def _confirm(self, offer: Offer) -> float | None:
        """Confirm an order that waits for it, and was approved if that is required; None: not confirmed."""
        order, asks = self._saved.order, self._config.approval
        if order is None or offer.confirmation != order.action:
            return None
        if asks and not ddi_mapping.is_approved(order, self._state()):
            return None
        by = "approved on the robot" if asks else "the robot accepts what its repository offers"
        body = {"confirmation": "confirmed", "details": [by]}
        try:
            self._server.send_feedback("confirmationBase", order.action, body)
        except FetchError as error:
            self._log(logging.ERROR, str(error))
            return None
        return MIN_SLEEP_S

    def _carry_out(self, heartbeat: Callable[[], None]) -> float:
        """Carry out the order as far as possible now."""
        order, now = self._saved.order, self._state()
        assert order is not None
        work = now.candidate
        if ddi_mapping.can_drop(now) and work is not None and work.release.version != order.version:
            self._cancel_update(f"the fleet requests {order.version}")
            now = self._state()
        if not ddi_mapping.is_serving(now, order.version) and not ddi_mapping.is_ready(order, now):
            if not order.fetch:
                pause_s = self._check_repository(heartbeat)
                self._report_progress(order, "scheduled", ("the server does not allow the download yet",))
                return pause_s
            self._schedule_check()
            return self._report_outcome(order, self._run_update(heartbeat, order))
        if ddi_mapping.is_ready(order, now) and self._clock.monotonic() >= self._next_check:
            self._schedule_check()
            with self._open_client(heartbeat=heartbeat) as client:
                now = client.check_for_rollback()
        return self._report_outcome(order, UpdateRun(now))

    def _finish_switched_update(self, heartbeat: Callable[[], None]) -> None:
        """Finish an update that can no longer be stopped, even if the server did not request it."""
        order, work = self._saved.order, self._state().candidate
        run = self._run_update(heartbeat, None)
        if order is not None and work is not None and work.release.version == order.version:
            answer = self._conclude(order, run)
            if answer is not None:
                self._end_action(order.action, answer)

    def _report_outcome(self, order: Order, run: UpdateRun) -> float:
        """Report the outcome of an order, and return the pause in seconds."""
        now, answer = run.state, None
        if now.phase is Phase.IDLE:
            answer = self._conclude(order, run)
            if answer is None:
                undecided = now.result == "undecided"
                waits = "it is retried soon" if undecided else "the repository cannot be used now"
                self._report_progress(order, "proceeding", ddi_mapping.details([f"{waits}: {now.reason}"]))
                return daemon.pause_s(now, self._sleep_s)
        elif not ddi_mapping.is_ready(order, now):
            # The order was changed, or another process had the lock.
            return MIN_SLEEP_S
        elif order.only_fetch:
            details = ddi_mapping.details(
                ["the release is downloaded and passed the gate", *gate_measurements(self._root, self._now)]
            )
            answer = Answer(execution="downloaded", finished="none", details=details, version=order.version)
            self._cancel_update(f"deployment {order.action} only requests the download and the gate")
        if answer is None:
            self._report_progress(order, *ddi_mapping.progress(order, now))
            return self._sleep_s
        self._end_action(order.action, answer)
        if order.confirmed:
            self._send_answers(Offer(sleep_s=self._sleep_s))
        return MIN_SLEEP_S

    def _conclude(self, order: Order, run: UpdateRun) -> Answer | None:
        measurements = gate_measurements(self._root, self._now) if run.gate_started else []
        return ddi_mapping.conclude(
            order, run.state, measurements, repository_answered=run.repository_answered
        )

    def _end_action(self, action: str, answer: Answer) -> None:
        self._save(self._saved.answered(action, answer))
        detail = f": {answer.details[0]}" if answer.details else ""
        self._log(logging.INFO, f"deployment {action}: {answer.execution}, {answer.finished}{detail}")

    def _check_repository(self, heartbeat: Callable[[], None]) -> float:
        """Check the repository periodically for a revocation of the active model, and return the pause.

        A revoked model is rolled back as soon as the robot allows a switch, whatever the fleet orders.
        """
        waits = self._state().waits_to_roll_back
        if not waits and self._clock.monotonic() < self._next_check:
            return self._sleep_s
        self._schedule_check()
        if not waits and ddi_mapping.can_drop(self._state()):
            # Does not wait for the lock: a running update is not interrupted.
            operator_requests.cancel(self._root, "the fleet orders no update", wait_s=0.0, now=self._now)
        now = self._run_update(heartbeat, None).state
        if now.waits_to_roll_back:
            return MIN_SLEEP_S
        if now.result != "unchanged":
            self._log(logging.INFO, f"{RESULT_NAMES[now.result]}: {now.reason}")
        for alarm in alarms(self._root, now):
            self._log(logging.CRITICAL, alarm)
        return self._sleep_s

    def _schedule_check(self) -> None:
        self._next_check = self._clock.monotonic() + self._config.poll_s * daemon.jitter()

    def _run_update(self, heartbeat: Callable[[], None], order: Order | None) -> UpdateRun:
        """Run an update that may install only the ordered version."""
        current = self._state().current
        version = order.version if order else current.version if current else "nothing"
        begin, self._interrupted = order is None or self._interrupted != order.action, None

        def watch(now: State, percent: int | None) -> None:
            if order is None:
                if now.waits_to_roll_back and self._clock.monotonic() >= self._next_poll:
                    raise Suspend
            elif ddi_mapping.can_drop(now):
                if ddi_mapping.is_ready(order, now):
                    raise Suspend
                self._exchange_with_server(order, now, percent)

        try:
            return run_update(
                self._root, self._open_client, heartbeat, version=version, begin=begin, watch=watch
            )
        except KeyboardInterrupt:
            self._interrupted = None if order is None else order.action
            raise

    def _exchange_with_server(self, order: Order, now: State, percent: int | None) -> None:
        """Report progress, and stop the update if its order has changed.

        A new execution state is reported at once, further details of the same one once per poll. After an
        error the server is not contacted for a while.

        Raises:
            Suspend: The order has changed.
        """
        if self._clock.monotonic() < self._backoff_until:
            return
        try:
            execution, doing = ddi_mapping.progress(order, now)
            if not self._reported_since_poll or self._last_report[:2] != (order.action, execution):
                self._report_progress(order, execution, doing, percent)
            if self._clock.monotonic() >= self._next_poll and self._requested_order(self._poll()) != order:
                raise Suspend
        except UpdateError as error:
            self._log(logging.ERROR, str(error))
            self._backoff_until = self._clock.monotonic() + self._pause_after(error)

    def _report_progress(
        self, order: Order, execution: str, details: tuple[str, ...], percent: int | None = None
    ) -> None:
        report = order.action, execution, details, percent
        # Progress of an unconfirmed order is not reported.
        if order.confirmed and report != self._last_report:
            self._server.send_feedback(
                "deploymentBase", order.action, feedback(execution, "none", details, percent)
            )
            self._last_report, self._reported_since_poll = report, True

    def _pause_after(self, error: UpdateError) -> float:
        return _within(error.after_s if isinstance(error, BusyError) else self._sleep_s)

    def _state(self) -> State:
        return state.load(self._root / robot.STATE)

    def _load(self) -> SavedState:
        try:
            return saved_state.load(self._root / STATE_FILE)
        except StorageError as error:
            self._log(logging.ERROR, str(error))
            return SavedState()

    def _save(self, after: SavedState) -> None:
        saved_state.save(self._root / STATE_FILE, after)
        self._saved = after


def _within(pause_s: float) -> float:
    return min(max(pause_s, MIN_SLEEP_S), MAX_SLEEP_S)
