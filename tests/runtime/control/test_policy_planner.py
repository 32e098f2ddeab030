"""Execution of the chunks of a policy: verdicts, commands, faults, and what is learned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jepa_runtime.control import (
    Controller,
    ControllerConfig,
    ControllerModel,
    Decision,
    PlannerInput,
    PolicyConfig,
    PolicyPlanner,
    PolicyVerdict,
    State,
)
from jepa_runtime.critic import ChunkJudge, CriticConfig, CriticState, Response
from jepa_runtime.planning import ActionLimits

STEP_S, HORIZON, SAMPLES, GOAL_NS = 0.2, 4, 8, 5
# Two images per step.
PERIOD_NS = 100_000_000
LIMITS = ActionLimits(low=np.array([-1, -1], np.float32), high=np.array([1, 1], np.float32), max_norm=1.0)
STATE = CriticState(0.5, 0.5, 0.5, 0.0, 0.05, 0.9, "latents", "energies")
RIGHT, LEFT = (0.5, 0.0), (-0.5, 0.0)


def judge(state: CriticState | None = STATE, **settings: Any) -> ChunkJudge:
    config = CriticConfig(**{"trial_rate": 0.0, "warmup": 20} | settings)
    spaces = {"latent_space": "latents", "energy_space": "energies"}
    return ChunkJudge(config, LIMITS, is_rate=True, state=state, **spaces)


def chunk(*actions: tuple[float, float], steps: int = 2) -> np.ndarray:
    """Return constant candidates [K, steps, 2]."""
    return np.repeat(np.array(actions, np.float32)[:, None], steps, axis=1)


class Robot:
    """A robot on a line, the energy of which is its distance to the goal, with images and a controller."""

    def __init__(
        self,
        judged: ChunkJudge | None = None,
        *,
        delay_s: float = 0.0,
        frozen_after_s: float = 0.0,
        **config: Any,
    ) -> None:
        self.now_s, self.stamp_ns, self.delay_ns = 100.0, 10**12, round(delay_s * 1e9)
        self.x, self.goal_x, self.goal_ns = 0.0, 20.0, GOAL_NS
        self.command = np.zeros(2)
        self.asked: tuple[int, np.ndarray] | None = None
        self.answers = True
        self.noise = np.random.default_rng(0)
        self.planner = PolicyPlanner(
            judged or judge(),
            LIMITS,
            PolicyConfig(**config),
            step_s=STEP_S,
            horizon=HORIZON,
            num_samples=SAMPLES,
            goal_threshold=0.1,
            clock=lambda: self.now_s,
        )
        settings = ControllerConfig(frozen_after_s=frozen_after_s, futures_timeout_s=0.5)
        self.controller = Controller.from_config(settings, clock=lambda: self.now_s)
        self.controller.set_model(
            ControllerModel(
                planner=self.planner, limits=LIMITS, step_s=STEP_S, goal_threshold=0.1, per_step=False
            )
        )

    def energy(self, x: float) -> float:
        return abs(self.goal_x - x) + float(self.noise.normal(0.0, 1e-6))

    def image(self, **changed: Any) -> Decision:
        """Move for a period, and process an image; futures are exact."""
        self.x += float(self.command[0]) * PERIOD_NS / 1e9
        self.now_s += PERIOD_NS / 1e9
        self.stamp_ns += PERIOD_NS
        asked_ns, actions = self.asked or (0, np.zeros((SAMPLES, HORIZON, 2), np.float32))
        positions = self.x + np.cumsum(actions[..., 0], axis=1) * STEP_S
        fields = {
            "stamp_ns": self.stamp_ns,
            "goal_stamp_ns": self.goal_ns,
            "current_energy": self.energy(self.x),
            "energies": np.abs(self.goal_x - positions).astype(np.float32),
            "candidates_stamp_ns": asked_ns if self.answers else 0,
            "start_ns": self.stamp_ns + self.delay_ns,
        }
        decision = self.controller.update(PlannerInput(**fields | changed), age_s=0.0)
        if decision.candidates is not None:
            self.asked = self.stamp_ns, decision.candidates
        self.command = np.zeros(2) if decision.command is None else decision.command
        self.controller.set_command(self.command)
        return decision

    def offer(self, actions: np.ndarray, **options: Any) -> None:
        self.planner.offer(actions, **{"stamp_ns": 7, "source": "me"} | options)

    def verdict(self) -> PolicyVerdict:
        """Return the only verdict since the last call."""
        (verdict,) = self.planner.take_verdicts()
        return verdict

    def speeds(self, images: int) -> list[float]:
        """Return the commanded speed after each of some images."""
        return [round(float((self.image(), self.command[0])[1]), 3) for _ in range(images)]


def test_accepted_chunk_is_executed_once_and_then_the_robot_stands() -> None:
    robot = Robot()
    robot.image()
    robot.offer(chunk(RIGHT))
    assert robot.speeds(8) == [0, 0.5, 0.5, 0.5, 0.5, 0, 0, 0]
    given = robot.verdict()
    assert given.verdict is not None and given.verdict.response is Response.ACCEPT
    assert (given.stamp_ns, given.source, given.is_warming_up) == (7, "me", False)
    assert given.verdict.predicted == pytest.approx(-0.2, abs=1e-3)
    assert robot.planner.counts == {"accept": 1, "harmless": 1}


@pytest.mark.parametrize(
    ("candidates", "settings", "response", "speed"),
    [
        ([LEFT, RIGHT], {"limit": 0.5}, Response.ACCEPT, -0.5),
        ([(-1.0, 0.0), (0.0, 1.0)], {"limit": 0.0, "excess": 0.1}, Response.VETO, 0.0),
        ([(-1.0, 0.0), (1.0, 0.0)], {"limit": 0.0, "excess": 0.1, "margin": 0.3}, Response.CHOOSE, 1.0),
        ([(-1.0, 0.0)], {"limit": 0.3, "excess": 0.01, "margin": 0.01}, Response.SLOW_DOWN, -0.5),
    ],
)
def test_response_of_the_critic_decides_the_command(
    candidates: list[tuple[float, float]], settings: dict[str, float], response: Response, speed: float
) -> None:
    limit, margin = settings["limit"], settings.get("margin", 0.5)
    state = CriticState(settings.get("excess", 0.5), margin, margin, limit, 0.05, 0.9, "latents", "energies")
    robot = Robot(judge(state, limit=limit))
    robot.image()
    robot.offer(chunk(*candidates))
    assert robot.speeds(3)[1:] == [speed] * 2
    verdict = robot.verdict().verdict
    assert verdict is not None and verdict.response is response


def test_only_the_first_steps_of_a_chunk_are_judged_and_executed() -> None:
    robot = Robot(steps=1)
    robot.image()
    turning = np.array([[RIGHT, LEFT, LEFT, LEFT]], np.float32)
    robot.offer(turning)
    assert robot.speeds(5) == [0, 0.5, 0.5, 0, 0]
    assert robot.asked is not None and (robot.asked[1][0, :, 0] == 0.5).all(), "padded to the horizon"


def test_policy_in_time_drives_without_a_stop_and_its_newest_chunk_follows() -> None:
    """A policy that is faster than the images does not delay its own verdicts."""
    robot = Robot()
    robot.image()
    speeds = []
    for number in range(20):
        robot.offer(chunk((0.3 + 0.01 * number, 0.0)))
        speeds += robot.speeds(1)
    assert all(speed > 0 for speed in speeds[1:])
    # Four images are a chunk; the next was proposed with the image before its end.
    assert [speeds[first] for first in (1, 5, 9)] == [0.3, 0.34, 0.38]


@pytest.mark.parametrize(
    ("actions", "publishers", "words"),
    [
        (chunk(RIGHT) * np.nan, 1, "finite"),
        (chunk((2.0, 0.0)), 1, "limits"),
        (np.full((1, 2, 2), 1e300), 1, "finite"),
        (chunk(RIGHT, steps=HORIZON + 1), 1, "must be [1..7, 1..4, 2], got [1, 5, 2]"),
        (chunk(*[RIGHT] * SAMPLES), 1, "slower variants included"),
        (np.zeros((1, 2, 3), np.float32), 1, "got [1, 2, 3]"),
        (np.zeros((2, 2), np.float32), 1, "got [2, 2]"),
        (np.zeros((0, 2, 2), np.float32), 1, "got [0, 2, 2]"),
        (chunk(RIGHT), 2, "2 publishers"),
    ],
)
def test_invalid_candidates_are_not_judged(actions: np.ndarray, publishers: int, words: str) -> None:
    robot = Robot()
    robot.image()
    robot.offer(actions, publishers=publishers)
    given = robot.verdict()
    assert given.verdict is None and words in given.reason
    assert robot.speeds(4) == [0, 0, 0, 0]


def test_invalid_candidates_do_not_replace_valid_ones() -> None:
    robot = Robot()
    robot.image()
    robot.offer(chunk(RIGHT))
    robot.offer(chunk(RIGHT) * np.nan)
    assert robot.speeds(2) == [0, 0.5]


def test_futures_of_other_actions_are_no_answer_and_the_candidates_are_proposed_again() -> None:
    robot = Robot(timeout_s=2.0)
    robot.image()
    robot.offer(chunk(RIGHT))
    robot.answers = False
    proposed = [robot.image().candidates is not None for _ in range(8)]
    assert proposed == [True, False, False, False, False, True, False, False]
    robot.answers = True
    assert robot.speeds(1) == [0.5]


def test_candidates_without_futures_in_time_are_not_judged_and_the_reason_is_reported() -> None:
    robot = Robot(timeout_s=0.35, silent_after_s=0.5)
    robot.image()
    robot.answers = False
    robot.offer(chunk(RIGHT))
    assert robot.speeds(4) == [0, 0, 0, 0]
    assert "no futures of its actions arrived" in robot.verdict().reason
    robot.speeds(3)
    assert "no valid candidates of the policy arrived" in robot.controller.verdict().message
    robot.answers = True
    robot.offer(chunk(RIGHT))
    assert robot.speeds(2) == [0, 0.5] and robot.controller.may_move


def test_vetoes_in_a_row_are_reported() -> None:
    robot = Robot(judge(STATE, limit=0.0), silent_after_s=0.5)
    robot.image()
    for _ in range(8):
        robot.offer(chunk((-1.0, 0.0), steps=4))
        robot.image()
    assert "vetoes in a row" in robot.controller.verdict().message
    assert robot.command.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("stop", "the robot is stopped"),
        ("goal", "the goal has changed"),
        ("no goal", "there is no goal"),
        ("clock", "the clock was set back"),
        ("energy", "the robot is stopped"),
        ("stale", "the robot is stopped"),
    ],
)
def test_fault_ends_the_chunk_and_the_waiting_candidates(fault: str, words: str) -> None:
    robot = Robot()
    robot.image()
    robot.offer(chunk(RIGHT, steps=4))
    assert robot.speeds(3) == [0, 0.5, 0.5]
    robot.planner.take_verdicts()
    robot.offer(chunk(RIGHT, steps=3))
    if fault == "stop":
        robot.controller.set_stop(True, now_ns=robot.stamp_ns)
    elif fault == "stale":
        robot.now_s += 1.0
        robot.controller.check_timeouts()
        assert not robot.controller.may_move
    elif fault == "goal":
        robot.goal_ns += 1
    elif fault == "clock":
        robot.stamp_ns -= 2 * PERIOD_NS
    changed: dict[str, Any] = {
        "no goal": {"goal_stamp_ns": None},
        "energy": {"current_energy": math.nan},
    }.get(fault, {})
    robot.image(**changed)
    assert robot.command.tolist() == [0, 0]
    assert words in robot.verdict().reason
    assert robot.speeds(8) == [0] * 8, "only new candidates are executed"
    assert robot.planner.counts == {"accept": 1, "not_judged": 1}, "an interrupted chunk has no outcome"


def test_images_that_do_not_show_the_motion_stop_the_robot() -> None:
    """The safety monitor of a planner that searches stops a policy too."""
    robot = Robot(frozen_after_s=0.3)
    robot.image()
    speeds = []
    for _ in range(30):
        robot.offer(chunk((1.0, 0.0), steps=4))
        speeds += robot.speeds(1)
    assert 1.0 in speeds and speeds[-5:] == [0] * 5
    assert "the images do not show" in robot.controller.verdict().message


def test_jump_of_the_clock_forward_stops_the_robot() -> None:
    robot = Robot()
    robot.image()
    robot.offer(chunk(RIGHT, steps=4))
    assert robot.speeds(2) == [0, 0.5]
    robot.stamp_ns += 10**9
    assert robot.speeds(2) == [0, 0]


def test_reached_goal_stops_the_robot() -> None:
    robot = Robot()
    robot.goal_x = 0.15
    robot.image()
    robot.offer(chunk((1.0, 0.0), steps=1))
    assert robot.speeds(7)[-1] == 0 and robot.controller.state is State.REACHED
    robot.planner.take_verdicts()
    robot.offer(chunk(RIGHT))
    assert robot.speeds(2) == [0, 0] and "the goal is reached" in robot.verdict().reason


def test_outcome_is_observed_at_the_end_of_the_effect_of_the_chunk() -> None:
    """Futures start one image later: the outcome is that of the image one period after the last action."""
    judged = judge(state=None, limit=10.0)
    robot = Robot(judged, delay_s=0.1)
    robot.image()
    robot.offer(chunk(RIGHT))
    robot.speeds(6)
    assert robot.planner.counts == {"accept": 1}
    robot.image()
    assert robot.planner.counts == {"accept": 1, "harmless": 1}


@pytest.mark.parametrize("fault", ["not sent", "repeated", "late"])
def test_outcome_that_says_nothing_is_dropped(fault: str) -> None:
    robot = Robot(judge(state=None))
    robot.image()
    robot.offer(chunk(RIGHT))
    robot.speeds(3)
    if fault == "not sent":
        robot.controller.set_command(np.array([0.1, 0.0]))
    robot.speeds(1 if fault == "late" else 2)
    if fault == "late":
        robot.stamp_ns += 3 * PERIOD_NS
    frozen = robot.planner._outcomes[0].images[-1][1]
    robot.image(**({"current_energy": frozen} if fault == "repeated" else {}))
    assert robot.planner.counts == {"accept": 1, "outcomes_dropped": 1}


def test_warmup_ends_after_its_harmless_chunks() -> None:
    judged = judge(state=None)
    robot = Robot(judged)
    robot.goal_x = 1e3
    robot.image()
    for _ in range(20):
        assert judged.is_warming_up
        robot.offer(chunk(RIGHT))
        robot.speeds(6)
    assert not judged.is_warming_up and robot.planner.counts["harmless"] == 20


def test_without_commands_candidates_are_judged_at_once_and_the_robot_is_not_commanded() -> None:
    robot = Robot(commands=False, silent_after_s=0.3)
    robot.image()
    for _ in range(3):
        robot.offer(chunk(RIGHT))
        assert robot.speeds(2) == [0, 0]
        given = robot.verdict().verdict
        assert given is not None and given.response is Response.ACCEPT
    robot.speeds(6)
    assert robot.controller.verdict().message == "seeking" and robot.planner.counts == {"accept": 3}


@pytest.mark.parametrize("setting", ["commands", "warm_up"])
def test_without_learned_thresholds_and_a_warmup_nothing_is_judged(setting: str) -> None:
    robot = Robot(judge(state=None), **{setting: False})
    robot.image()
    robot.offer(chunk(RIGHT))
    assert "no learned thresholds" in robot.verdict().reason
