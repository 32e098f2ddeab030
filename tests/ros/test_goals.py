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
        self.sought = None
        self.refused = set()
        self.cameras = create_camera_streams(["image"])
        served = SimpleNamespace(pipeline=self)
        self.goals = goals.GoalInputs(self, lambda: served, lambda: self.cameras)

    def get_logger(self):
        return SimpleNamespace(error=lambda words: None)

    def create_service(self, kind, name, answer):
        self.answer = answer

    def set_goal(self, goal, stamp_ns, stream):
        if stamp_ns in self.refused:
            raise JepaRuntimeError("refused")
        self.sought = None if goal is None else stamp_ns
        self.at_once = self.is_asked

    def ask(self, stamp_ns):
        return self.request(SetGoal.Request(stamp=to_time(stamp_ns), image=picture(1)))

    def request(self, request):
        return self.answer(request, SetGoal.Response()).success

    def show(self, message):
        self.goals.on_image(self.cameras["image"], message)

    @property
    def is_asked(self):
        return self.goals.is_requested(self.cameras["image"], self.sought)


def picture(stamp_ns, **fields):
    message = to_image(np.zeros((8, 8, 3), np.uint8), stamp_ns=stamp_ns, frame_id="eye")
    for name, value in fields.items():
        setattr(message, name, value)
    return message


@pytest.fixture
def owner():
    return Owner()


def test_newest_goal_wins_and_its_origin_is_known(owner):
    assert owner.ask(7)
    assert owner.sought == 7 and owner.is_asked
    owner.show(picture(8))
    assert owner.sought == 8 and not owner.is_asked
    assert owner.ask(9)
    owner.show(picture(9))
    assert owner.sought == 9 and not owner.is_asked, "of the same stamp"


def test_latent_may_be_requested_as_the_goal(owner):
    latent = fill(Tensor(), messages.tensor("latent", np.ones((2, 4), np.float32)))
    assert owner.request(SetGoal.Request(stamp=to_time(7), latent=latent))
    assert owner.sought == 7 and owner.is_asked


@pytest.mark.parametrize("side", ["height", "width"])
def test_image_without_height_or_width_clears_the_goal(owner, side):
    owner.show(picture(7))
    owner.show(picture(8, **{side: 0}))
    assert owner.sought is None


def test_rejected_goal_image_leaves_the_goal_and_its_origin(owner):
    owner.ask(7)
    owner.show(picture(8, encoding="32FC1"))
    assert owner.sought == 7 and owner.is_asked


def test_futures_in_progress_when_a_requested_goal_is_cleared_still_count_as_requested(owner):
    owner.ask(7)
    assert owner.request(SetGoal.Request())
    assert owner.sought is None and not owner.is_asked
    owner.sought = 7
    assert owner.is_asked
    owner.show(picture(7))
    assert not owner.is_asked, "now it is latched"


def test_futures_before_the_request_returns_count_as_requested(owner):
    assert owner.ask(7)
    assert owner.at_once


@pytest.mark.parametrize("newer", ["asked", "latched"])
def test_futures_in_progress_when_another_goal_arrives_still_count_as_requested(owner, newer):
    owner.ask(7)
    owner.ask(8) if newer == "asked" else owner.show(picture(8))
    assert owner.is_asked == (newer == "asked")
    owner.sought = 7
    assert owner.is_asked


def test_rejected_goal_requests_leave_the_earlier_request(owner):
    owner.refused = {8, 9}
    owner.ask(7)
    assert not owner.ask(8) and not owner.ask(9)
    assert owner.sought == 7 and owner.is_asked
    owner.sought = 9
    assert not owner.is_asked
