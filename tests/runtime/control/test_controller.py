"""The controller moves the robot only when permitted, for any sequence of events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.control.controller import ControllerModel
from jepa_runtime.control.receding_horizon import PlannerInput
from jepa_runtime.control.safety_monitor import StopCause
from jepa_runtime.planning.cem import CEMConfig
from tests.runtime.control.controllers import (
    FRAME_NS,
    HORIZON,
    LATCHED_NS,
    LIMITS,
    OTHER_NS,
    SAMPLES,
    STEP_S,
    TIMEOUT_S,
    Level,
    Outcome,
    State,
    World,
)


def test_controller_drives_to_the_latched_goal(world):
    assert world.controller.verdict().message == "idle" and not world.controller.may_move
    decision = world.images()
    assert decision.state is world.controller.state is State.SEEKING and decision.command[0] > 0
    assert world.controller.iterations == 4, "one for each image after the first request"
    assert world.controller.may_move and world.controller.verdict().level is Level.OK


def test_controller_without_a_suitable_model_stands(world):
    world.controller.set_model(None, "its actions are colors")
    decision = world.images()
    assert decision.command is None and decision.state is State.HELD and world.controller.iterations == 0
    assert world.controller.verdict().message == "robot stopped: its actions are colors"
    reach = world.begin()
    world.sought = OTHER_NS
    assert world.images().command is None and reach.result is None
    world.swap_model()
    assert world.images().command is not None


def test_action_goal_waits_for_its_futures_and_is_driven_to_its_end(world):
    world.images()
    reach = world.begin()
    assert world.images(3).command is None, "those belong to the latched goal"
    world.sought = OTHER_NS
    assert world.images().command is not None
    world.energy = 0.5
    assert world.images(2).command is None
    assert reach.result.outcome is Outcome.REACHED and world.controller.goal is None


def test_action_goal_counts_model_steps_from_its_futures(world):
    reach = world.begin()
    world.images(20)
    assert reach.steps == 0
    world.sought = OTHER_NS
    world.images(1 + round(3.5 * STEP_S * 1e9 / FRAME_NS))
    assert reach.steps == 3


def test_action_goal_after_its_end_is_not_driven_to_and_the_next_is_accepted(world):
    world.begin()
    world.sought = OTHER_NS
    world.images()
    world.controller.end_goal(Outcome.CANCELLED, "it was cancelled")
    assert not world.controller.may_move
    assert world.images().command is None, "the world model has not released it yet"
    world.sought = None
    assert world.images().state is State.IDLE
    world.sought = OTHER_NS
    assert world.images().command is None, "it received it late"
    world.sought = LATCHED_NS
    assert world.images().command is not None


def test_futures_before_any_model_make_the_robot_stand(world):
    world.controller = type(world.controller)(world.monitor, timeout_s=TIMEOUT_S, clock=world.clock)
    assert world.images().state is State.HELD and not world.monitor.counts["fault"]


def test_plan_to_the_latched_goal_is_restarted_after_an_action_goal_of_another_client(world):
    assert world.images().command is not None
    world.sought, world.sought_by_service = OTHER_NS, True
    assert world.images(2).state is State.IDLE
    world.sought, world.sought_by_service = LATCHED_NS, False
    assert world.image().command is None, "the next command is not known yet"
    assert world.images().command is not None


def test_goal_latched_right_after_an_action_goal_is_driven_to(world):
    world.begin()
    world.sought = OTHER_NS
    world.images()
    world.controller.end_goal(Outcome.CANCELLED, "it was cancelled")
    assert not world.controller.may_move
    world.sought = LATCHED_NS
    assert world.images().command is not None and world.controller.may_move


@pytest.mark.parametrize("new_has_none_at_first", [False, True])
@pytest.mark.parametrize("in_work", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_earlier_latched_goal_is_not_driven_to_when_the_world_model_restarts(
    world, known, in_work, new_has_none_at_first
):
    if known:
        world.images()
    world.begin()
    assert world.images(2).state is State.IDLE, "the world model does not have the goal yet"
    world.sought = OTHER_NS
    world.images()
    if not in_work:
        world.controller.end_goal(Outcome.CANCELLED, "it was cancelled")
        world.sought = None
        world.images()
    for _ in range(2):
        world.swap_model()
        if new_has_none_at_first:
            world.sought = None
            world.images()
        world.sought = LATCHED_NS
        assert all(world.image().command is None for _ in range(8))
        assert world.decision.state is State.IDLE and world.reaches[0].result is not None
    world.sought = LATCHED_NS + 5
    assert world.images().command is not None


def test_earlier_latched_goal_is_not_driven_to_when_the_action_goal_starts_immediately(world):
    world.images()
    world.begin()
    world.sought = OTHER_NS
    world.images()
    world.swap_model()
    world.sought = LATCHED_NS
    assert world.images().command is None and world.decision.state is State.IDLE


def test_goal_latched_again_after_an_action_goal_is_driven_to(world):
    world.images()
    world.begin()
    world.controller.end_goal(Outcome.CANCELLED, "it was cancelled")
    world.sought = None
    world.images()
    world.sought = LATCHED_NS
    assert world.images().command is not None
    world.swap_model()
    assert world.images().command is not None, "the world model has its earlier goal again"


def test_goal_without_a_request_to_this_node_is_not_driven_to(world):
    # Left behind by a planner that crashed while driving.
    world.sought, world.sought_by_service = OTHER_NS, True
    decision = world.images()
    assert decision.command is None and decision.state is State.IDLE
    world.begin()
    assert world.images().command is not None


def test_new_goal_replaces_the_previous_one(world):
    first, second = world.begin(8), world.begin(9)
    assert first.result.outcome is Outcome.ABORTED and "replaced by another goal" in first.result.reason
    world.sought = 9
    assert world.images().command is not None and second.result is None


def test_messages_from_before_an_action_goal_are_ignored(world):
    world.images()
    assert world.controller.may_move
    world.begin(is_set=False)
    assert not world.controller.may_move
    world.images()
    assert world.controller.may_move, "standing is the decision"


def test_action_goal_has_its_own_threshold_and_the_next_the_default(world):
    world.sought, world.energy = OTHER_NS, 3.0
    reach = world.begin(threshold=4.0)
    world.images()
    assert reach.result.outcome is Outcome.REACHED
    world.sought = LATCHED_NS
    assert world.images().state is State.SEEKING


def test_new_goal_may_have_the_stamp_of_the_replaced_one(world):
    world.begin()
    world.sought, world.energy = OTHER_NS, 0.5
    world.image()
    second = world.begin(is_set=False)
    assert world.images().command is None, "near the goal image of the first"
    world.sought = None
    world.images()
    assert second.result is None, "the first was released"
    second.is_set = True
    world.sought, world.energy = OTHER_NS, 10.0
    assert world.images().command is not None and second.result is None


def test_latched_goal_already_reached_is_checked_again_as_an_action_goal(world):
    world.energy = 0.5
    assert world.images().state is State.REACHED
    reach = world.begin(LATCHED_NS, threshold=0.3)
    assert world.images().state is State.SEEKING and reach.result is None
    world.energy = 0.2
    world.images(2)
    assert reach.result.outcome is Outcome.REACHED


def test_robot_without_progress_is_stuck(world):
    world.sought = OTHER_NS
    reach = world.begin()
    while reach.result is None:
        decision = world.image()
        assert world.controller.verdict().level is (Level.WARN if decision.state is State.STUCK else Level.OK)
    assert reach.result.outcome is Outcome.STUCK and decision.command is None


def test_model_from_config_has_its_settings(world):
    config = ControllerConfig(
        search=CEMConfig(num_samples=64, topk=64, horizon=HORIZON),
        reached_after=3,
        stuck_after_s=0.5,
        recovery_s=0.6,
        recovery_speed=0.3,
    ).fitted(horizon=HORIZON, num_samples=SAMPLES)
    model = ControllerModel.from_config(config, LIMITS, step_s=STEP_S, goal_threshold=1.0)
    world.controller.set_model(model)
    states = [world.image().state for _ in range(20)]
    assert states == [State.SEEKING] * 16 + [State.STUCK] * 4
    assert world.decision.candidates is None or world.decision.candidates.shape == (SAMPLES, HORIZON, 2)
    world.energy = 1.0
    assert [world.image().state is State.REACHED for _ in range(3)] == [False, False, True]


def test_model_swap_restarts_the_plans(world):
    world.sought = OTHER_NS
    reach = world.begin(threshold=4.0)
    world.images()
    assert reach.best_energy == world.energy
    world.swap_model()
    assert math.isnan(reach.best_energy), "energies of two models are not comparable"
    assert world.image().command is None
    assert world.images().command is not None and reach.result is None
    world.energy = 3.0
    world.images()
    assert reach.result.outcome is Outcome.REACHED


def test_refine_runs_further_iterations_with_the_same_image(world):
    world.images(2)
    stamp_ns, iterations = world.now_ns, world.controller.iterations
    decision = world.decision
    for extra in range(1, 4):
        futures = PlannerInput(
            stamp_ns=stamp_ns,
            goal_stamp_ns=LATCHED_NS,
            current_energy=10.0,
            energies=-np.cumsum(decision.candidates[..., 0], axis=1).astype(np.float32),
            candidates_stamp_ns=stamp_ns,
        )
        decision = world.controller.refine(futures)
        assert world.controller.iterations == iterations + extra
        assert decision.state is State.SEEKING and decision.command[0] > 0
        assert decision.candidates.shape == (SAMPLES, HORIZON, 2) and world.controller.may_move


@pytest.mark.parametrize("unusable", [False, True])
def test_refine_of_a_held_robot_gives_no_command(world, unusable):
    world.images(2)
    if unusable:
        world.controller.set_model(None, "unusable")
    else:
        world.monitor.hold(StopCause.STOPPED, "stop requested")
    futures = PlannerInput(
        stamp_ns=world.now_ns, goal_stamp_ns=LATCHED_NS, current_energy=10.0,
        energies=np.ones((SAMPLES, HORIZON), np.float32), candidates_stamp_ns=world.now_ns,
    )  # fmt: skip
    decision = world.controller.refine(futures)
    assert decision.command is None and decision.state is State.HELD and not world.controller.may_move


def test_refine_holds_a_forbidden_command(world):
    world.images(2)
    world.search.broken = "leaps"
    futures = PlannerInput(
        stamp_ns=world.now_ns, goal_stamp_ns=LATCHED_NS, current_energy=10.0,
        energies=np.ones((SAMPLES, HORIZON), np.float32), candidates_stamp_ns=world.asked_ns,
    )  # fmt: skip
    decision = world.controller.refine(futures)
    assert decision.command is None and StopCause.FORBIDDEN in world.monitor.holds


class Driving(RuleBasedStateMachine):
    """Random sequences of events."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.last = None

    @rule(count=st.integers(1, 8), age_s=st.sampled_from([0.01, 0.01, 0.01, 0.7]))
    def receive_images(self, count: int, age_s: float) -> None:
        for _ in range(count):
            self.last = self.world.image(age_s=age_s)
            self.check_command(age_s)

    def check_command(self, age_s: float) -> None:
        world, decision = self.world, self.last
        if decision is None or decision.command is None:
            return
        assert LIMITS.forbids(decision.command.astype(np.float32)) == ""
        assert world.controller.may_move and world.sought is not None and age_s < TIMEOUT_S
        reach = world.controller.goal
        assert reach is None or (reach.result is None and reach.config.goal_ns == world.sought)

    @rule(goal=st.sampled_from([None, LATCHED_NS, 8, 9]))
    def set_world_model_goal(self, goal: int | None) -> None:
        self.world.sought = goal

    @rule(goal=st.sampled_from([8, 9]), timeout_s=st.sampled_from([None, 1.0]))
    def request_goal(self, goal: int, timeout_s: float | None) -> None:
        self.world.begin(goal, timeout_s=timeout_s)

    @rule()
    @precondition(lambda self: self.world.controller.goal is not None)
    def cancel_goal(self) -> None:
        reach = self.world.controller.goal
        self.world.controller.end_goal(Outcome.CANCELLED, "")
        assert reach is not None and reach.result is not None and not self.world.controller.may_move

    @rule(energy=st.sampled_from([0.5, 5.0, 10.0, math.nan]))
    def the_energy_is(self, energy: float) -> None:
        self.world.energy = energy

    @rule(broken=st.sampled_from(["", "", "nan", "leaps", "fails"]))
    def the_search_is(self, broken: str) -> None:
        self.world.search.broken = broken

    @rule(surprising=st.lists(st.booleans(), min_size=1, max_size=4))
    def surprises(self, surprising: list[bool]) -> None:
        for each in surprising:
            self.world.monitor.add_surprise(each)

    @rule(seconds=st.sampled_from([0.05, 0.6, 3.0]))
    def advance_time(self, seconds: float) -> None:
        self.world.now_s += seconds
        self.world.controller.check_timeouts()
        assert seconds < TIMEOUT_S or not self.world.controller.may_move

    @rule(usable=st.booleans())
    def swap_model(self, usable: bool) -> None:
        if usable:
            self.world.swap_model()
        else:
            self.world.controller.set_model(None, "unusable")
            assert not self.world.controller.may_move

    @invariant()
    def only_newest_goal_is_in_progress(self) -> None:
        in_work = [reach for reach in self.world.reaches if reach.result is None]
        assert in_work == ([] if self.world.controller.goal is None else [self.world.controller.goal])
        assert in_work in ([], self.world.reaches[-1:])

    @invariant()
    def stop_reason_is_reported(self) -> None:
        verdict = self.world.controller.verdict()
        assert bool(self.world.monitor.holds) == verdict.message.startswith("robot stopped: ")
        assert verdict.level is not Level.OK or not self.world.monitor.holds


Driving.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestDriving = pytest.mark.ros(Driving.TestCase)
