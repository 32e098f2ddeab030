"""Goals of the planner, in a separate process with a stub world model whose energies are set."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Twist
from jepa_msgs.action import ReachGoal
from jepa_msgs.msg import ActionCandidates, ModelInfo, PlannerStatus, PredictedFutures, Surprise, Tensor
from jepa_msgs.srv import SetGoal
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill, from_time, to_image, to_time
from sensor_msgs.msg import Image
from unique_identifier_msgs.msg import UUID

from jepa_runtime.recording import messages
from tests.ros.goals import Goal, client, goal_image, now_ns

pytestmark = pytest.mark.ros

HORIZON, SAMPLES = 4, 16
PERIOD_S = 0.02


def model_info(**fields: Any) -> ModelInfo:
    return ModelInfo(**{
        "model_id": "stub", "horizon": HORIZON, "num_samples": SAMPLES, "step_s": 0.2, "tokens": 1, "dim": 2,
        "history_size": 1, "action_names": ["linear.x", "linear.y"], "action_units": ["m/s", "m/s"],
        "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0], "action_max_norm": 1.0, "goal_threshold": 1.0,
    } | fields)  # fmt: skip


class Stub:
    """Stub a world model in which motion to the right always lowers the energy."""

    def __init__(self, graph: Any, info: ModelInfo, **parameters: Any) -> None:
        self.graph = graph
        self.energy, self.surprising, self.nan = 10.0, False, False
        self.goal_ns: int | None = None
        self.refusal = ""
        self.set: list[SetGoal.Request] = []
        graph.observer.create_service(SetGoal, "world_model/set_goal", self._set_goal)
        self.candidates = graph.listen(ActionCandidates, "world_model/candidates")
        self.statuses = graph.listen(PlannerStatus, "planner/status")
        self.diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
        self.commands = graph.listen(Twist, "cmd_vel")
        # All images of the stub are equal.
        graph.start("planner", {"frozen_after_s": 0.0, **parameters})
        self.infos = graph.publisher(ModelInfo, "world_model/model_info", qos.LATCHED)
        self.infos.publish(info)
        self._futures = graph.publisher(PredictedFutures, "world_model/futures")
        self._surprises = graph.publisher(Surprise, "world_model/surprise")
        self.client = client(graph)
        self._cancel = graph.observer.create_client(CancelGoal, "planner/reach_goal/_action/cancel_goal")

    def image(self) -> None:
        """Publish the results of an image."""
        message = PredictedFutures(has_goal=self.goal_ns is not None, current_energy=self.energy)
        message.header.stamp = to_time(now_ns())
        message.goal_stamp = to_time(self.goal_ns or 0)
        message.goal_requested = any(from_time(request.stamp) == self.goal_ns for request in self.set)
        energies = np.ones((SAMPLES, HORIZON), np.float32)
        if self.candidates:
            candidates = self.candidates[-1]
            message.candidates_source, message.candidates_stamp = candidates.source, candidates.header.stamp
            message.actions = candidates.actions
            energies = -np.cumsum(messages.array_of(candidates.actions)[..., 0], axis=1)
        if self.nan:
            energies[:] = np.nan
        self._surprises.publish(Surprise(surprising=self.surprising))
        self._futures.publish(fill(message, {"energies": messages.tensor("energies", energies)}))

    def reset(self) -> None:
        """Reset to the initial state without a goal; a planner held for its images waits for a goal."""
        self.energy, self.surprising, self.nan, self.goal_ns, self.refusal = 10.0, False, False, None, ""
        self.statuses.clear()
        at_rest = (PlannerStatus.IDLE, PlannerStatus.HELD)
        self.until(lambda: self.statuses and self.statuses[-1].state in at_rest, "rest")
        for received in (self.set, self.statuses, self.diagnostics, self.commands):
            received.clear()

    def until(self, condition: Any, what: str, timeout_s: float = 10.0) -> None:
        self.graph.until(condition, what, timeout_s, meanwhile=self.image, every_s=PERIOD_S)

    def goal(self, **goal: Any) -> Goal:
        return Goal(self.graph, self.client, meanwhile=self.image, **goal)

    def driving(self, **goal: Any) -> Goal:
        """Send a goal and wait until the robot drives."""
        given = {} if "latent" in goal else {"image": goal_image(now_ns())}
        handle = self.goal(**(given | goal))
        assert handle.accepted
        self.commands.clear()
        self.until(lambda: len(self.commands) > 3 and self.commands[-1].linear.x > 0.1, "commands")
        return handle

    def cancel(self, goal_id: UUID | None = None) -> CancelGoal.Response:
        """Request cancellation of one goal, or of all."""
        request = CancelGoal.Request()
        request.goal_info.goal_id = goal_id or UUID()
        answer = self._cancel.call_async(request)
        self.until(answer.done, "an answer to the cancellation")
        return answer.result()

    def ends(self, goal: Goal, outcome: str, status: int) -> Any:
        actual_status, result = goal.end(meanwhile=self.image)
        assert (result.outcome, actual_status) == (outcome, status), result.reason
        assert self.commands[-1] == Twist(), "the robot stands"
        return result

    def has_status(self, level: int, words: str) -> bool:
        """Return whether the planner's diagnostics contained this."""
        return any(
            status.level == bytes([level]) and words in status.message
            for message in self.diagnostics
            for status in message.status
            if status.name == "planner: driving"
        )

    def _set_goal(self, request: Any, response: Any) -> Any:
        self.set.append(request)
        response.success, response.message = not self.refusal, self.refusal
        if response.success:
            given = bool(request.image.data or request.latent.data)
            self.goal_ns = from_time(request.stamp) if given else None
        return response


