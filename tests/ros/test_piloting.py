"""The pilot drives only where it may: whatever comes, in whatever order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

piloting = pytest.importorskip(
    "jepa_ros.piloting", reason="the workspace is not on the paths: . scripts/env.sh"
)
from jepa_ros.diagnostics import Level  # noqa: E402
from jepa_ros.guarding import Guard  # noqa: E402
from jepa_ros.reaching import Outcome, Reach, Terms  # noqa: E402
from jepa_ros.seeking import Futures, Seeker, State  # noqa: E402

from jepa_runtime.planning.cem import CEM, CEMConfig  # noqa: E402
from jepa_runtime.planning.limits import ActionLimits  # noqa: E402

pytestmark = pytest.mark.ros

FRAME_NS, STEP_S = 33_000_000, 0.2
LATCHED_NS, OTHER_NS = 5, 6
SAMPLES, HORIZON = 8, 3
LIMITS = ActionLimits(
    low=np.array([-1, -0.5], np.float32),
    high=np.array([1, 1], np.float32),
    max_norm=1.0,
    max_change=np.array([0.5, 0.5], np.float32),
)
TIMEOUT_S, PATIENCE_S = 0.5, 2.0


class Search(CEM):
    """One that can be made to plan what is not allowed, or to fail."""

    broken = ""

    def tell(self, costs):
        if self.broken == "fails":
            raise RuntimeError("no memory")
        super().tell(costs)
        if self.broken == "nan":
            self.mean = np.full_like(self.mean, np.nan)
        elif self.broken == "leaps":
            self.mean = self.mean + np.float32(0.7)


class World:
    """A pilot, the clock it goes by, and the futures that it is given."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.guard = Guard(surprised_after=3, clock=self.clock)
        self.pilot = piloting.Pilot(self.guard, timeout_s=TIMEOUT_S, clock=self.clock)
        self.frame = 0
        self.energy = 10.0
        self.energies: np.ndarray | None = None
        self.sought: int | None = LATCHED_NS
        self.sought_by_service = False
        self.asked_ns, self.question = 0, None
        self.decision = None
        self.told = np.zeros(2)
        self.reaches: list[Reach] = []
        self.exchange()

    def clock(self) -> float:
        return self.now_s

    def exchange(self) -> None:
        self.search = Search(CEMConfig(num_samples=SAMPLES, horizon=HORIZON, topk=2), LIMITS, seed=0)
        seeker = Seeker(self.search, step_s=STEP_S, goal_threshold=1.0, reached_after=2, stuck_after_s=1.0)
        driver = piloting.Driver(seeker=seeker, limits=LIMITS, step_s=STEP_S, goal_threshold=1.0)
        self.pilot.exchange(driver)

    def image(self, *, age_s: float = 0.01):
        """Futures come, which answer the last question; the node catches what the pilot raises."""
        self.now_s += FRAME_NS / 1e9
        self.frame += 1
        stamp_ns = 10**12 + self.frame * FRAME_NS
        question = self.question
        energies = np.ones((SAMPLES, HORIZON)) if question is None else -np.cumsum(question[..., 0], axis=1)
        futures = Futures(
            stamp_ns=stamp_ns,
            goal_stamp_ns=self.sought,
            current_energy=self.energy,
            energies=energies.astype(np.float32) if self.energies is None else self.energies,
            answer_to_ns=self.asked_ns,
            goal_asked=self.sought_by_service,
        )
        try:
            self.decision = self.pilot.update(futures, age_s=age_s)
        except RuntimeError as error:
            self.pilot.fail(error)
            self.decision = None
            return None
        if self.decision.question is not None:
            self.asked_ns, self.question = stamp_ns, self.decision.question
        self.told = self.obey(self.decision.command, stamp_ns)
        self.pilot.told(self.told)
        return self.decision

    def obey(self, command, stamp_ns):
        """What the robot then does."""
        return np.zeros(2) if command is None else command

    def images(self, count: int = 5):
        for _ in range(count):
            decision = self.image()
        return decision

    def begin(self, goal_ns: int = OTHER_NS, *, is_set: bool = True, **terms) -> Reach:
        given = {"threshold": None, "timeout_s": None, "give_up_after": 2, "patience_s": PATIENCE_S} | terms
        reach = Reach(Terms(goal_ns=goal_ns, **given), now_s=self.now_s)
        reach.is_set = is_set
        self.pilot.begin(reach)
        self.reaches.append(reach)
        return reach


