"""Decisions of the planner from one image to the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jepa_runtime.control import receding_horizon as receding_horizon
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.search import LatentFutures, SearchInputs

State = receding_horizon.State


STEP_NS = 200_000_000
FRAME_NS = 33_000_000
START_NS = 1_000_000_000_000
CHOSEN = {
    "step_s": 0.2, "goal_threshold": 1.0, "reached_after": 3, "stuck_after_s": 2.0, "recovery_s": 0.6,
    "recovery_speed": 0.3,
}  # fmt: skip


class Recorder(SearchInputs):
    """A search that records its calls."""

    def __init__(self) -> None:
        self.mean = np.array([[0.5, -0.5], [1.0, 0.0]])
        self.executed = None
        self.calls: list[str] = []
        self.costs = None
        self.recovers_from = None
        self.goal_pose = None
        self.ratio = 0.0

    def pose_ratio(self, pose):
        return self.ratio

    def ask(self):
        self.calls.append("ask")
        return np.zeros((3, 2, 2))

    def tell(self, costs):
        self.calls.append("tell")
        self.costs = costs

    def shift(self, steps, *, executed):
        self.calls.append(f"shift {steps}")
        self.executed = executed

    def reset(self):
        self.calls.append("reset")

    def set_goal_pose(self, pose):
        self.goal_pose = pose

    def directions(self, speed):
        self.calls.append("directions")
        self.recovers_from = self.executed
        return np.broadcast_to(speed * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[:, None], (3, 2, 2))


@pytest.fixture
def search():
    return Recorder()


@pytest.fixture
def planner(search):
    return receding_horizon.RecedingHorizonPlanner(search, **CHOSEN)


def futures(frame, *, goal=7, energy=10.0, answer_to=None):
    return receding_horizon.PlannerInput(
        stamp_ns=START_NS + frame * FRAME_NS,
        goal_stamp_ns=goal,
        current_energy=energy,
        energies=np.array([[1.0, 2.0], [0.0, 1.0], [5.0, 5.0]]),
        candidates_stamp_ns=0 if answer_to is None else START_NS + answer_to * FRAME_NS,
    )


def test_search_receives_the_proposals_and_chooses_the_energies(planner, search, monkeypatch):
    given, proposals = [], np.ones((1, 2, 2), np.float32)
    point = np.zeros((1, 4), np.float32)
    latents = LatentFutures(latents=np.zeros((3, 2, 1, 4), np.float32), current=point, goal=point)
    monkeypatch.setattr(search, "set_proposals", given.append)
    monkeypatch.setattr(search, "energies", lambda energies, futures: energies + 10 * (futures is latents))
    planner.update(replace(futures(0), proposals=proposals))
    planner.update(replace(futures(1, answer_to=0), latents=latents))
    assert given[0] is proposals and given[1] is None
    np.testing.assert_array_equal(search.costs, [23.0, 21.0, 30.0])


def test_horizon_without_a_goal_stands(planner):
    decision = planner.update(futures(0, goal=None))
    assert decision.state is State.IDLE
    assert decision.command is None and decision.candidates is None


def test_withdrawn_goal_set_again_is_planned_from_scratch(planner):
    planner.update(futures(0))
    assert planner.update(futures(1, answer_to=0)).command is not None
    assert planner.update(futures(2, goal=None)).command is None
    again = planner.update(futures(3))
    assert again.command is None and again.candidates is not None


def test_goal_is_requested_first_and_driven_to_once_answered(planner, search):
    first = planner.update(futures(0))
    assert first.state is State.SEEKING and first.command is None and first.candidates is not None
    second = planner.update(futures(1, answer_to=0))
    np.testing.assert_array_equal(search.costs, [3.0, 1.0, 10.0])
    np.testing.assert_array_equal(second.command, [0.5, -0.5])
    assert second.candidates is not None
    assert planner.iterations == 1


def test_futures_of_other_candidates_update_nothing(planner, search):
    planner.update(futures(0))
    decision = planner.update(futures(1))
    assert "tell" not in search.calls
    assert decision.candidates is None


def test_goal_pose_of_each_image_is_passed_to_the_search(planner, search):
    pose = RelativePose(1.0, 0.5, 0.2, 0.1, 0.1)
    planner.update(replace(futures(0), goal_pose=pose))
    assert search.goal_pose is pose
    planner.update(futures(1))
    assert search.goal_pose is None


def test_lost_request_is_repeated(planner):
    requested = [frame for frame in range(8) if planner.update(futures(frame)).candidates is not None]
    # At frame 6 a step is over, which always causes a request.
    assert requested == [0, 5, 6]


def test_plan_is_shifted_with_time(planner, search):
    for frame in range(14):
        planner.update(futures(frame, answer_to=frame - 1))
    assert search.calls.count("shift 1") == 2


def test_images_slightly_early_or_late_shift_the_plan_by_one_step_each(planner, search):
    for step in range(8):
        early_ns = -1_000_000 if step % 2 else 1_000_000
        planner.update(replace(futures(0), stamp_ns=START_NS + step * STEP_NS + early_ns))
    assert [call for call in search.calls if "shift" in call] == ["shift 1"] * 7


@pytest.mark.parametrize("frame", [1, 6, 13])
def test_first_action_of_the_best_candidate_is_published_with_its_image(frame):
    """With a fast camera, and with a step or two between images."""
    limits = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
    search = CEM(CEMConfig(num_samples=3, horizon=3, topk=1), limits, seed=0)
    planner = receding_horizon.RecedingHorizonPlanner(search, **CHOSEN)
    question = planner.update(futures(0)).candidates
    command = planner.update(futures(frame, answer_to=0)).command
    np.testing.assert_array_equal(command, question[1, 0])


@pytest.mark.parametrize(("early_ns", "shifts"), [(STEP_NS // 8, ["shift 1"]), (STEP_NS // 8 + 1, [])])
def test_image_up_to_an_eighth_of_a_step_early_starts_the_step(planner, search, early_ns, shifts):
    planner.update(futures(0))
    planner.update(replace(futures(0), stamp_ns=START_NS + STEP_NS - early_ns))
    assert [call for call in search.calls if "shift" in call] == shifts


def test_answer_to_a_request_before_a_shift_updates_nothing(planner, search):
    planner.update(futures(0))
    assert planner.update(futures(5, answer_to=0)).candidates is not None
    assert planner.update(futures(6)).candidates is not None and search.calls[-2:] == ["shift 1", "ask"]
    planner.update(futures(7, answer_to=5))
    assert search.calls.count("tell") == 1


def test_goal_is_reached_after_lasting_low_energy(planner):
    states = [planner.update(futures(frame, energy=1.1)).state for frame in range(4)]
    assert states == [State.SEEKING] * 4
    states = [planner.update(futures(frame, energy=1.0)).state for frame in range(4, 8)]
    assert states == [State.SEEKING, State.SEEKING, State.REACHED, State.REACHED]


def test_single_low_energy_is_not_reached(planner):
    energies = [0.9, 0.9, 5.0, 0.9]
    states = [planner.update(futures(frame, energy=energy)).state for frame, energy in enumerate(energies)]
    assert State.REACHED not in states


def test_robot_at_the_goal_stands_despite_noise(planner):
    first, second, third = (
        planner.update(futures(frame, energy=0.9, answer_to=frame - 1)) for frame in range(3)
    )
    assert first.candidates is not None and second.command is not None, "it has a plan"
    for decision in (third, planner.update(futures(3, energy=1.5, answer_to=1))):
        assert decision.state is State.REACHED
        assert decision.command is None and decision.candidates is None


def test_robot_pushed_away_from_the_goal_drives_back(planner):
    for frame in range(3):
        planner.update(futures(frame, energy=0.9))
    assert planner.update(futures(3, energy=9.0)).state is State.SEEKING


def test_new_goal_starts_a_new_search(planner, search):
    planner.update(futures(0))
    search.calls.clear()
    assert planner.update(futures(1, goal=8, answer_to=0)).command is None
    assert search.calls == ["reset", "ask"]


RECOVERY_FIRST, RECOVERY = 0.3 * np.array([1.0, 0.0]), 0.3 * np.array([0.0, 1.0])


def drive(planner, frames, *, first=0, **kwargs):
    """Answer all candidates with the next futures."""
    requested, decisions = None, []
    for frame in range(first, first + frames):
        decisions.append(planner.update(futures(frame, answer_to=requested, **kwargs)))
        if decisions[-1].candidates is not None:
            requested = frame
    return decisions


def test_robot_without_progress_reports_stuck_and_recovers_slowly_in_a_safe_direction(planner, search):
    """The first of the three directions leads away from the goal."""
    planner = receding_horizon.RecedingHorizonPlanner(search, **CHOSEN)
    decisions, requested = [], None
    for frame in range(90):
        kwargs = futures(frame, answer_to=requested)
        if "directions" in search.calls:
            kwargs = replace(kwargs, energies=np.array([[10.0, 11.5], [10.0, 10.9], [10.0, 10.0]]))
        decisions.append(planner.update(kwargs))
        requested = frame if decisions[-1].candidates is not None else requested
    stuck = next(index for index, decision in enumerate(decisions) if decision.state is State.STUCK)
    assert decisions[stuck].command is None, "until the request to the model"
    commands = [decision.command for decision in decisions[stuck + 1 :]]
    recovering = [command is not None and np.array_equal(command, RECOVERY) for command in commands]
    assert recovering[:18] == [True] * 18 and not any(recovering[19:])
    assert search.calls.count("directions") == 1


def test_stuck_robot_without_a_safe_direction_plans_from_scratch(planner, search):
    requested, decisions = None, []
    for frame in range(90):
        kwargs = futures(frame, answer_to=requested)
        if "directions" in search.calls:
            kwargs = replace(kwargs, energies=np.full((3, 2), 11.5))
        decisions.append(planner.update(kwargs))
        requested = frame if decisions[-1].candidates is not None else requested
    assert decisions[-1].state is State.STUCK
    commands = [decision.command for decision in decisions if decision.command is not None]
    assert all(np.array_equal(command, search.mean[0]) for command in commands)


def test_stuck_robot_recovers_from_its_executed_action(planner, search):
    requested = None
    for frame in range(70):
        decision = planner.update(futures(frame, answer_to=requested))
        requested = frame if decision.candidates is not None else requested
        planner.last_command = np.array([0.25, 0.0])
    np.testing.assert_array_equal(search.recovers_from, [0.25, 0.0])


def test_stuck_robot_without_a_recovery_motion_plans_from_scratch(search):
    planner = receding_horizon.RecedingHorizonPlanner(search, **CHOSEN | {"recovery_s": 0.0})
    decisions = drive(planner, 300)
    commands = [decision.command for decision in decisions[1:] if decision.command is not None]
    assert decisions[-1].state is State.STUCK and planner.stuck_count == 299 - len(commands) == 4
    assert all(np.array_equal(command, search.mean[0]) for command in commands)
    assert "directions" not in search.calls


def test_blocked_direction_is_not_planned_until_the_robot_has_driven_for_a_while(planner, search):
    asks = np.array([[[1.0, 0.0]] * 2, [[-1.0, 0.1]] * 2, [[0.0, 1.0]] * 2])
    search.ask = lambda: asks
    drive(planner, 2)
    assert np.isfinite(search.costs).all()
    planner.avoid(np.array([0.5, 0.0]))
    planner.confirm_motion()
    planner.restart()
    drive(planner, 4, first=10)
    np.testing.assert_array_equal(np.isfinite(search.costs), [False, True, True])
    drive(planner, 80, first=14)
    assert np.isfinite(search.costs).all()
    planner.avoid(np.array([0.5, 0.0]))
    drive(planner, 4, first=100, goal=8)
    assert np.isfinite(search.costs).all(), "another goal allows all directions"


def test_avoid_keeps_the_better_side_of_a_blocked_direction(planner, search):
    search.ask = lambda: np.array([[[1.0, 0.5]] * 2, [[0.5, 1.0]] * 2, [[0.5, -1.0]] * 2])
    drive(planner, 2)
    planner.avoid(np.array([0.5, 0.0]))
    drive(planner, 4, first=10)
    np.testing.assert_array_equal(np.isfinite(search.costs), [False, True, False])


def test_avoid_rejects_slow_actions_until_images_show_motion(planner, search):
    search.ask = lambda: np.array([[[0.0, 0.4]] * 2, [[0.0, 0.6]] * 2, [[-1.0, 0.1]] * 2])
    drive(planner, 2)
    planner.avoid(np.array([1.0, 0.0]))
    drive(planner, 4, first=10)
    np.testing.assert_array_equal(np.isfinite(search.costs), [False, True, False])
    planner.confirm_motion()
    drive(planner, 8, first=14)
    assert np.isfinite(search.costs).all()


def test_avoid_where_every_candidate_goes_forward_rejects_all(planner, search):
    search.ask = lambda: np.array([[[1.0, 0.5]] * 2, [[1.0, 0.0]] * 2, [[1.0, -0.5]] * 2])
    drive(planner, 2)
    planner.avoid(np.array([0.5, 0.0]))
    drive(planner, 4, first=10)
    assert not np.isfinite(search.costs).any()


def test_recoveries_are_counted_over_all_goals(planner):
    for frame in range(90):
        planner.update(futures(frame, answer_to=frame - 1))
    assert planner.stuck_count == 1
    for frame in range(90, 180):
        planner.update(futures(frame, goal=8, answer_to=frame - 1))
    assert planner.stuck_count == 2


def test_hold_resets_the_plan_and_starts_from_rest(planner, search):
    planner.update(futures(0))
    assert planner.update(futures(1, answer_to=0)).command is not None
    search.executed = np.array([0.5, -0.5])
    planner.restart()
    np.testing.assert_array_equal(planner.executed, [0.0, 0.0])
    decision = planner.update(futures(2, answer_to=1))
    assert decision.command is None and decision.candidates is not None


def test_recovery_motion_is_recorded_as_executed(planner):
    assert drive(planner, 66)[-1].state is State.STUCK
    np.testing.assert_array_equal(planner.executed, RECOVERY_FIRST)


def test_published_command_is_recorded_as_executed_after_its_step(planner, search):
    for frame in range(8):
        planner.update(futures(frame, answer_to=frame - 1))
        planner.last_command = np.array([0.1 * frame, 0.0])
    assert "shift 1" in search.calls
    np.testing.assert_array_equal(planner.executed, [0.1 * 5, 0.0])


def test_goal_threshold_can_be_set(planner):
    planner.goal_threshold = 20.0
    assert [planner.update(futures(frame)).state for frame in range(3)][-1] is State.REACHED


def test_clock_set_back_plans_from_scratch_and_ends_the_recovery(planner, search):
    for frame in range(64):
        decision = planner.update(futures(frame, answer_to=frame - 1))
    assert decision.state is State.STUCK
    search.calls.clear()
    for frame in range(-1000, -998):
        decision = planner.update(futures(frame))
        assert decision.state is State.SEEKING and decision.command is None
    assert search.calls.count("reset") == 1


def test_two_images_with_one_stamp_are_no_clock_set_back(planner, search):
    planner.update(futures(0))
    assert planner.update(futures(0, answer_to=0)).command is not None
    assert search.calls.count("reset") == 2, "like at the construction, and with the goal"


@pytest.mark.parametrize(
    ("energy", "energies", "nothing"),
    [
        (1.0, [[1.0, 2.0], [3.0, 4.0]], False),
        (1.0, [[1.0, np.nan], [3.0, 4.0]], False),
        (1.0, [[1.0, np.nan], [np.inf, 4.0]], True),
        (np.nan, [[1.0, 2.0], [3.0, 4.0]], True),
        (np.inf, [[1.0, 2.0], [3.0, 4.0]], True),
    ],
)
def test_futures_is_unusable_for_a_goal_without_a_candidate_with_finite_energies(energy, energies, nothing):
    commands = replace(futures(0, energy=energy), energies=np.array(energies))
    assert commands.is_unusable is nothing
    assert not replace(commands, goal_stamp_ns=None).is_unusable, "without a goal there are no energies"


def test_robot_held_repeatedly_is_stuck(planner, search):
    """The robot pushes against an obstacle that its model does not see, and is held again and again."""
    frame, states = 0, []
    for _ in range(3):
        states += [decision.state for decision in drive(planner, 30, first=frame)]
        frame += 60
        planner.restart()
    assert State.STUCK in states


def test_time_on_hold_is_not_time_without_progress(planner, search):
    for frame in (*range(5), *range(1000, 1005)):
        if frame == 1000:
            planner.restart()
        assert planner.update(futures(frame, answer_to=frame - 1)).state is State.SEEKING
    assert "directions" not in search.calls


def test_robot_without_an_answer_in_time_stands_and_reports_it(planner, search):
    """Each answer arrives one model step too late."""
    decisions = [planner.update(futures(frame, answer_to=frame - 7)) for frame in range(300)]
    assert all(decision.command is None for decision in decisions) and "directions" not in search.calls
    assert planner.obstacle
    requested = max(frame for frame in range(300) if decisions[frame].candidates is not None)
    assert planner.update(futures(300, answer_to=requested)).command is not None and not planner.obstacle


def test_plan_without_further_answers_is_driven_to_its_end_and_no_further(planner):
    planner.update(futures(0))
    driven = [planner.update(futures(frame, answer_to=0)).command is not None for frame in range(1, 30)]
    assert driven == [True] * 19 + [False] * 10, "of two steps and one, from the image that was answered"
    assert not planner.obstacle, "not yet long enough"


def test_short_plan_lasts_until_the_next_answer(search):
    """Two images arrive within one step, and answers one image late: shifts discard some."""
    search.mean = search.mean[:1]
    planner = receding_horizon.RecedingHorizonPlanner(
        search, **CHOSEN | {"step_s": 0.1, "stuck_after_s": 60.0}
    )
    requested, driven = None, []
    for frame in range(0, 400, 2):
        answer_to = requested if requested is not None and frame - requested >= 4 else None
        decision = planner.update(futures(frame, answer_to=answer_to))
        driven.append(decision.command is not None)
        requested = frame if decision.candidates is not None else requested
    assert all(driven[driven.index(True) :])