QUICK = {"stuck_after_s": 0.8, "give_up_after": 2, "failure_tolerance_s": 1.5, "surprise_window_s": 0.1}


@pytest.fixture(scope="module")
def shared_stub(shared_graph: Any) -> Stub:
    return Stub(shared_graph, model_info(), **QUICK)


@pytest.fixture
def stub(shared_stub: Stub) -> Stub:
    """Create one planner for the tests that restore its state."""
    shared_stub.reset()
    return shared_stub


def test_goal_is_set_at_the_world_model_reached_and_cleared(stub: Stub) -> None:
    stamp_ns = now_ns()
    goal = stub.driving(image=goal_image(stamp_ns))
    assert from_time(stub.set[0].stamp) == stamp_ns and stub.set[0].image.height == 8
    stub.energy = 6.0
    stub.until(lambda: goal.feedback and goal.feedback[-1].best_energy == 6.0, "feedback")
    assert goal.feedback[-1].state == PlannerStatus.SEEKING and goal.feedback[-1].stopped_reason == ""
    stub.energy = 0.5
    result = stub.ends(goal, "reached", GoalStatus.STATUS_SUCCEEDED)
    assert result.energy == result.best_energy == 0.5 and result.duration_s > 0
    assert stub.goal_ns is None and len(stub.set) == 2, "given back"


def test_goal_may_be_a_latent_with_its_own_threshold(stub: Stub) -> None:
    latent = fill(Tensor(), messages.tensor("latent", np.ones((1, 2), np.float32)))
    goal = stub.driving(latent=latent, energy_threshold=5.0)
    np.testing.assert_array_equal(messages.array_of(stub.set[0].latent), [[1.0, 1.0]])
    stub.energy = 4.0
    stub.ends(goal, "reached", GoalStatus.STATUS_SUCCEEDED)


def test_cancelled_goal_stops_the_robot_at_once(stub: Stub) -> None:
    goal = stub.driving()
    before = len(stub.commands)
    assert goal.cancel(meanwhile=stub.image)
    stub.ends(goal, "cancelled", GoalStatus.STATUS_CANCELED)
    stub.until(lambda: stub.goal_ns is None, "the goal given back")
    stands = [command == Twist() for command in stub.commands[before:]]
    assert all(stands[stands.index(True) :]), "and moves no more"
    assert not goal.cancel(), "it has ended"


def test_cancelling_all_goals_stops_the_robot_while_an_earlier_one_is_ending(stub: Stub) -> None:
    stub.driving()
    goal = stub.goal(image=goal_image(now_ns()))
    assert stub.cancel().goals_canceling
    stub.ends(goal, "cancelled", GoalStatus.STATUS_CANCELED)