@pytest.fixture
def world():
    return World()


def test_the_latched_goal_is_driven_to(world):
    decision = world.images()
    assert decision.state is State.SEEKING and decision.command[0] > 0
    assert world.pilot.may_drive and world.pilot.verdict().level is Level.OK


def test_without_a_model_or_with_one_that_cannot_be_driven_with_the_robot_stands(world):
    world.pilot.exchange(None, "its actions are colours")
    decision = world.images()
    assert decision.command is None and decision.state is State.HELD
    assert world.pilot.verdict().message == "the robot stands: its actions are colours"
    world.exchange()
    assert world.images().command is not None


def test_an_asked_goal_waits_for_its_futures_and_is_driven_to_its_end(world):
    world.images()
    reach = world.begin()
    assert world.images(3).command is None, "those are to the latched goal"
    world.sought = OTHER_NS
    assert world.images().command is not None
    world.energy = 0.5
    assert world.images(2).command is None
    assert reach.end.outcome is Outcome.REACHED and world.pilot.reach is None


def test_after_its_end_nobody_drives_to_an_asked_goal_and_the_next_one_is_free(world):
    world.begin()
    world.sought = OTHER_NS
    world.images()
    world.pilot.end(Outcome.CANCELLED, "it was cancelled")
    assert not world.pilot.may_drive
    assert world.images().command is None, "the world model has not yet given it back"
    world.sought = None
    assert world.images().state is State.IDLE
    world.sought = OTHER_NS
    assert world.images().command is None, "it took it late"
    world.sought = LATCHED_NS
    assert world.images().command is not None


def test_a_goal_that_nobody_here_asked_for_is_not_driven_to(world):
    # A planner that died while it drove has left it behind.
    world.sought, world.sought_by_service = OTHER_NS, True
    decision = world.images()
    assert decision.command is None and decision.state is State.IDLE
    world.begin()
    assert world.images().command is not None


def test_a_new_goal_takes_the_place_of_the_one_before(world):
    first, second = world.begin(8), world.begin(9)
    assert first.end.outcome is Outcome.ABORTED and "took its place" in first.end.reason
    world.sought = 9
    assert world.images().command is not None and second.end is None


def test_an_asked_goal_has_its_own_threshold_and_the_next_has_the_models(world):
    world.sought, world.energy = OTHER_NS, 3.0
    reach = world.begin(threshold=4.0)
    world.images()
    assert reach.end.outcome is Outcome.REACHED
    world.sought = LATCHED_NS
    assert world.images().state is State.SEEKING


def test_a_new_goal_may_bear_the_stamp_of_the_one_whose_place_it_takes(world):
    world.begin()
    world.sought, world.energy = OTHER_NS, 0.5
    world.image()
    second = world.begin(is_set=False)
    assert world.images().command is None, "near the picture of the first"
    world.sought = None
    world.images()
    assert second.end is None, "the first was given back"
    second.is_set = True
    world.sought, world.energy = OTHER_NS, 10.0
    assert world.images().command is not None and second.end is None


def test_a_goal_that_was_reached_as_latched_is_judged_anew_when_it_is_asked_for(world):
    world.energy = 0.5
    assert world.images().state is State.REACHED
    reach = world.begin(LATCHED_NS, threshold=0.3)
    assert world.images().state is State.SEEKING and reach.end is None
    world.energy = 0.2
    world.images(2)
    assert reach.end.outcome is Outcome.REACHED


def test_a_robot_that_cannot_get_nearer_is_stuck(world):
    world.sought = OTHER_NS
    reach = world.begin()
    for _ in range(120):
        world.image()
    assert reach.end.outcome is Outcome.STUCK


