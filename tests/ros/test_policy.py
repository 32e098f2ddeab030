"""A policy behind the critic: the planner in a separate process, a stub world model and a stub policy."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import ActionCandidates, CriticVerdict, ModelInfo, PlannerStatus, PredictedFutures
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill, to_time
from std_msgs.msg import Bool

from jepa_runtime.critic import CriticState, read_critic_state, write_critic_state
from jepa_runtime.recording import messages

pytestmark = pytest.mark.ros

HORIZON, SAMPLES, PERIOD_S, STEP_S = 4, 8, 0.04, 0.2
# A chunk to the left exceeds the veto threshold; one to the right does not.
LEARNED = CriticState(0.05, 0.01, 0.01, 0.0, 0.05, 0.9, "latents", "energies")
LEFT, RIGHT, ASIDE = (-0.5, 0.0), (0.5, 0.0), (0.0, 0.5)


def model_info(**fields: Any) -> ModelInfo:
    return ModelInfo(**{
        "model_id": "stub", "sha256": "a", "precision": "int8", "horizon": HORIZON, "num_samples": SAMPLES,
        "step_s": STEP_S, "tokens": 1, "dim": 2, "history_size": 1, "latent_space": "latents",
        "energy_space": "energies", "action_names": ["linear.x", "linear.y"], "action_units": ["m/s", "m/s"],
        "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0], "action_max_norm": 1.0, "goal_threshold": 1.0,
    } | fields)  # fmt: skip


def chunk(*actions: tuple[float, float], steps: int = 2) -> np.ndarray:
    return np.repeat(np.array(actions, np.float32)[:, None], steps, axis=1)


class Robot:
    """A robot on a line, whose energy is the distance to the goal, with a planner that executes a policy."""

    def __init__(
        self, graph: Any, state: Path, *, topic: str = "planner/policy_candidates", **parameters: Any
    ) -> None:
        self.graph = graph
        self.x, self.moved_s, self.shift_ns = 0.0, time.monotonic(), 0
        self.noise = np.random.default_rng(0)
        self.answers = True
        self.requests = graph.listen(ActionCandidates, "world_model/candidates")
        self.verdicts = graph.listen(CriticVerdict, "planner/verdict")
        self.commands = graph.listen(Twist, "cmd_vel")
        self.statuses = graph.listen(PlannerStatus, "planner/status")
        self.diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
        # Images of the stub do not show the motion.
        given = {"search_method": "policy", "frozen_after_s": 0.0, "critic_trial_rate": 0.0}
        parameters = given | {"critic_state": state, "stuck_after_s": 0.5} | parameters
        has_critic = parameters["search_method"] == "policy"
        graph.start("planner", parameters, (f"~/policy_candidates:=/{topic}",))
        self.infos = graph.publisher(ModelInfo, "world_model/model_info", qos.LATCHED)
        self.infos.publish(model_info())
        self.futures = graph.publisher(PredictedFutures, "world_model/futures")
        self.policy = graph.publisher(ActionCandidates, topic)
        graph.until(lambda: self.verdicts_publishers() == has_critic, "the publisher of verdicts")
        self.until(lambda: self.statuses and self.statuses[-1].state == PlannerStatus.SEEKING, "a goal")

    def verdicts_publishers(self) -> int:
        return int(self.graph.observer.count_publishers("planner/verdict"))

    def energy(self, x: float) -> float:
        return 100.0 - x + float(self.noise.normal(0.0, 1e-4))

    def image(self) -> None:
        """Move as commanded, and publish the futures of an image."""
        now_s = time.monotonic()
        self.x += self.speed * (now_s - self.moved_s)
        self.moved_s = now_s
        stamp_ns = time.time_ns() + self.shift_ns
        message = PredictedFutures(has_goal=True, current_energy=self.energy(self.x))
        message.header.stamp = message.start = to_time(stamp_ns)
        message.header.frame_id = "camera"
        message.goal_stamp = to_time(5)
        energies = np.ones((SAMPLES, HORIZON), np.float32)
        if self.requests and self.answers:
            request = self.requests[-1]
            message.candidates_source, message.candidates_stamp = request.source, request.header.stamp
            message.actions = request.actions
            moves = np.cumsum(messages.array_of(request.actions)[..., 0], axis=1) * STEP_S
            energies = (100.0 - self.x - moves).astype(np.float32)
        self.futures.publish(fill(message, {"energies": messages.tensor("energies", energies)}))

    @property
    def speed(self) -> float:
        return float(self.commands[-1].linear.x) if self.commands else 0.0

    def until(self, condition: Any, what: str, *, meanwhile: Any = None) -> None:
        self.graph.until(condition, what, 5.0, meanwhile=meanwhile or self.image, every_s=PERIOD_S)

    def offer(self, actions: np.ndarray, publisher: Any = None) -> None:
        self.verdicts.clear()
        message = ActionCandidates(source="me")
        message.header.stamp = to_time(7)
        fill(message, {"actions": messages.tensor("actions", actions)})
        (publisher or self.policy).publish(message)

    def answer(self, actions: np.ndarray, publisher: Any = None) -> CriticVerdict:
        """Offer candidates and return their verdict."""
        self.offer(actions, publisher)
        self.until(lambda: self.verdicts, "a verdict")
        verdict = self.verdicts[0]
        assert (verdict.source, verdict.candidates_stamp) == ("me", to_time(7))
        return verdict

    def stands(self) -> None:
        self.until(lambda: self.speed == 0.0, "a stop")

    def warned(self, words: str) -> bool:
        return any(
            words in status.message
            for message in self.diagnostics
            for status in message.status
            if status.name == "planner: driving"
        )

    def value(self, key: str) -> str:
        """Return a value of the last diagnostics; empty: there is none."""
        pairs = self.diagnostics[-1].status[0].values if self.diagnostics else ()
        return next((pair.value for pair in pairs if pair.key == key), "")


@pytest.fixture(scope="module")
def robot(shared_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Robot:
    """Return a robot whose critic has learned before."""
    path = tmp_path_factory.mktemp("state") / "critic.json"
    write_critic_state(path, LEARNED, model="a int8")
    return Robot(shared_graph, path)


def test_accepted_chunk_is_executed_to_its_end_and_a_silent_policy_stops_the_robot(robot: Robot) -> None:
    verdict = robot.answer(chunk(RIGHT))
    assert (verdict.response, verdict.index, verdict.header.frame_id) == (CriticVerdict.ACCEPT, 0, "camera")
    assert verdict.score == pytest.approx(-0.2, abs=0.01)
    assert verdict.veto_threshold == pytest.approx(0.05) and verdict.false_veto_rate == pytest.approx(0.05)
    assert not verdict.warming_up and not verdict.trial
    np.testing.assert_array_equal(messages.array_of(verdict.actions), chunk(RIGHT)[0])
    robot.until(lambda: robot.speed == 0.5, "the command")
    began_s = time.monotonic()
    robot.stands()
    assert time.monotonic() - began_s < 2 * STEP_S + 0.2
    robot.until(lambda: robot.warned("no valid candidates of the policy arrived"), "the cause")


@pytest.mark.parametrize(
    ("actions", "response", "index", "speed"),
    [
        ([LEFT, ASIDE, RIGHT], CriticVerdict.CHOOSE, 2, 0.5),
        ([LEFT, LEFT], CriticVerdict.VETO, -1, 0.0),
    ],
)
def test_chunk_that_leads_away_is_replaced_or_vetoed(
    robot: Robot, actions: list[tuple[float, float]], response: int, index: int, speed: float
) -> None:
    robot.stands()
    verdict = robot.answer(chunk(*actions))
    assert (verdict.response, verdict.index) == (response, index), verdict.reason
    assert "exceeds the veto threshold" in verdict.reason
    robot.until(lambda: robot.speed == speed, "the command")
    robot.stands()


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (chunk(RIGHT) * np.nan, "finite"),
        (chunk(RIGHT, steps=HORIZON + 1), "must be [1..7, 1..4, 2]"),
        (chunk((3.0, 0.0)), "limits"),
    ],
)
def test_invalid_candidates_are_not_judged_and_the_robot_stands(
    robot: Robot, actions: np.ndarray, words: str
) -> None:
    robot.stands()
    verdict = robot.answer(actions)
    assert verdict.response == CriticVerdict.NOT_JUDGED and words in verdict.reason
    assert not verdict.actions.data and robot.speed == 0.0


def test_futures_of_other_actions_or_an_older_image_are_no_verdict(robot: Robot) -> None:
    robot.stands()
    robot.answers = False
    verdict = robot.answer(chunk(RIGHT))
    robot.answers = True
    assert verdict.response == CriticVerdict.NOT_JUDGED and "no futures of its actions" in verdict.reason
    assert robot.speed == 0.0


def test_missing_futures_stop_the_robot_within_a_chunk(robot: Robot) -> None:
    robot.answer(chunk(RIGHT, steps=4))
    robot.until(lambda: robot.speed == 0.5, "the command")
    robot.offer(chunk(RIGHT))
    robot.until(lambda: robot.verdicts, "the end of the candidates", meanwhile=lambda: None)
    assert robot.verdicts[0].response == CriticVerdict.NOT_JUDGED
    assert "stopped" in robot.verdicts[0].reason
    robot.until(lambda: robot.speed == 0.0, "a stop", meanwhile=lambda: None)


def test_two_policies_are_not_judged(robot: Robot) -> None:
    other = robot.graph.publisher(ActionCandidates, "planner/policy_candidates")
    try:
        verdict = robot.answer(chunk(RIGHT), other)
        assert verdict.response == CriticVerdict.NOT_JUDGED and "2 publishers" in verdict.reason
        robot.until(lambda: robot.warned("planner/policy_candidates has 2 publishers"), "a warning")
    finally:
        robot.graph.observer.destroy_publisher(other)


# Last of the tests that share the robot: it stays stopped until it receives another goal.
def test_stop_message_stops_the_robot_and_later_candidates_are_not_judged(robot: Robot) -> None:
    stop = robot.graph.publisher(Bool, "planner/stop", qos.LATCHED, listeners=3)
    robot.answer(chunk(RIGHT, steps=4))
    robot.until(lambda: robot.speed == 0.5, "the command")
    stop.publish(Bool(data=True))
    robot.stands()
    verdict = robot.answer(chunk(RIGHT))
    assert verdict.response == CriticVerdict.NOT_JUDGED and "stopped" in verdict.reason


@pytest.mark.parametrize("shift_s", [-1.0, 1.0])
def test_jump_of_the_clock_stops_the_robot(ros_graph: Any, tmp_path: Path, shift_s: float) -> None:
    path = tmp_path / "critic.json"
    write_critic_state(path, LEARNED, model="a int8")
    robot = Robot(ros_graph, path)
    robot.answer(chunk(RIGHT, steps=4))
    robot.until(lambda: robot.speed == 0.5, "the command")
    robot.shift_ns = round(shift_s * 1e9)
    began_s = time.monotonic()
    robot.stands()
    assert time.monotonic() - began_s < 0.3, "before the end of the chunk"


def test_slower_variant_is_executed_if_only_it_is_harmless(ros_graph: Any, tmp_path: Path) -> None:
    path, limit = tmp_path / "critic.json", 0.16
    write_critic_state(path, replace(LEARNED, limit=limit), model="a int8")
    robot = Robot(ros_graph, path, critic_limit=limit)
    verdict = robot.answer(chunk((-0.7, 0.0)))
    assert (verdict.response, verdict.scale) == (CriticVerdict.SLOW_DOWN, 0.5), verdict.reason
    robot.until(lambda: robot.speed == pytest.approx(-0.35), "the scaled command")
    robot.stands()


def test_another_model_stops_the_robot_and_begins_with_a_warmup(ros_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "critic.json"
    write_critic_state(path, LEARNED, model="a int8")
    robot = Robot(ros_graph, path, critic_warmup=20)
    robot.answer(chunk(RIGHT, steps=4))
    robot.until(lambda: robot.speed == 0.5, "the command")
    robot.infos.publish(model_info(sha256="b"))
    robot.until(lambda: robot.speed == 0.0, "a stop", meanwhile=lambda: None)
    verdict = robot.answer(chunk(LEFT))
    assert verdict.response == CriticVerdict.ACCEPT and verdict.warming_up and verdict.trial
    assert np.isinf(verdict.veto_threshold)
    robot.until(lambda: robot.warned("the critic is warming up"), "a warning")
    assert ros_graph.stop("planner") == 0
    assert read_critic_state(path, model="a int8") == LEARNED, "nothing was learned for the other model"
    assert ros_graph.report("planner")["counters"]["critic/accept"] == 1


def test_planner_without_commands_publishes_verdicts_only(ros_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "critic.json"
    write_critic_state(path, LEARNED, model="a int8")
    robot = Robot(ros_graph, path, topic="policy/candidates", policy_commands=False)
    assert robot.answer(chunk(RIGHT)).response == CriticVerdict.ACCEPT
    assert robot.answer(chunk(LEFT)).response == CriticVerdict.VETO
    assert robot.graph.observer.count_publishers("cmd_vel") == 0
    robot.infos.publish(model_info(sha256="b"))
    robot.until(lambda: robot.warned("no learned thresholds"), "a warning")
    assert robot.answer(chunk(RIGHT)).response == CriticVerdict.NOT_JUDGED


def test_contradictory_settings_end_the_node(ros_graph: Any) -> None:
    ros_graph.start("planner", {"search_method": "policy", "critic_warmup": 5})
    assert ros_graph.exit_code("planner") == 1
    assert "warmup must be at least 19" in ros_graph.log("planner").read_text(encoding="utf-8")