def test_goal_cancelled_on_acceptance_is_cancelled(stub: Stub) -> None:
    taken = 0
    for index in range(60):
        goal_id = UUID(uuid=[index + 1] * 16)
        sent = stub.client.send_goal_async(ReachGoal.Goal(image=goal_image(now_ns())), goal_uuid=goal_id)
        answer = stub.cancel(goal_id)
        stub.until(sent.done, "an answer to the goal")
        # A goal that rclpy is accepting at this moment is neither unknown nor canceled.
        assert answer.return_code in (
            CancelGoal.Response.ERROR_NONE,
            CancelGoal.Response.ERROR_UNKNOWN_GOAL_ID,
        )
        if answer.goals_canceling:
            taken += 1
            result = sent.result().get_result_async()
            stub.until(result.done, "the result")
            assert result.result().status == GoalStatus.STATUS_CANCELED
    assert taken > 10
    stub.cancel()
    stub.until(lambda: stub.goal_ns is None, "the goal given back")
    assert stub.commands[-1:] in ([], [Twist()]), "the robot stands"


@pytest.mark.parametrize("later_ns", [0, 10**6])
def test_new_goal_replaces_the_previous_one(stub: Stub, later_ns: int) -> None:
    stamp_ns = now_ns()
    first = stub.driving(image=goal_image(stamp_ns))
    second = stub.goal(image=goal_image(stamp_ns + later_ns))
    _, result = first.end(meanwhile=stub.image)
    assert result.outcome == "aborted" and "replaced by another goal" in result.reason
    stub.commands.clear()
    stub.until(lambda: stub.commands and stub.commands[-1].linear.x > 0.1, "commands to the second")
    stub.energy = 0.5
    stub.ends(second, "reached", GoalStatus.STATUS_SUCCEEDED)


def test_goal_by_topic_ends_the_action_and_is_not_cleared(stub: Stub) -> None:
    goal = stub.driving()
    stub.goal_ns = 99
    _, result = goal.end(meanwhile=stub.image)
    assert result.outcome == "aborted" and result.reason == "another goal was set"
    assert stub.goal_ns == 99
    stub.commands.clear()
    stub.until(
        lambda: stub.commands and stub.commands[-1].linear.x > 0.1, "commands to the goal of the topic"
    )


def test_goal_times_out(stub: Stub) -> None:
    result = stub.ends(stub.driving(timeout_s=0.7), "timeout", GoalStatus.STATUS_ABORTED)
    assert 0.7 <= result.duration_s < 2.0


def test_robot_without_progress_is_reported_stuck(stub: Stub) -> None:
    result = stub.ends(stub.driving(), "stuck", GoalStatus.STATUS_ABORTED)
    assert "an energy of 10" in result.reason
    assert any(status.state == PlannerStatus.STUCK for status in stub.statuses)


def test_surprising_images_stop_the_robot_and_abort_the_goal_if_they_last(stub: Stub) -> None:
    goal = stub.driving()
    stub.surprising = True
    stub.until(lambda: stub.commands[-1] == Twist(), "a stop command")
    stub.until(lambda: stub.statuses[-1].state == PlannerStatus.HELD, "HELD")
    stub.surprising = False
    stub.until(lambda: stub.commands[-1].linear.x > 0.1, "the robot to go on")
    stub.surprising = True
    result = stub.ends(goal, "aborted", GoalStatus.STATUS_ABORTED)
    assert "within 0.1 s surprised the model" in result.reason
    assert any("surprised" in feedback.stopped_reason for feedback in goal.feedback)
    stub.until(lambda: stub.has_status(1, "surprised the model"), "WARN in the diagnostics")


def test_non_finite_energies_stop_the_robot_and_abort_the_goal_if_they_last(stub: Stub) -> None:
    goal = stub.driving()
    stub.nan = True
    result = stub.ends(goal, "aborted", GoalStatus.STATUS_ABORTED)
    assert "energies to the goal are not finite" in result.reason


def test_missing_futures_stop_the_robot_and_abort_the_goal_if_they_last(stub: Stub) -> None:
    goal = stub.driving()
    began = time.monotonic()
    stub.graph.until(lambda: stub.commands[-1] == Twist(), "a stop command", 1.0)
    assert time.monotonic() - began < 0.8
    _, result = goal.end()
    assert result.outcome == "aborted" and "no futures for" in result.reason
    stub.graph.until(lambda: stub.has_status(3, "no futures for"), "STALE in the diagnostics")
    stub.until(lambda: stub.has_status(0, "idle"), "OK again")


def test_goal_rejected_by_the_world_model_is_aborted_with_the_reason(stub: Stub) -> None:
    stub.refusal = "unknown encoding bayer_grbg16"
    _, result = stub.goal(image=goal_image(now_ns())).end(meanwhile=stub.image)
    assert result.outcome == "aborted" and "unknown encoding bayer_grbg16" in result.reason
    assert len(stub.set) == 1, "what was not taken is not given back"