def test_time_is_over_even_if_nothing_comes(world):
    reach = world.begin(timeout_s=0.3)
    world.now_s += 0.4
    world.pilot.watch()
    assert reach.end.outcome is Outcome.TIMEOUT and not world.pilot.may_drive


def test_silence_makes_the_robot_stand_and_ends_an_asked_goal_if_it_lasts(world):
    world.sought = OTHER_NS
    reach = world.begin()
    world.images()
    world.now_s += TIMEOUT_S + 0.1
    world.pilot.watch()
    assert not world.pilot.may_drive and world.pilot.verdict().level is Level.STALE
    assert reach.end is None
    world.now_s += PATIENCE_S + 0.1
    world.pilot.watch()
    assert reach.end.outcome is Outcome.ABORTED and "no futures for" in reach.end.reason
    world.sought = None
    world.images(1)
    assert world.pilot.verdict().level is Level.OK


def test_a_goal_is_given_its_own_time_however_long_the_robot_has_stood_before(world):
    # As where the world model still loads.
    for _ in range(2):
        world.now_s += PATIENCE_S + 1.0
        world.pilot.watch()
    reach = world.begin()
    world.now_s += PATIENCE_S - 0.1
    world.pilot.watch()
    assert reach.end is None
    world.sought = OTHER_NS
    assert world.images().command is not None and reach.end is None


def test_old_images_make_the_robot_stand(world):
    world.images()
    assert world.image(age_s=0.6).command is None
    assert world.pilot.verdict().level is Level.WARN and "0.60 s old" in world.pilot.verdict().message
    assert world.images().command is not None


def test_images_that_never_come_in_time_end_an_asked_goal(world):
    world.sought = OTHER_NS
    reach = world.begin()
    for _ in range(5):
        assert reach.end is None and world.image().command is None
        world.now_s += TIMEOUT_S + 0.1
        world.pilot.watch()
    assert reach.end.outcome is Outcome.ABORTED and "no futures for" in reach.end.reason


@pytest.mark.parametrize(("every", "ends"), [(2, True), (5, False)])
def test_a_check_that_comes_and_goes_ends_an_asked_goal_if_the_robot_never_drives(world, every, ends):
    world.sought = OTHER_NS
    reach = world.begin()
    commands = 0
    for frame in range(90):
        world.energy *= 0.99
        commands += world.image(age_s=0.01 if frame % every else 0.6).command is not None
    assert bool(commands) is not ends and (reach.end is not None) is ends
    assert not ends or "s old when its futures came" in reach.end.reason


def test_surprises_make_the_robot_stand_until_they_are_over(world):
    world.images()
    for _ in range(3):
        world.guard.surprised(True)
    assert not world.pilot.may_drive
    assert world.images(2).state is State.HELD
    assert world.images(6).command is not None


@pytest.mark.parametrize(("broken", "words"), [("nan", "not finite"), ("leaps", "beyond the limits")])
def test_a_forbidden_command_is_not_given_and_another_plan_is_tried(world, broken, words):
    world.images()
    world.search.broken = broken
    decisions = [world.image() for _ in range(8)]
    assert decisions[-1].command is None
    assert all(LIMITS.forbids(d.command) == "" for d in decisions if d.command is not None)
    verdict = world.pilot.verdict()
    assert verdict.level is Level.ERROR and words in verdict.message
    world.search.broken = ""
    assert world.images().command is not None and not world.guard.holds


def test_whatever_fails_makes_the_robot_stand_until_it_does_not(world):
    world.images()
    world.search.broken = "fails"
    world.images()
    assert not world.pilot.may_drive and "RuntimeError: no memory" in world.pilot.verdict().message
    world.search.broken = ""
    assert world.images().command is not None


@pytest.mark.parametrize("of", ["the image", "the candidates"])
def test_energies_that_are_no_numbers_make_the_robot_stand(world, of):
    world.images()
    if of == "the image":
        world.energy = math.nan
    else:
        world.energies = np.full((SAMPLES, HORIZON), np.nan, np.float32)
    # For longer than a robot without progress takes to drive any way.
    assert [decision for decision in (world.image() for _ in range(90)) if decision.command is not None] == []
    assert not world.pilot.may_drive and "not finite" in world.pilot.verdict().message
    world.energy, world.energies = 10.0, None
    assert world.images().command is not None and not world.guard.holds


