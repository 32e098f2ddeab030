"""Origin of a camera's goal: the planner ignores goals that another node set with the service."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

goals = pytest.importorskip(
    "jepa_ros.world_model.goal_inputs", reason="the workspace is not on the paths: . scripts/env.sh"
)
from jepa_msgs.msg import Tensor  # noqa: E402
from jepa_msgs.srv import SetGoal  # noqa: E402
from jepa_ros.common.conversions import fill, to_image, to_time  # noqa: E402
from jepa_ros.world_model.camera_streams import create_camera_streams  # noqa: E402

from jepa_runtime.errors import JepaRuntimeError  # noqa: E402
from jepa_runtime.recording import messages  # noqa: E402

pytestmark = pytest.mark.ros


class Owner:
    """Fake the node and its pipeline, which records the stamp of the current goal."""

    def __init__(self) -> None:
        self.goal_ns = None
        self.rejected = set()
        self.cameras = create_camera_streams(["image"])
        served = SimpleNamespace(pipeline=self)
        self.goals = goals.GoalInputs(self, lambda: served, lambda: self.cameras)

    def get_logger(self):
        return SimpleNamespace(error=lambda words: None)

    def create_service(self, kind, name, answer):
        self.answer = answer

    def set_goal(self, goal, stamp_ns, stream):
        if stamp_ns in self.rejected:
            raise JepaRuntimeError("refused")
        self.goal_ns = None if goal is None else stamp_ns
        self.requested_at_once = self.is_requested

    def request_goal(self, stamp_ns):
        return self.request(SetGoal.Request(stamp=to_time(stamp_ns), image=picture(1)))

    def request(self, request):
        return self.answer(request, SetGoal.Response()).success

    def latch_goal(self, message):
        self.goals.on_image(self.cameras["image"], message)

    @property
    def is_requested(self):
        return self.goals.is_requested(self.cameras["image"], self.goal_ns)


def picture(stamp_ns, **fields):
    message = to_image(np.zeros((8, 8, 3), np.uint8), stamp_ns=stamp_ns, frame_id="eye")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.fixture
def owner():
    return Owner()


def test_newest_goal_wins_and_its_origin_is_known(owner):
    assert owner.request_goal(7)
    assert owner.goal_ns == 7 and owner.is_requested
    owner.latch_goal(picture(8))
    assert owner.goal_ns == 8 and not owner.is_requested
    assert owner.request_goal(9)
    owner.latch_goal(picture(9))
    assert owner.goal_ns == 9 and not owner.is_requested, "of the same stamp"


def test_latent_may_be_requested_as_the_goal(owner):
    latent = fill(Tensor(), messages.tensor("latent", np.ones((2, 4), np.float32)))
    assert owner.request(SetGoal.Request(stamp=to_time(7), latent=latent))
    assert owner.goal_ns == 7 and owner.is_requested


@pytest.mark.parametrize("side", ["height", "width"])
def test_image_without_height_or_width_clears_the_goal(owner, side):
    owner.latch_goal(picture(7))
    owner.latch_goal(picture(8, **{side: 0}))
    assert owner.goal_ns is None


def test_rejected_goal_image_leaves_the_goal_and_its_origin(owner):
    owner.request_goal(7)
    owner.latch_goal(picture(8, encoding="32FC1"))
    assert owner.goal_ns == 7 and owner.is_requested


def test_futures_in_progress_when_a_requested_goal_is_cleared_still_count_as_requested(owner):
    owner.request_goal(7)
    assert owner.request(SetGoal.Request())
    assert owner.goal_ns is None and not owner.is_requested
    owner.goal_ns = 7
    assert owner.is_requested
    owner.latch_goal(picture(7))
    assert not owner.is_requested, "now it is latched"


def test_futures_before_the_request_returns_count_as_requested(owner):
    assert owner.request_goal(7)
    assert owner.requested_at_once


@pytest.mark.parametrize("newer", ["requested", "latched"])
def test_futures_in_progress_when_another_goal_arrives_still_count_as_requested(owner, newer):
    owner.request_goal(7)
    owner.request_goal(8) if newer == "requested" else owner.latch_goal(picture(8))
    assert owner.is_requested == (newer == "requested")
    owner.goal_ns = 7
    assert owner.is_requested


def test_rejected_goal_requests_leave_the_earlier_request(owner):
    owner.rejected = {8, 9}
    owner.request_goal(7)
    assert not owner.request_goal(8) and not owner.request_goal(9)
    assert owner.goal_ns == 7 and owner.is_requested
    owner.goal_ns = 9
    assert not owner.is_requested
