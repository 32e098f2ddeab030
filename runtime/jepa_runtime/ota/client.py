"""Runs updates to their end. The state is stored before each phase and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.ota.release import Release
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import (
    SWITCHED,
    Done,
    Failed,
    Interrupted,
    NothingNew,
    Outcome,
    Rejected,
    RolledBack,
    Unhealthy,
    Waiting,
    next_state,
    pause_s,
    start,
)

_ROLLING_BACK = (Phase.ROLLBACK, Phase.REJECTED)


class Client:
    """Runs the updates of one robot, one at a time.

    Args:
        state: The stored state.
        run_step: Runs the step of the phase that a state is in; returns the state with everything that it
            learned, and the outcome.
        record: Stores a new state durably, given the previous state and the outcome that led from there
            (None: the update starts or stops).
        now: The time of day.
        sleep: Waits for a number of seconds.

    Attributes:
        state: The state that was stored last.
    """

    def __init__(
        self,
        state: State,
        *,
        run_step: Callable[[State], tuple[State, Outcome]],
        record: Callable[[State, Outcome | None, State], None],
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
    ) -> None:
        self.state = state
        self._run_step, self._record, self._now, self._sleep = run_step, record, now, sleep

    def update(self, *, begin: bool = True) -> State:
        """Finish the update in progress, or check for an update and install it.

        Args:
            begin: Whether to check for an update if none is in progress.

        Raises:
            StorageError: The state could not be stored; the next call resumes from the last stored state.
        """
        if self.state.phase is not Phase.IDLE:
            self._advance(self.state, Interrupted())
        elif begin:
            self._store(None, start(self.state))
        else:
            return self.state
        self._run()
        if self.state.result == "rolled_back":
            # The revoked model was replaced by an older one: a newer one may be offered.
            self._store(None, start(self.state))
            self._run()
        return self.state

    def check(self) -> Release | None:
        """Check for an update without installing it, and without rolling back.

        Returns:
            The release that would be installed.

        Raises:
            UpdateError: An update is in progress.
            StorageError: As for :meth:`update`.
        """
        if self.state.phase in (Phase.CHECK, Phase.RESOLVE):
            self._advance(self.state, Interrupted())
        elif self.state.phase is Phase.IDLE:
            self._store(None, start(self.state, only_check=True))
        else:
            raise UpdateError(
                f"an update is in progress ({self.state.phase}): finish it with `jepa-runtime update apply`",
                code="update.in_progress",
            )
        self._run(until=Phase.DOWNLOAD, only_check=True)
        if self.state.candidate is None:
            return None
        release = self.state.candidate.release
        self._advance(self.state, NothingNew(f"{release.name} is offered"))
        return release

    def check_for_rollback(self) -> State:
        """Check, while a candidate waits for its switch, whether the active model must be rolled back.

        If so, the rollback replaces the candidate, and the next call of :meth:`update` runs it.

        Raises:
            UpdateError: The repository could not be checked.
            StorageError: As for :meth:`update`.
        """
        armed = self.state
        state, outcome = self._run_step(replace(armed, phase=Phase.CHECK, waits=0, stopped=True))
        if isinstance(outcome, Failed | Rejected):
            raise UpdateError(
                f"the repository was not checked while a candidate waits: {outcome.reason}",
                code="update.check_failed",
            )
        if isinstance(outcome, Done):
            state, outcome = self._run_step(replace(state, phase=Phase.RESOLVE))
        if isinstance(outcome, RolledBack | Waiting):
            self._advance(state, outcome)
        else:
            learned = ("versions", "signed_at", "release_seqs", "checked_at", "previous", "alarm")
            self._store(None, replace(armed, **{name: getattr(state, name) for name in learned}))
        return self.state

    def rollback(self, reason: str) -> State:
        """Roll back to the previous model, and do not install the active one again.

        Raises:
            UpdateError: There is no earlier model.
            StorageError: As for :meth:`update`.
        """
        state = self.state
        if state.phase in SWITCHED:
            self._advance(state, Unhealthy(reason))
        elif state.phase not in _ROLLING_BACK or state.result == "none":
            earlier = next(
                (one for one in (state.good, state.previous) if one not in (None, state.current)), None
            )
            if earlier is None:
                raise UpdateError(
                    "there is no earlier model on this robot: publish one under a higher release number",
                    code="update.no_earlier_model",
                )
            self._advance(state, RolledBack(earlier, reason))
        self._run()
        return self.state

    def _run(self, until: Phase = Phase.IDLE, *, only_check: bool = False) -> None:
        while self.state.phase not in (Phase.IDLE, until):
            before = self.state
            try:
                state, outcome = self._run_step(before)
                if only_check and isinstance(outcome, RolledBack | Waiting):
                    outcome = NothingNew(f"{outcome.reason}: `jepa-runtime update apply` rolls back")
                self._advance(state, outcome)
                self._sleep(pause_s(before, outcome, self.state))
            except KeyboardInterrupt:
                self._store(None, replace(self.state, stopped=True))
                raise

    def _advance(self, state: State, outcome: Outcome) -> None:
        after = next_state(state, outcome, self._now())
        try:
            self._store(outcome, after)
        except StorageError:
            # With a full disk, a bad or unobserved model must not stay active.
            if after.phase is Phase.ROLLBACK or state.phase in (Phase.SWITCH, Phase.OBSERVE):
                self._run_step(replace(after, phase=Phase.ROLLBACK))
            raise

    def _store(self, outcome: Outcome | None, after: State) -> None:
        self._record(self.state, outcome, after)
        self.state = after
