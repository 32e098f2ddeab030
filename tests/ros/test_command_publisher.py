"""Published commands and the acknowledgment of a stop. The publishers are mocks."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

driving = pytest.importorskip(
    "jepa_ros.planner.command_publisher", reason="the workspace is not on the paths: . scripts/env.sh"
)
from builtin_interfaces.msg import Time  # noqa: E402
from jepa_ros.common.action_commands import create_action_commands  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

pytestmark = pytest.mark.ros

STEP_NS = 200_000_000


class Publisher:
    """Fake a publisher whose subscribers acknowledge or not."""

    topic_name = "/cmd_vel"

    def __init__(self) -> None:
        self.sent = []
        self.acknowledged, self.listeners, self.patience_s = True, 1, 0.0
        self.publish = self.sent.append

    def get_subscription_count(self):
        return self.listeners

    def wait_for_all_acked(self, timeout):
        self.patience_s = timeout.nanoseconds / 1e9
        return self.acknowledged


NOW = Time(sec=9)


class Node:
    """Fake a node with one publisher and a stopped clock."""

    def __init__(self) -> None:
        self.publisher = Publisher()

    def create_publisher(self, kind, topic, qos):
        return self.publisher

    def get_clock(self):
        return Mock(now=lambda: Mock(to_msg=lambda: NOW))


class Clock:
    """Fake the time module with a settable clock."""

    now_s = 100.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    steady = Clock()
    monkeypatch.setattr(driving, "time", steady)
    return steady


def commands(*names, stamped=False):
    node, actions = Node(), create_action_commands(names, stamped=stamped)
    sender = driving.CommandPublisher(node, actions, size=len(names), step_s=0.2, frame_id="base_link")
    return sender, node.publisher


def test_velocities_are_sent_per_image_and_stops_for_half_a_second(clock):
    """A best-effort subscriber may lose a message."""
    sender, publisher = commands("linear.x")
    for stamp_ns in (0, 33_000_000, 66_000_000):
        sender.send(np.array([0.5]), stamp_ns)
    assert sender.stop()
    for _ in range(40):
        clock.now_s += 0.05
        assert not sender.stop()
    assert [message.linear.x for message in publisher.sent] == [0.5, 0.5, 0.5] + [0.0] * 11
    sender.send(np.array([0.5]), 99_000_000)
    assert sender.stop() and publisher.sent[-1].linear.x == 0.0


def test_stamped_velocity_carries_its_send_time():
    sender, publisher = commands("linear.x", stamped=True)
    sender.send(np.array([0.5]), 33_000_000)
    sender.stop()
    assert [message.twist.linear.x for message in publisher.sent] == [0.5, 0.0]
    assert [message.header for message in publisher.sent] == [Header(stamp=NOW, frame_id="base_link")] * 2


def test_commands_of_an_earlier_process_are_unknown_so_a_stop_is_sent(clock):
    sender, publisher = commands("linear.x")
    assert not sender.stop()
    clock.now_s += 1.0
    assert not sender.stop()
    assert [message.linear.x for message in publisher.sent] == [0.0]


def test_late_subscriber_receives_a_stop_only_while_the_robot_is_stopped(clock):
    sender, publisher = commands("linear.x")
    publisher.listeners = 0
    sender.stop()
    clock.now_s += 1.0
    publisher.listeners = 1
    assert not sender.stop()
    assert len(publisher.sent) == 2
    sender.send(np.array([0.5]), 0)
    publisher.listeners = 2
    sender.send(np.array([0.5]), 1)
    assert sender.stop()
    clock.now_s += 1.0
    assert not sender.stop()
    publisher.listeners = 1
    sender.stop()
    assert [message.linear.x for message in publisher.sent] == [0.0, 0.0, 0.5, 0.5, 0.0]


@pytest.mark.parametrize(("stamps", "sent"), [((0, 0, 1, STEP_NS - 1, STEP_NS), 2), ((STEP_NS, 0), 2)])
def test_pose_delta_is_not_sent_before_the_last_one_is_done_unless_time_was_set_back(stamps, sent):
    sender, publisher = commands("x", "yaw")
    for stamp_ns in stamps:
        sender.send(np.array([0.01, 0.1]), stamp_ns)
    assert len(publisher.sent) == sent


@pytest.mark.parametrize("rate_hz", [5, 10, 30, 100])
def test_slightly_early_or_late_images_neither_skip_nor_add_pose_deltas(rate_hz):
    sender, publisher = commands("x", "yaw")
    jitter, stamps = np.random.default_rng(0), []
    for index in range(60 * rate_hz):
        stamp_ns = 10**12 + round(index * 1e9 / rate_hz + jitter.uniform(-2e6, 2e6))
        sender.send(np.array([0.01, 0.1]), stamp_ns)
        if len(publisher.sent) > len(stamps):
            stamps.append(stamp_ns)
    assert 299 <= len(stamps) <= 301, "there are 300 steps in a minute"
    assert min(np.diff(stamps)) >= STEP_NS * 3 / 4


def test_step_after_a_clearly_late_image_has_full_length():
    sender, publisher = commands("x", "yaw")
    for stamp_ns in (0, STEP_NS * 3 // 2, 2 * STEP_NS, STEP_NS * 5 // 2):
        sender.send(np.array([0.01, 0.1]), stamp_ns)
    assert [message.header.stamp.nanosec for message in publisher.sent] == [0, 300_000_000, 500_000_000]


def test_current_action_is_the_last_command_sent():
    sender, _ = commands("x", "yaw")
    np.testing.assert_array_equal(sender.last_command, [0, 0])
    sender.send(np.array([0.01, 0.1]), 0)
    sender.send(np.array([0.02, 0.2]), STEP_NS // 2)
    np.testing.assert_array_equal(sender.last_command, [0.01, 0.1])
    sender.stop()
    np.testing.assert_array_equal(sender.last_command, [0, 0])
    sender.send(np.array([0.03, 0.3]), STEP_NS)
    np.testing.assert_array_equal(sender.last_command, [0.03, 0.3])


def test_unacknowledged_stop_is_reported_after_a_while(clock):
    sender, publisher = commands("linear.x")
    publisher.acknowledged = False
    sender.send(np.array([0.5]), 0)
    assert not sender.stop_unacknowledged()
    sender.stop()
    assert not sender.stop_unacknowledged(), "not yet overdue"
    clock.now_s += 6.0
    assert sender.stop_unacknowledged() and publisher.patience_s == 0.0, "it must not delay images"
    publisher.acknowledged = True
    assert not sender.stop_unacknowledged()


def test_close_always_sends_a_stop():
    sender, publisher = commands("linear.x")
    sender.close()
    assert publisher.sent[-1].linear.x == 0.0
    assert publisher.patience_s > 0, "and to arrive"


def test_close_after_motion_repeats_the_stop():
    sender, publisher = commands("linear.x")
    sender.send(np.array([0.5]), 0)
    sender.close()
    assert [message.linear.x for message in publisher.sent] == [0.5] + [0.0] * 11


def test_stop_must_be_acknowledged_by_arm_and_gripper(clock):
    sender, _ = commands("x", "gripper")
    sender.publishers[0] = gripper = Publisher()
    gripper.acknowledged = False
    sender.stop()
    clock.now_s += 6.0
    assert sender.stop_unacknowledged()


def test_partially_sent_action_is_followed_by_a_stop():
    sender, publisher = commands("x", "gripper")
    sender.stop()
    publisher.publish = Mock(side_effect=[None, RuntimeError("no room to publish")])
    with pytest.raises(RuntimeError):
        sender.send(np.array([0.05, 0.5]), 0)
    publisher.publish = publisher.sent.append
    assert sender.stop() and publisher.sent[-2].data == 0.0


def test_failed_stop_is_sent_again_the_next_time():
    sender, publisher = commands("linear.x")
    sender.send(np.array([0.5]), 0)
    publisher.publish = Mock(side_effect=RuntimeError("no room to publish"))
    with pytest.raises(RuntimeError):
        sender.stop()
    publisher.publish = publisher.sent.append
    assert sender.stop() and not sender.stop()
    assert [message.linear.x for message in publisher.sent] == [0.5, 0.0, 0.0]
