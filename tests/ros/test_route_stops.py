"""How a route ends and the robot stops: the real route node, with stubs of planner and world model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import rclpy
from action_msgs.msg import GoalInfo
from action_msgs.srv import CancelGoal
from jepa_msgs.action import ReachGoal, RepeatRoute, TeachRoute
from jepa_msgs.msg import ModelInfo
from jepa_msgs.srv import ScoreLatents
from jepa_ros.nodes.route import RouteNode
from jepa_ros.profiler.processes import choose_domain
from jepa_ros.route import clients
from jepa_ros.route.clients import NoAnswerError, wait
from rclpy.task import Future

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.routes import RouteRecorder, SubGoal
from jepa_runtime.serving import Scores
from tests.runtime.routes.drives import MODEL, image_at, latent_at, line, record, score

pytestmark = pytest.mark.ros

WAIT_S = 5.0


class PlannerGoal:
    """A goal of the stub of the planner, as its client sees it."""

    def __init__(self, *, accepted: bool, confirms: bool, ends: bool) -> None:
        self.accepted, self._confirms, self._ends = accepted, confirms, ends
        self.cancel_requests = 0
        self.result: Future = Future()

    def end(self, outcome: str, reason: str = "") -> None:
        ended = ReachGoal.Impl.GetResultService.Response(
            result=ReachGoal.Result(outcome=outcome, reason=reason)
        )
        self.result.set_result(ended)

    def get_result_async(self) -> Future:
        return self.result

    def cancel_goal_async(self) -> Future:
        self.cancel_requests += 1
        answered = Future()
        if self._confirms:
            answered.set_result(CancelGoal.Response(goals_canceling=[GoalInfo()]))
        if self._ends and not self.result.done():
            self.end(ReachGoal.Result.CANCELLED, "it was cancelled")
        return answered


class StubPlanner:
    """Answer to each goal, confirm its cancellation and end it at once, unless an attribute is false."""

    def __init__(self) -> None:
        self.answers = self.confirms = self.ends = True
        self.sent: list[Future] = []
        self.goals: list[PlannerGoal] = []

    def wait_for_server(self, timeout_sec: float) -> bool:
        return True

    def send_goal_async(self, goal: ReachGoal.Goal, feedback_callback: Any) -> Future:
        self.sent.append(Future())
        if self.answers:
            self.answer()
        return self.sent[-1]

    def answer(self, *, accepted: bool = True) -> PlannerGoal:
        self.goals.append(PlannerGoal(accepted=accepted, confirms=self.confirms, ends=self.ends))
        self.sent[-1].set_result(self.goals[-1])
        return self.goals[-1]

    def destroy(self) -> None:
        pass


class StubEnergies:
    """Place the robot at the start of the route; ``hang`` blocks the following requests."""

    def __init__(self) -> None:
        self._may_answer = threading.Event()
        self._may_answer.set()
        self.blocked = self._stamp_ns = 0

    def hang(self) -> None:
        self._may_answer.clear()

    def resume(self) -> None:
        self._may_answer.set()

    def score(
        self, latents: Any, goal: Any, latent_space: str, pose_indices: Any = (), *, attempts: int = 1
    ) -> Scores:
        del attempts
        self.blocked += not self._may_answer.is_set()
        self._may_answer.wait()
        self._stamp_ns += 100_000_000
        at = latent_at(np.zeros(2)) if goal is None else goal
        return Scores(
            energies=score(latents, at),
            stamp_ns=self._stamp_ns,
            latent_space=latent_space,
            poses=np.empty((0, 5), np.float32),
        )


class StubHandle:
    """A goal of an action of the route node."""

    def __init__(self, goal: Any) -> None:
        self.request, self.is_cancel_requested, self.state = goal, False, "executing"

    def publish_feedback(self, feedback: Any) -> None:
        pass

    def execute(self) -> None:
        pass

    def succeed(self) -> None:
        self.state = "succeeded"

    def canceled(self) -> None:
        assert self.is_cancel_requested, "rclpy has not recorded the cancellation"
        self.state = "canceled"

    def abort(self) -> None:
        self.state = "aborted"


class Drive:
    """A route that the node repeats on a thread."""

    def __init__(self, node: RouteNode) -> None:
        self.node = node
        self.handle = StubHandle(RepeatRoute.Goal(name="hall", start=0.0))
        node._repeat.on_accepted(self.handle)
        self._results: list[RepeatRoute.Result] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._results.append(self.node._repeat.execute(self.handle))

    def cancel(self) -> None:
        """Cancel the route as rclpy does, which records the cancellation after the callback."""
        self.node._repeat.on_cancel(self.handle)

    def end(self) -> RepeatRoute.Result:
        self._thread.join(WAIT_S)
        assert self._results, "the route did not end"
        return self._results[0]


class Robot:
    """The route node with its stubs, which never spins."""

    def __init__(self, node: RouteNode, planner: StubPlanner, energies: StubEnergies) -> None:
        self.node, self.planner, self.energies = node, planner, energies

    def drive(self) -> Drive:
        """Start the route, and wait until the robot drives."""
        started = Drive(self.node)
        self.until(lambda: self.planner.sent)
        return started

    def hang(self) -> None:
        """Let the world model hang, and wait until the route waits for it."""
        count = self.energies.blocked
        self.energies.hang()
        self.until(lambda: self.energies.blocked > count)

    @staticmethod
    def until(condition: Callable[[], Any]) -> None:
        assert wait(lambda: bool(condition()), WAIT_S)


def model_info(**changes: Any) -> ModelInfo:
    values = MODEL.model_dump() | changes
    return ModelInfo(**{name: list(v) if isinstance(v, tuple) else v for name, v in values.items()})


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    planner, energies = StubPlanner(), StubEnergies()
    monkeypatch.setattr(clients, "ThreadSafeActionClient", lambda *_, **__: planner)
    monkeypatch.setattr(clients, "_RESPONSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr("jepa_ros.nodes.route.Energies", lambda *_: energies)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    record(line()).save(tmp_path / "hall")
    parameters = {"routes_dir": tmp_path, "autostart": "false", "goal_deadline_s": 600.0, "patience_s": 600.0}
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={value}"]
    rclpy.init(args=arguments, domain_id=int(choose_domain()))
    node = RouteNode()
    node.on_model(model_info())
    yield Robot(node, planner, energies)
    energies.resume()
    node.stop()
    node.destroy_node()
    rclpy.shutdown()


def sub_goal() -> SubGoal:
    return SubGoal(1, latent_at(np.zeros(2)), is_last=False)


def test_route_whose_planner_goal_is_canceled_by_another_client_is_aborted(robot: Robot) -> None:
    drive = robot.drive()
    robot.planner.goals[0].end(ReachGoal.Result.CANCELLED, "it was cancelled")
    result = drive.end()
    assert (drive.handle.state, result.outcome) == ("aborted", "aborted")
    assert "another client canceled" in result.reason
    assert len(robot.planner.goals) == 1


def test_planner_goal_canceled_by_another_client_while_the_route_waits_is_reported(robot: Robot) -> None:
    planner = robot.node._planner
    planner.pursue(sub_goal())
    robot.planner.goals[0].end(ReachGoal.Result.CANCELLED, "it was cancelled")
    with pytest.raises(JepaRuntimeError) as raised:
        planner.pursue(None)
    assert raised.value.code == "node.goal_canceled"


def test_planner_goal_canceled_by_the_route_is_started_again(robot: Robot) -> None:
    planner = robot.node._planner
    for goal in (sub_goal(), None, sub_goal()):
        planner.pursue(goal)
    assert [goal.cancel_requests for goal in robot.planner.goals] == [1, 0]


def test_route_canceled_while_the_world_model_hangs_stops_the_robot_at_once(robot: Robot) -> None:
    drive = robot.drive()
    robot.hang()
    drive.cancel()
    assert robot.planner.goals[0].cancel_requests == 1
    # A step may end before rclpy records the cancellation.
    robot.energies.resume()
    robot.hang()
    drive.handle.is_cancel_requested = True
    robot.energies.resume()
    assert drive.end().outcome == drive.handle.state == "canceled"
    assert len(robot.planner.goals) == 1


@pytest.mark.parametrize("cause", ["deactivation", "another route"])
def test_route_aborted_while_the_world_model_hangs_stops_the_robot_at_once(robot: Robot, cause: str) -> None:
    drive = robot.drive()
    robot.hang()
    if cause == "deactivation":
        robot.node._repeat.end(cause)
    else:
        robot.node._repeat.on_accepted(StubHandle(RepeatRoute.Goal(name="hall")))
    assert robot.planner.goals[0].cancel_requests == 1
    robot.energies.resume()
    result = drive.end()
    assert result.outcome == "aborted" and cause in result.reason
    assert len(robot.planner.goals) == 1


def test_route_canceled_before_the_planner_answers_cancels_the_goal_when_it_does(robot: Robot) -> None:
    robot.planner.answers = False
    drive = robot.drive()
    drive.cancel()
    drive.handle.is_cancel_requested = True
    assert drive.end().outcome == "canceled"
    assert robot.planner.answer().cancel_requests == 1


def test_next_route_drives_after_a_canceled_one(robot: Robot) -> None:
    for count in (1, 2):
        drive = Drive(robot.node)
        robot.until(lambda count=count: len(robot.planner.goals) == count)
        drive.cancel()
        drive.handle.is_cancel_requested = True
        assert drive.end().outcome == "canceled"


def test_cancellation_of_another_goal_does_not_stop_the_robot(robot: Robot) -> None:
    drive = robot.drive()
    robot.node._repeat.on_cancel(StubHandle(RepeatRoute.Goal(name="hall")))
    assert not robot.planner.goals[0].cancel_requests
    robot.node._repeat.end("the test has ended")
    drive.end()


@pytest.mark.parametrize("accepted", [True, False])
def test_goal_answered_after_the_timeout_is_canceled_if_accepted(robot: Robot, accepted: bool) -> None:
    robot.planner.answers = False
    with pytest.raises(NoAnswerError):
        robot.node._planner.pursue(sub_goal())
    assert robot.planner.answer(accepted=accepted).cancel_requests == accepted


@pytest.mark.parametrize(
    ("confirms", "words"),
    [(False, "; the planner did not confirm within 0.2 s that the robot stopped"), (True, "")],
)
def test_stop_without_a_result_is_reported_if_the_planner_did_not_confirm_it(
    robot: Robot, confirms: bool, words: str
) -> None:
    robot.planner.confirms, robot.planner.ends = confirms, False
    drive = robot.drive()
    robot.node._repeat.end("deactivated")
    assert drive.end().reason == f"deactivated{words}"
    assert robot.planner.goals[0].cancel_requests == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"energy_space": "b" * 64}, "another energy"),
        ({"latent_space": "b" * 64}, "another encoder"),
        ({"tokens": 0}, "cannot be used"),
    ],
)
def test_swap_to_a_model_that_cannot_repeat_the_route_aborts_it(
    robot: Robot, changes: dict[str, Any], words: str
) -> None:
    drive = robot.drive()
    robot.hang()
    robot.node.on_model(model_info(**changes))
    assert robot.planner.goals[0].cancel_requests == 1
    robot.energies.resume()
    result = drive.end()
    assert result.outcome == "aborted" and words in result.reason


def test_swap_to_a_model_with_the_same_encoder_and_energy_continues_the_route(robot: Robot) -> None:
    drive = robot.drive()
    robot.node.on_model(model_info(version="1.0.1"))
    assert not robot.planner.goals[0].cancel_requests
    robot.node._repeat.end("the test has ended")
    assert drive.end().reason == "the test has ended"


@pytest.mark.parametrize("moves", [True, False])
def test_recording_reports_images_whose_stamps_do_not_increase(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    stamps = iter([0, 100, 100, 50, *((2000, 4000, 6000) if moves else ())])
    teach = robot.node._teach

    def add_next(recorder: RouteRecorder) -> None:
        stamp = next(stamps, None)
        if stamp is None:
            teach.finish()
            return
        at = np.array([stamp / 1000 if moves else 0.0, 0.0])
        recorder.add(stamp_ns=stamp * 1_000_000, latent=latent_at(at), image=image_at(at))

    monkeypatch.setattr(teach, "_record", add_next)
    monkeypatch.setattr(teach, "_is_active", lambda: True)
    goal = TeachRoute.Goal(name="new")
    teach.on_goal(goal)
    result = teach.execute(StubHandle(goal))
    assert result.outcome == ("saved" if moves else "aborted")
    assert result.reason.endswith("; 2 images skipped: their stamps do not increase")


def test_energies_are_requested_again_while_frames_leave_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = ScoreLatents.Response(success=False, message="the frames leave no time for it")
    done = ScoreLatents.Response(success=True, latent_space=MODEL.latent_space, energies=[1.0, 2.0])
    answers = [busy, busy, done]
    monkeypatch.setattr(clients, "call", lambda _client, _request: answers.pop(0))
    energies = clients.Energies.__new__(clients.Energies)
    energies._client, energies._camera = None, ""
    latents = np.stack([latent_at(np.zeros(2))] * 2)
    with pytest.raises(NoAnswerError, match="leave no time"):
        energies.score(latents, latents[0], MODEL.latent_space)
    scores = energies.score(latents, latents[0], MODEL.latent_space, attempts=2)
    assert scores.energies.tolist() == [1.0, 2.0] and not answers