@pytest.mark.parametrize("sought", [None, OTHER_NS])
def test_what_failed_long_ago_does_not_end_the_next_goal(world, sought):
    world.search.broken = "fails"
    world.images()
    world.search.broken, world.sought = "", sought
    if sought is None:
        world.images()
        assert world.pilot.verdict().level is Level.OK, "nothing is to be done"
    world.now_s += PATIENCE_S + 1.0
    reach = world.begin()
    world.sought = OTHER_NS
    assert world.images().command is not None and reach.end is None


def test_an_exchange_of_the_model_begins_plans_anew(world):
    world.sought = OTHER_NS
    reach = world.begin()
    world.images()
    world.exchange()
    assert world.image().command is None
    assert world.images().command is not None and reach.end is None


class Driving(RuleBasedStateMachine):
    """Anything may happen at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.last = None

    @rule(count=st.integers(1, 8), age_s=st.sampled_from([0.01, 0.01, 0.01, 0.7]))
    def images_come(self, count: int, age_s: float) -> None:
        for _ in range(count):
            self.last = self.world.image(age_s=age_s)
            self.check_command(age_s)

    def check_command(self, age_s: float) -> None:
        world, decision = self.world, self.last
        if decision is None or decision.command is None:
            return
        assert LIMITS.forbids(decision.command.astype(np.float32)) == ""
        assert world.pilot.may_drive and world.sought is not None and age_s < TIMEOUT_S
        reach = world.pilot.reach
        assert reach is None or (reach.end is None and reach.terms.goal_ns == world.sought)

    @rule(goal=st.sampled_from([None, LATCHED_NS, 8, 9]))
    def the_world_model_seeks(self, goal: int | None) -> None:
        self.world.sought = goal

    @rule(goal=st.sampled_from([8, 9]), timeout_s=st.sampled_from([None, 1.0]))
    def a_goal_is_asked_for(self, goal: int, timeout_s: float | None) -> None:
        self.world.begin(goal, timeout_s=timeout_s)

    @rule()
    @precondition(lambda self: self.world.pilot.reach is not None)
    def it_is_cancelled(self) -> None:
        reach = self.world.pilot.reach
        self.world.pilot.end(Outcome.CANCELLED, "")
        assert reach is not None and reach.end is not None and not self.world.pilot.may_drive

    @rule(energy=st.sampled_from([0.5, 5.0, 10.0, math.nan]))
    def the_energy_is(self, energy: float) -> None:
        self.world.energy = energy

    @rule(broken=st.sampled_from(["", "", "nan", "leaps", "fails"]))
    def the_search_is(self, broken: str) -> None:
        self.world.search.broken = broken

    @rule(surprising=st.lists(st.booleans(), min_size=1, max_size=4))
    def surprises(self, surprising: list[bool]) -> None:
        for each in surprising:
            self.world.guard.surprised(each)

    @rule(seconds=st.sampled_from([0.05, 0.6, 3.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.world.now_s += seconds
        self.world.pilot.watch()
        assert seconds < TIMEOUT_S or not self.world.pilot.may_drive

    @rule(usable=st.booleans())
    def the_model_is_exchanged(self, usable: bool) -> None:
        if usable:
            self.world.exchange()
        else:
            self.world.pilot.exchange(None, "unusable")
            assert not self.world.pilot.may_drive

    @invariant()
    def no_more_than_the_newest_goal_is_in_work(self) -> None:
        in_work = [reach for reach in self.world.reaches if reach.end is None]
        assert in_work == ([] if self.world.pilot.reach is None else [self.world.pilot.reach])
        assert in_work in ([], self.world.reaches[-1:])

    @invariant()
    def why_the_robot_stands_is_told(self) -> None:
        verdict = self.world.pilot.verdict()
        assert bool(self.world.guard.holds) == verdict.message.startswith("the robot stands: ")
        assert verdict.level is not Level.OK or not self.world.guard.holds


Driving.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestDriving = pytest.mark.ros(Driving.TestCase)
