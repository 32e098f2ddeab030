"""The planner node in this process, not spun: its callbacks are called directly."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import ActionCandidates, ModelInfo, PlannerStatus, Tensor
from jepa_ros.common.conversions import to_time
from jepa_ros.nodes import planner as planner_node
from jepa_ros.nodes.planner import PlannerNode, create_controller_model
from jepa_ros.planner.parameters import PARAMETERS
from rclpy.parameter import Parameter

from jepa_runtime.planning import Steering
from tests.ros.test_command_publisher import Publisher
from tests.ros.test_nodes import HORIZON, futures, model_info

pytestmark = pytest.mark.ros


def differential_drive() -> ModelInfo:
    info = model_info()
    info.action_names, info.action_units = ["linear.x", "angular.z"], ["m/s", "rad/s"]
    return info


class Planner:
    """Represent the node with a model, a settable ROS time and recorded publications."""

    def __init__(self, monkeypatch) -> None:
        self.now_ns, self.skipped_s, self.start_s = 10**18, 0.0, 0.0
        self.goal_pose: list[float] = []
        self.commands, self.questions, self.statuses, self.diagnostics = (Publisher() for _ in range(4))
        fakes = {
            Twist: self.commands,
            ActionCandidates: self.questions,
            PlannerStatus: self.statuses,
            DiagnosticArray: self.diagnostics,
        }
        create_publisher = PlannerNode.create_publisher

        def create(node, kind, *given, **options):
            return fakes.get(kind) or create_publisher(node, kind, *given, **options)

        monkeypatch.setattr(PlannerNode, "create_publisher", create)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + self.skipped_s)
        monkeypatch.setattr(planner_node, "time", clock)
        self.node = PlannerNode()
        monkeypatch.setattr(self.node, "get_clock", lambda: Mock(now=lambda: Mock(nanoseconds=self.now_ns)))
        self.node.on_model(model_info())

    def steer(self) -> None:
        """Steer a differential drive from now on."""
        self.node._values["search_method"] = "steering"
        self.node.on_model(differential_drive())

    def image(self, *, age_s: float = 0.0, source: str = "cem", by_another: bool = False) -> float:
        """Pass futures of the last candidates; return the commanded velocity to the right."""
        self.now_ns += 33_000_000
        request = self.questions.sent[-1] if self.questions.sent else None
        message = futures(self.now_ns - round(age_s * 1e9), request)
        message.candidates_source = source
        message.goal_pose = self.goal_pose
        message.start = to_time(self.now_ns - round(age_s * 1e9) + round(self.start_s * 1e9))
        if by_another:
            message.actions = Tensor(data=message.actions.data[::-1])
        self.node.on_futures(message)
        return self.commands.sent[-1].linear.x

    def drives(self, **given) -> bool:
        """Return whether the robot drives after some images."""
        return [self.image(**given) for _ in range(5)][-1] > 0


@pytest.fixture
def planner(owner, monkeypatch):
    fake = Planner(monkeypatch)
    yield fake
    fake.node.stop()
    fake.node.destroy_node()


def test_limits_combine_the_model_and_the_greatest_change():
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    info = model_info()
    info.action_low, info.action_max_norm, info.goal_threshold, info.step_s = [-0.5, -1.0], 0.75, 1.5, 0.4
    driver = create_controller_model(info, values | {"max_change": 0.25})
    np.testing.assert_array_equal(driver.limits.low, [-0.5, -1.0])
    np.testing.assert_array_equal(driver.limits.high, [1.0, 1.0])
    np.testing.assert_array_equal(driver.limits.max_change, [0.375, 0.5])
    assert (driver.limits.max_norm, driver.goal_threshold) == (0.75, 1.5)
    assert driver.step_s == pytest.approx(0.4) and not driver.per_step
    info.action_max_norm, info.action_names = 0.0, ["x", "y"]
    driver = create_controller_model(info, values | {"max_change": 1.0})
    assert driver.limits.max_norm is driver.limits.max_change is None and driver.per_step


def test_new_model_stops_the_robot_before_its_first_futures(planner):
    assert planner.drives()
    before = planner.node.command_publisher
    planner.node.on_model(model_info())
    assert planner.commands.sent[-1] == Twist()
    assert planner.node.command_publisher is before and planner.drives(), "the publisher is unchanged"


@pytest.mark.parametrize(("field", "value"), [("step_s", 0.4), ("action_names", ["linear.y", "linear.x"])])
def test_model_with_other_actions_closes_the_old_publisher(planner, field, value):
    assert planner.drives()
    before = planner.node.command_publisher
    before.close = Mock()
    info = model_info()
    setattr(info, field, value)
    planner.node.on_model(info)
    before.close.assert_called_once_with()
    assert planner.node.command_publisher is not before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_s", 0.0),
        ("step_s", -0.2),
        ("step_s", math.inf),
        ("step_s", math.nan),
        ("horizon", 2**32 - 1),
        ("num_samples", 2**32 - 1),
        ("goal_threshold", math.nan),
        ("action_low", [-1e30, -1.0]),
        ("action_high", [1.0, 1e16]),
        ("action_names", []),
        ("action_names", ["linear.x"]),
        ("action_names", ["linear.x", "linear.x"]),
    ],
)
def test_invalid_model_info_is_rejected_and_stops_the_robot(planner, field, value):
    assert planner.drives()
    info = model_info()
    setattr(info, field, value)
    planner.node.on_model(info)
    assert planner.commands.sent[-1] == Twist() and not planner.drives()
    planner.node.publish_diagnostics()
    status = planner.diagnostics.sent[-1].status[0]
    assert status.level == bytes([2]) and f"cannot drive with stub: {field} must" in status.message
    planner.node.on_model(model_info())
    assert planner.drives()


def test_planner_learns_only_from_its_own_candidates(planner):
    assert [planner.image(source="another") for _ in range(5)] == [0.0] * 5
    assert [planner.image(by_another=True) for _ in range(5)] == [0.0] * 5, "it sees the same images"
    assert planner.drives()


def test_image_age_follows_ros_time_and_a_new_timeout_applies_at_once(planner):
    planner.node.set_parameters([Parameter("futures_timeout_s", value=60.0)])
    assert planner.drives(age_s=0.75)
    assert planner.statuses.sent[-1].e2e_ms == 750
    planner.node.set_parameters([Parameter("futures_timeout_s", value=0.5)])
    assert planner.image(age_s=0.75) == 0
    assert planner.statuses.sent[-1].state == PlannerStatus.HELD
    assert planner.node.report()["counters"]["old_futures"] == 1


def test_image_older_than_the_models_horizon_stops_the_robot_with_any_timeout(planner):
    planner.node.set_parameters([Parameter("futures_timeout_s", value=60.0)])
    assert planner.drives() and not planner.drives(age_s=30.0)
    assert planner.statuses.sent[-1].state == PlannerStatus.HELD


def test_candidates_state_the_measured_latency_and_diagnostics_show_what_is_compensated(planner):
    assert planner.drives(age_s=0.25)
    assert planner.questions.sent[0].delay_s == 0.0, "nothing was measured before"
    assert planner.questions.sent[-1].delay_s == pytest.approx(0.25, abs=0.02)
    planner.start_s = 0.2
    planner.image(age_s=0.25)
    assert planner.statuses.sent[-1].compensated_ms == pytest.approx(200.0)
    planner.node.publish_diagnostics()
    values = {each.key: each.value for each in planner.diagnostics.sent[-1].status[0].values}
    assert float(values["compensated_ms"]) == pytest.approx(200.0)
    assert float(values["latency_ms"]) == pytest.approx(250.0, abs=20.0)


def test_shorter_timeout_applies_without_further_futures(planner):
    planner.node.set_parameters([Parameter("futures_timeout_s", value=60.0)])
    assert planner.drives()
    planner.skipped_s = 0.6
    planner.node.watch()
    assert planner.commands.sent[-1].linear.x > 0
    planner.node.set_parameters([Parameter("futures_timeout_s", value=0.5)])
    planner.node.watch()
    assert planner.commands.sent[-1] == Twist()
    assert planner.statuses.sent[-1].state == PlannerStatus.HELD
    assert planner.node.report()["counters"]["watchdog_stops"] == 1


def test_failed_planning_stops_the_robot_and_is_reported(planner, monkeypatch):
    assert planner.drives()
    with monkeypatch.context() as broken:
        broken.setattr(planner.node.controller, "update", Mock(side_effect=RuntimeError("no memory")))
        assert planner.image() == 0
        status = planner.statuses.sent[-1]
        assert (status.state, status.command) == (PlannerStatus.HELD, Twist())
        assert not planner.node.controller.may_move and planner.node.report()["counters"]["faults"] == 1
    assert planner.drives()


def test_plans_continue_from_the_commands_sent(planner, monkeypatch):
    set_command = Mock(wraps=planner.node.controller.set_command)
    monkeypatch.setattr(planner.node.controller, "set_command", set_command)
    assert planner.drives()
    sent = planner.commands.sent[-1]
    assert planner.statuses.sent[-1].command == sent
    np.testing.assert_allclose(set_command.call_args.args[0], [sent.linear.x, sent.linear.y], rtol=1e-6)


def test_unacknowledged_stop_is_an_error(planner, monkeypatch):
    for unheard, level in ((False, 0), (True, 2)):
        monkeypatch.setattr(
            planner.node.command_publisher, "stop_unacknowledged", lambda unheard=unheard: unheard
        )
        planner.node.publish_diagnostics()
        assert planner.diagnostics.sent[-1].status[0].level == bytes([level])


def test_planner_steers_to_the_goal_pose_in_the_futures(planner):
    planner.steer()
    planner.goal_pose = [2.0, 0.5, 0.0, 0.05, 0.05]
    assert planner.drives(source="steering")
    assert planner.questions.sent[-1].source == "steering"
    assert list(planner.questions.sent[-1].actions.shape) == [4, HORIZON, 2]
    assert 0 < planner.commands.sent[-1].linear.x <= 0.6 and planner.commands.sent[-1].angular.z > 0


def test_steering_without_a_goal_pose_stops_the_robot(planner):
    planner.node.set_parameters([Parameter("futures_timeout_s", value=0.1)])
    planner.steer()
    planner.goal_pose = [2.0, 0.0, 0.0, 0.05, 0.05]
    assert planner.drives(source="steering")
    planner.goal_pose = []
    assert planner.image(source="steering") > 0
    planner.skipped_s = 0.2
    assert planner.image(source="steering") == 0
    planner.node.publish_diagnostics()
    assert "pose of the goal" in planner.diagnostics.sent[-1].status[0].message
    planner.goal_pose = [2.0, 0.0, 0.0, 0.05, 0.05]
    assert planner.drives(source="steering")


@pytest.mark.parametrize("goal_pose", [[2.0, 0.0, 0.0], [0.0] * 8])
def test_goal_pose_of_another_size_is_a_fault_that_stops_the_robot(planner, goal_pose):
    planner.steer()
    planner.goal_pose = [2.0, 0.0, 0.0, 0.05, 0.05]
    assert planner.drives(source="steering")
    planner.goal_pose = goal_pose
    assert planner.image(source="steering") == 0
    assert planner.statuses.sent[-1].state == PlannerStatus.HELD
    assert planner.node.report()["counters"]["faults"] == 1


def test_model_that_cannot_be_steered_is_rejected(planner):
    planner.node._values["search_method"] = "steering"
    planner.node.on_model(model_info())
    planner.node.publish_diagnostics()
    status = planner.diagnostics.sent[-1].status[0]
    assert status.level == bytes([2]) and "cannot drive with stub" in status.message
    assert not planner.drives()


def test_search_methods_are_those_that_need_no_latents_and_the_policy_behind_the_critic():
    (method,) = (each for each in PARAMETERS if each.name == "search_method")
    assert method.choices == ("cem", "mppi", "policy_cem", "refined_cem", "steering", "policy")
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    for name in ("mppi", "policy_cem", "refined_cem"):
        search = create_controller_model(model_info(), values | {"search_method": name}).planner._search
        assert name == search.config.METHOD
        assert (search.config.horizon, search.config.topk) == (HORIZON, min(8, model_info().num_samples))


def test_steering_uses_the_speed_limits_of_its_parameters():
    values = {parameter.name: parameter.default for parameter in PARAMETERS}
    steered = values | {"search_method": "steering", "max_speed_mps": 0.2, "max_turn_radps": 0.5}
    search = create_controller_model(differential_drive(), steered).planner._search
    assert isinstance(search, Steering)
    assert (search.config.max_speed_mps, search.config.max_turn_radps) == (0.2, 0.5)
    assert (search.config.horizon, search.config.num_samples) == (HORIZON, 4)
