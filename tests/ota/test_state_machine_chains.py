"""The update state machine: every failure in every phase, and the exact sequence of states after it."""

from __future__ import annotations

from itertools import product

import pytest

from jepa_runtime.ota.client import Client
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import Done, Failed, Outcome, Rejected, Unhealthy, start, with_offer
from tests.ota.robots import Died, release
from tests.ota.states import LETTER, LETTERS, NEW, NOW, OLD, before_update

# A letter for each stored state, ! for each kill of the process. The watchdog turns a hang into a kill.
CHAINS = {
    # phase: one error, one kill, errors forever, kills forever
    "C": ("CCRDVSPHAWOKEGI", "C!CRDVSPHAWOKEGI", "CCCCCI", "C!C!C!C!C!I"),
    "R": ("CRRDVSPHAWOKEGI", "CR!CRDVSPHAWOKEGI", "CRRRJEGI", "CR!CR!CR!JEGI"),
    "D": (
        "CRDDVSPHAWOKEGI",
        "CRD!CRDVSPHAWOKEGI",
        "CRDDDDDDDDJEGI",
        "CRD!CRD!CRD!CRD!CRD!CRD!CRD!CRD!JEGI",
    ),
    "V": ("CRDVDVSPHAWOKEGI", "CRDV!CRDVSPHAWOKEGI", "CRDVDVJEGI", "CRDV!CRDV!JEGI"),
    "S": ("CRDVSDVSPHAWOKEGI", "CRDVS!CRDVSPHAWOKEGI", "CRDVSDVSDVSJEGI", "CRDVS!CRDVS!CRDVS!JEGI"),
    "P": ("CRDVSPPHAWOKEGI", "CRDVSP!PHAWOKEGI", "CRDVSPPPJEGI", "CRDVSP!P!P!JEGI"),
    "H": ("CRDVSPHHAWOKEGI", "CRDVSPH!HAWOKEGI", "CRDVSPHHHJEGI", "CRDVSPH!H!H!JEGI"),
    "A": ("CRDVSPHAAWOKEGI", "CRDVSPHA!AWOKEGI", "CRDVSPHAAAJEGI", "CRDVSPHA!A!A!JEGI"),
    "W": ("CRDVSPHAWWOKEGI", "CRDVSPHAW!WOKEGI", "CRDVSPHAWWWBJEGI", "CRDVSPHAW!W!W!BJEGI"),
    "O": ("CRDVSPHAWOOKEGI", "CRDVSPHAWO!OKEGI", "CRDVSPHAWOOOBJEGI", "CRDVSPHAWO!O!O!BJEGI"),
    "K": ("CRDVSPHAWOKKEGI", "CRDVSPHAWOK!KEGI", "CRDVSPHAWOKKKBJEGI", "CRDVSPHAWOK!K!K!BJEGI"),
    "E": ("CRDVSPHAWOKEEGI", "CRDVSPHAWOKE!EGI", "CRDVSPHAWOKEEEEEGI", "CRDVSPHAWOKE!E!E!E!E!GI"),
    "G": ("CRDVSPHAWOKEGGI", "CRDVSPHAWOKEG!GI", "CRDVSPHAWOKEGGGI", "CRDVSPHAWOKEG!G!G!I"),
    # They are preceded by a candidate that fails in service, and one that is rejected.
    "B": ("CRDVSPHAWOBBJEGI", "CRDVSPHAWOB!BJEGI", "CRDVSPHAWOBBBJEGI", "CRDVSPHAWOB!B!B!JEGI"),
    "J": ("CRDVSPJJEGI", "CRDVSPJ!JEGI", "CRDVSPJJJEGI", "CRDVSPJ!J!J!EGI"),
}
ROWS = [
    (letter, kind, when, chain)
    for letter, chains in CHAINS.items()
    for (kind, chain), when in product(
        (
            ("error", chains[0]),
            ("kill", chains[1]),
            ("hang", chains[1]),
            ("errors", chains[2]),
            ("kills", chains[3]),
            ("hangs", chains[3]),
        ),
        ("before", "after"),
    )
]