def test_goal_without_a_world_model_is_aborted(ros_graph: Any) -> None:
    ros_graph.start("planner")
    _, result = Goal(ros_graph, client(ros_graph), image=goal_image(now_ns())).end()
    assert result.outcome == "aborted"
    assert "no futures for" in result.reason or "is not available" in result.reason


@pytest.mark.parametrize(
    "goal", [{}, {"image": Image(data=[1])}, {"timeout_s": -1.0}, {"energy_threshold": float("nan")}]
)
def test_invalid_goals_are_rejected(stub: Stub, goal: dict[str, Any]) -> None:
    given = {"image": goal_image(1)} if goal else {}
    assert not stub.goal(**(given | goal)).accepted


def test_new_model_restarts_the_plan_and_an_unusable_one_ends_the_goal(
    stub: Stub,
) -> None:
    goal = stub.driving()
    stub.infos.publish(model_info(version="2"))
    stub.until(lambda: stub.commands[-1] == Twist(), "a stop command")
    stub.until(lambda: stub.commands[-1].linear.x > 0.1, "the robot to go on")
    stub.infos.publish(model_info(action_names=["color", "taste"]))
    result = stub.ends(goal, "aborted", GoalStatus.STATUS_ABORTED)
    assert "cannot drive with stub" in result.reason
    stub.until(lambda: stub.has_status(2, "cannot drive with stub"), "ERROR in the diagnostics")
    stub.infos.publish(model_info())


def test_planner_shutdown_ends_its_goal_and_stops_the_robot(ros_graph: Any) -> None:
    stub = Stub(ros_graph, model_info(), **QUICK)
    goal = stub.driving()
    process = stub.graph.processes.pop("planner")
    process.terminate()
    stub.until(lambda: process.poll() is not None, "the planner's end")
    assert process.returncode == 0, stub.graph.log("planner").read_text()
    assert stub.commands[-1] == Twist() and stub.goal_ns is None
    _, result = goal.end()
    assert result.outcome == "aborted" and result.reason == "the planner is shutting down"


@pytest.mark.slow
def test_planner_releases_the_images_of_finished_goals(ros_graph: Any) -> None:
    stub = Stub(ros_graph, model_info())
    image = to_image(np.zeros((960, 1280, 3), np.uint8), stamp_ns=0, frame_id="eye")
    goals, status = 40, Path(f"/proc/{ros_graph.processes['planner'].pid}/status")

    def memory_mb() -> float:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) / 1e3

    stub.goal(image=image, timeout_s=0.01).end(meanwhile=stub.image)
    before_mb = memory_mb()
    for _ in range(goals):
        stub.goal(image=image, timeout_s=0.01).end(meanwhile=stub.image)
    stub.until(lambda: memory_mb() < before_mb + goals * len(image.data) / 4e6, "its memory back", 20.0)


def test_arm_receives_one_pose_delta_per_step(ros_graph: Any) -> None:
    poses = ros_graph.listen(PoseStamped, "pose_delta")
    stub = Stub(
        ros_graph,
        model_info(
            action_names=["x", "y", "z"],
            action_units=["m"] * 3,
            action_low=[-0.05] * 3,
            action_high=[0.05] * 3,
        ),
        action_frame="arm_base",
    )
    stub.goal_ns = 5
    # Until then it is commanded to stop, without a stamp.
    stub.until(lambda: sum(from_time(pose.header.stamp) > 0 for pose in poses) >= 5, "pose deltas")
    stamps = [from_time(pose.header.stamp) for pose in poses if from_time(pose.header.stamp)]
    first_ns, fifth_ns = stamps[0], stamps[4]
    assert fifth_ns - first_ns > 0.7e9, "five of them, 0.2 s apart"
    assert len(stub.statuses) > 15 and not stub.commands
    assert poses[-1].header.frame_id == "arm_base" and 0.01 < poses[-1].pose.position.x <= 0.05
    stub.energy = 0.5
    stub.until(lambda: poses[-1].pose.position.x == 0.0, "no further displacement")
    sent = {pose.pose.position.x for pose in poses}
    assert {status.command.linear.x for status in stub.statuses} <= {0.0, *sent}, "nothing else is sent"
