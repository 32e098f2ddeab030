"""Carries updates to their end: what is to be done is kept before it is done, what came of it after."""

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
    NotYet,
    Outcome,
    Refused,
    RolledBack,
    Unhealthy,
    follow,
    pause_s,
    start,
)

_GOING_BACK = (Phase.ROLLBACK, Phase.REJECTED)


class Client:
    """The updates of one robot, one at a time.

    Args:
        state: as it was left.
        steps: does what a phase is for; gives the state with what became known, and the outcome.
        record: keeps a new state, given the one before it and what led from there (None: a beginning or a
            stop); when it returns, it is kept.
        now: the time of day.
        rest: waits so many seconds.

    Attributes:
        state: as it was kept last.
    """

    def __init__(
        self,
        state: State,
        *,
        steps: Callable[[State], tuple[State, Outcome]],
        record: Callable[[State, Outcome | None, State], None],
        now: Callable[[], datetime],
        rest: Callable[[float], None],
    ) -> None:
        self.state = state
        self._steps, self._record, self._now, self._rest = steps, record, now, rest

    def update(self, *, begin: bool = True) -> State:
        """End the update in work, or look for one and install it.

        Args:
            begin: whether to look for one if none is in work.

        Raises:
            StorageError: the state could not be kept; the next call goes on from the last one that was.
        """
        if self.state.phase is not Phase.IDLE:
            self._keep(self.state, Interrupted())
        elif begin:
            self._set(None, start(self.state))
        else:
            return self.state
        self._run()
        if self.state.result == "reverted":
            # What was revoked has made way for something older: there may be something newer.
            self._set(None, start(self.state))
            self._run()
        return self.state

    def check(self) -> Release | None:
        """Look for an update, without installing it, nor going back; a look that was cut off is done again.

        Returns:
            The release that would be installed.

        Raises:
            UpdateError: one is in work.
            StorageError: as :meth:`update`.
        """
        if self.state.phase in (Phase.CHECK, Phase.RESOLVE):
            self._keep(self.state, Interrupted())
        elif self.state.phase is Phase.IDLE:
            self._set(None, start(self.state, looks=True))
        else:
            raise UpdateError(
                f"an update is in work ({self.state.phase}): `jepa-runtime update apply` carries it to "
                "its end"
            )
        self._run(until=Phase.DOWNLOAD, looks=True)
        if self.state.work is None:
            return None
        release = self.state.work.release
        self._keep(self.state, NothingNew(f"{release.name} is offered"))
        return release

    def make_way(self) -> State:
        """While a candidate waits for its switch: ask whether what serves is to make way. If so, the way back
        takes the place of the candidate, for the next update to go.

        Raises:
            UpdateError: the repository could not be asked.
            StorageError: as :meth:`update`.
        """
        armed = self.state
        known, outcome = self._steps(replace(armed, phase=Phase.CHECK, waits=0, stopped=True))
        if isinstance(outcome, Failed | Refused):
            raise UpdateError(f"not asked while a candidate waits: {outcome.reason}")
        if isinstance(outcome, Done):
            known, outcome = self._steps(replace(known, phase=Phase.RESOLVE))
        if isinstance(outcome, RolledBack | NotYet):
            self._keep(known, outcome)
        else:
            learnt = ("versions", "signed_at", "release_seqs", "checked_at", "previous", "alarm")
            self._set(None, replace(armed, **{name: getattr(known, name) for name in learnt}))
        return self.state

    def rollback(self, reason: str) -> State:
        """Go back to what served before, and do not install again what serves now.

        Raises:
            UpdateError: there is nothing to go back to.
            StorageError: as :meth:`update`.
        """
        state = self.state
        if state.phase in SWITCHED:
            self._keep(state, Unhealthy(reason))
        elif state.phase not in _GOING_BACK or state.result == "none":
            earlier = next(
                (one for one in (state.good, state.previous) if one not in (None, state.current)), None
            )
            if earlier is None:
                raise UpdateError(
                    "there is no earlier release on this robot: publish one under a higher number"
                )
            self._keep(state, RolledBack(earlier, reason))
        self._run()
        return self.state

    def _run(self, until: Phase = Phase.IDLE, *, looks: bool = False) -> None:
        while self.state.phase not in (Phase.IDLE, until):
            before = self.state
            try:
                known, outcome = self._steps(before)
                if looks and isinstance(outcome, RolledBack | NotYet):
                    outcome = NothingNew(f"{outcome.reason}: an update takes it back")
                self._keep(known, outcome)
                self._rest(pause_s(before, outcome, self.state))
            except KeyboardInterrupt:
                self._set(None, replace(self.state, stopped=True))
                raise

    def _keep(self, known: State, outcome: Outcome) -> None:
        after = follow(known, outcome, self._now())
        try:
            self._set(outcome, after)
        except StorageError:
            # A disk that takes no more must not keep in service what is bad, or what nobody watches any more.
            if after.phase is Phase.ROLLBACK or known.phase in (Phase.SWITCH, Phase.OBSERVE):
                self._steps(replace(after, phase=Phase.ROLLBACK))
            raise

    def _set(self, outcome: Outcome | None, after: State) -> None:
        self._record(self.state, outcome, after)
        self.state = after