class World:
    """A minimal robot: slots, two links, a stored state, a clock, and one fault."""

    def __init__(self, letter: str, kind: str, when: str) -> None:
        self.faulty, self.kind, self.when = LETTERS[letter], kind, when
        self.state = before_update()
        self.chain = ""
        self.seconds = 0.0
        self.slots, self.current, self.good = {OLD}, OLD, OLD
        self.staged = False
        self._left = 1 if kind in ("error", "kill", "hang") else 10**6

    def record(self, _: State, __: Outcome | None, after: State) -> None:
        self.state = after
        self.chain += LETTER[after.phase]

    def rest(self, seconds: float) -> None:
        self.seconds += seconds

    def step(self, state: State) -> tuple[State, Outcome]:
        is_faulty = state.phase is self.faulty and self._left > 0
        if is_faulty and self.when == "before":
            return state, self._fail()
        known, outcome = self._effect(state)
        if is_faulty:
            return known, self._fail()
        return known, outcome

    def _fail(self) -> Outcome:
        self._left -= 1
        if self.kind.startswith("hang"):
            self.seconds += 900
        if not self.kind.startswith("error"):
            raise Died
        return Failed("broken")

    def _effect(self, state: State) -> tuple[State, Outcome]:
        match state.phase:
            case Phase.CHECK:
                return with_offer(state, "stable", release()), Done()
            case Phase.DOWNLOAD:
                self.staged = self.staged or NEW not in self.slots
            case Phase.STAGE:
                assert self.staged or NEW in self.slots
                self.slots.add(NEW)
                self.staged = False
            case Phase.PROBE if self.faulty is Phase.REJECTED:
                return state, Rejected("too slow")
            case Phase.SWITCH:
                self.current = NEW
            case Phase.OBSERVE if self.faulty is Phase.ROLLBACK:
                return state, Unhealthy("NaN")
            case Phase.COMMIT:
                self.good = NEW
            case Phase.ROLLBACK:
                assert state.good is not None
                self.current = self.good = state.good.manifest_sha256
            case Phase.GC:
                retained = [one.manifest_sha256 for one in (state.current, state.good, state.previous) if one]
                self.slots = {slot for slot in self.slots if slot in retained}
        return state, Done()

    def live(self) -> None:
        """Run, and restart after each kill."""
        for _ in range(100):
            client = Client(
                self.state, run_step=self.step, record=self.record, now=lambda: NOW, sleep=self.rest
            )
            try:
                client.update()
                return
            except Died:
                self.chain += "!"
                assert self.current in self.slots and self.good in self.slots
        raise AssertionError(f"no end: {self.chain}")


@pytest.mark.parametrize(
    ("letter", "kind", "when", "chain"), ROWS, ids=[f"{LETTERS[row[0]]}-{row[1]}-{row[2]}" for row in ROWS]
)
def test_failure_in_each_phase_has_the_tabulated_chain_of_states(
    letter: str, kind: str, when: str, chain: str
) -> None:
    world = World(letter, kind, when)
    world.live()
    assert world.chain == chain
    committed = "K" in chain and "B" not in chain
    assert world.state.phase is Phase.IDLE and world.state.candidate is None and not world.state.attempts
    if letter == "B" and chain.count("B") == 3:
        # The rollback failed permanently. The next update starts with the links, whose targets are unknown.
        assert world.state.alarm and start(world.state).phase is Phase.ROLLBACK
        return
    assert world.current == world.good == (NEW if committed else OLD)
    assert world.slots == {OLD, NEW} if committed else world.slots == {OLD}
    assert (NEW in world.state.rejections) == (not committed and letter != "C")
    assert world.state.result == ("updated" if committed else "rejected" if letter in "BJ" else "failed")


def test_chain_table_covers_every_phase_except_idle() -> None:
    assert {LETTERS[letter] for letter in CHAINS} == set(Phase) - {Phase.IDLE}
    assert len(ROWS) == 180
