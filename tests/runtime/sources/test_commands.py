"""Commands over time, and their extraction from a bag."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.errors import SourceError
from jepa_runtime.recording import messages
from jepa_runtime.ros_messages.definitions import build
from jepa_runtime.serving.history import History
from jepa_runtime.sources.bag import BagSource
from jepa_runtime.sources.commands import Commands
from jepa_runtime.sources.factory import open_source
from jepa_runtime.sources.message_fields import MessageFields
from tests.errors import code
from tests.runtime.bags import Entry, floats, image, joints, twist, twist_stamped, vector, write_bag

MS = 1_000_000
S = 1_000 * MS


def commands(stamps: list[int], values: list[float], **more: float) -> Commands:
    return Commands(("v",), ("m/s",), np.array(stamps), np.array(values)[:, None], **more)


def read(path: Path, action: str, **more: float) -> list[list[float] | None]:
    """Return the command at each frame of a bag."""
    source = BagSource(path, action=action, **more)
    return [None if source.command is None else source.command.tolist() for _ in source.frames()]


# ------------------------------------------------------------------ over time


@given(
    st.lists(st.tuples(st.integers(0, 500), st.floats(-5, 5, width=32)), min_size=1, max_size=30),
    st.integers(0, 600),
    st.integers(1, 400),
)
def test_mean_command_equals_the_mean_action_of_the_history(
    given_commands: list[tuple[int, float]], start: int, length: int
) -> None:
    ordered = sorted(given_commands, key=lambda entry: entry[0])
    history = History(1, 10, action_size=1, tolerance_ns=1, max_gap_ns=10)
    for stamp, value in ordered:
        history.add_action(stamp, np.array([value]))
    series = commands([stamp for stamp, _ in ordered], [value for _, value in ordered])
    expected = history.mean_action(start, start + length)
    if expected is None:
        assert not series.known(np.array([start]))[0]
    else:
        result = series.mean(np.array([start]), np.array([start + length]))[0]
        np.testing.assert_allclose(result, expected, atol=1e-5)


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=20).map(sorted),
    st.integers(-100, 4000),
    st.integers(1, 1000),
)
def test_last_command_before_a_moment_is_in_effect_unless_too_old(
    stamps: list[int], moment: int, max_age: int
) -> None:
    series = commands(stamps, [float(index) for index in range(len(stamps))], max_age_s=max_age / 1e9)
    before = [index for index, stamp in enumerate(stamps) if stamp <= moment]
    result = series.at(moment)
    if not before or moment - stamps[before[-1]] > max_age:
        assert result is None
    else:
        assert result is not None and result[0] == before[-1]


@pytest.mark.parametrize(
    ("stamps", "values", "complaint"),
    [
        ([], [], "there are no commands"),
        ([0, 1, 2], [0.0, np.nan, np.inf], "2 of 3 commands are not finite, the first is 1"),
        ([0, 2, 1], [0.0, 0.0, 0.0], "decrease after command 1 of 3"),
        ([0, 1], [0.0], r"must be \[2, 1\], got \[1, 1\]"),
    ],
)
def test_invalid_command_series_is_rejected(stamps: list[int], values: list[float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        commands(stamps, values)


@pytest.mark.parametrize("age", [0.0, -1.0, np.nan, np.inf])
def test_invalid_maximum_age_is_rejected(age: float) -> None:
    with pytest.raises(ValueError, match="max_age_s must be in"):
        commands([0], [0.0], max_age_s=age)


# ------------------------------------------------------------------ from a bag


def test_bag_yields_the_command_in_effect_for_each_frame(tmp_path: Path) -> None:
    path = write_bag(
        tmp_path / "bag.mcap",
        [
            *(image(S + index * 100 * MS) for index in range(4)),
            *(
                twist(S + stamp * MS, value, turn=-value)
                for stamp, value in ((50, 1.0), (100, 2.0), (250, 3.0))
            ),
        ],
    )
    source = open_source(f"{path}?action=/cmd_vel:linear.x,angular.z")
    assert source.command is None
    executed = [source.command for _ in source.frames()]
    assert executed[0] is None
    assert [command.tolist() for command in executed[1:]] == [[2, -2], [2, -2], [3, -3]]
    assert executed[1].dtype == np.float32
    assert isinstance(source, BagSource) and source.commands is not None
    assert source.commands.names == ("linear.x", "angular.z")
    assert source.commands.units == ("m/s", "rad/s")


def test_unit_is_reported_only_for_fields_of_known_meaning() -> None:
    odometry = SimpleNamespace(position=SimpleNamespace(x=1.0), linear=SimpleNamespace(x=2.0))
    fields = ("position.x", "linear.x")
    assert MessageFields("some_msgs/msg/Odometry", fields, odometry).units == ("unknown", "unknown")


def test_commands_without_an_action_option_are_unknown(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag.mcap", [image(S), twist(S, 1.0)])
    source = BagSource(path)
    assert [source.command for _ in source.frames()] == [None]


def test_header_stamp_is_used_instead_of_the_arrival_time(tmp_path: Path) -> None:
    path = write_bag(
        tmp_path / "bag.mcap", [image(S), image(S + 10 * MS), twist_stamped(S + 20 * MS, S + 5 * MS, 1.0)]
    )
    assert read(path, "cmd_vel:linear.x") == [None, [1.0]]


def test_outdated_command_is_no_longer_in_effect(tmp_path: Path) -> None:
    path = write_bag(
        tmp_path / "bag.mcap", [twist(S, 1.0), *(image(S + ms * MS) for ms in (0, 500, 501, 900))]
    )
    assert read(path, "/cmd_vel:linear.x") == [[1.0], [1.0], None, None]
    source = open_source(f"{path}?action=/cmd_vel:linear.x&max_age_s=0.6")
    assert [source.command is not None for _ in source.frames()] == [True, True, True, False]


def test_images_stamped_by_another_clock_than_the_commands_are_an_error(
    tmp_path: Path,
) -> None:
    since_boot = [(2000 * S, *image(S)[1:]), (2001 * S, *image(2 * S)[1:])]
    path = write_bag(tmp_path / "bag.mcap", [*since_boot, twist(2000 * S, 1.0), twist(2001 * S, 2.0)])
    with pytest.raises(
        SourceError,
        match=r"images until 2\.000 s, commands from 2000\.000 s .*the same clock",
        check=code("source.commands_unmatched"),
    ):
        read(path, "cmd_vel:linear.x")


@pytest.mark.parametrize(
    ("entry", "action", "names", "values"),
    [
        (
            twist(S, 1.0, turn=2.0),
            "/cmd_vel",
            "linear.x linear.y linear.z angular.x angular.y angular.z",
            "100002",
        ),
        (floats(S, 1, 2), "/effort", "data[0] data[1]", "12"),
        (floats(S, 1, 2, 3), "/effort:data[2],data[0]", "data[2] data[0]", "31"),
        (joints(S, hip=1, knee=2), "/joint_states", "position.hip position.knee", "12"),
        (
            joints(S, hip=0.1, knee=0.2),
            "/joint_states:velocity.knee,position.hip",
            "velocity.knee position.hip",
            "20",
        ),
        (joints(S, hip=0.1, knee=0.2), "/joint_states:velocity", "velocity.hip velocity.knee", "12"),
    ],
)
def test_action_fields_are_selected(
    tmp_path: Path, entry: Entry, action: str, names: str, values: str
) -> None:
    source = BagSource(write_bag(tmp_path / "bag.mcap", [image(S), entry]), action=action)
    assert source.commands is not None
    assert source.commands.names == tuple(names.split())
    np.testing.assert_allclose(source.commands.values[0].round(), [float(value) for value in values])


def test_joints_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    path = write_bag(
        tmp_path / "bag.mcap",
        [image(S), image(S + 2), joints(S, hip=1, knee=2), joints(S + 1, knee=20, hip=10)],
    )
    assert read(path, "/joint_states") == [[1, 2], [10, 20]]


def test_jepa_planner_command_takes_effect_at_its_own_stamp(
    tmp_path: Path,
) -> None:
    status = {
        "header": messages.header(S, "front"),
        "goal_stamp": messages.time_message(0),
        "state": 1,
        "energy": 0.0,
        "e2e_ms": 0.0,
        "compensated_ms": 0.0,
        "command": {"linear": vector(3.0), "angular": vector()},
    }
    path = write_bag(
        tmp_path / "bag.mcap",
        [image(S), image(S + 2), (S + 1, "/planner/status", "jepa_msgs/msg/PlannerStatus", status)],
    )
    assert read(path, "/planner/status:linear.x") == [None, [3.0]]


@pytest.mark.parametrize(
    ("entries", "action", "complaint"),
    [
        ([], "/cmd_vel", "no commands on topic /cmd_vel; its topics: /image (sensor_msgs/msg/Image)"),
        ([], "/image", "sensor_msgs/msg/Image has no default fields"),
        ([], "/image:encoding", "has no number encoding, only str"),
        ([twist(S, 1)], "/cmd_vel:linear.w", "has no linear.w: the fields at w are x, y, z"),
        ([twist(S, 1)], "/cmd_vel:linear", "has no number linear"),
        ([twist(S, 1)], "/cmd_vel:linear..x", "'linear..x' is not a field: write it as linear.x or data[2]"),
        ([twist(S, 1)], "/cmd_vel:linear.x,linear.x", "one or more distinct fields are needed"),
        ([twist(S, np.nan)], "/cmd_vel:linear.x", "topic /cmd_vel: 1 of 1 commands are not finite"),
        ([floats(S)], "/effort", "one or more distinct fields are needed, got none"),
        ([floats(S, 1, 2)], "/effort:data[2]", "has no data[2]: it has 2 elements there"),
        (
            [floats(S, 1, 2), floats(S + 1, 1, 2, 3)],
            "/effort",
            "command 1 on /effort: data has 3 numbers, in the first message 2",
        ),
        ([joints(S, hip=1)], "/joint_states:position.toe", "no joint toe; joints: hip"),
        ([joints(S, hip=1)], "/joint_states:effort.hip", "joint hip has no effort"),
        (
            [joints(S, hip=1), joints(S + 1, knee=1)],
            "/joint_states",
            "command 1 on /joint_states: no joint",
        ),
        (
            [twist_stamped(S, S + 5, 1), twist_stamped(S + 1, S, 1)],
            "/cmd_vel:linear.x",
            "the stamps of commands decrease after command 0",
        ),
    ],
)
def test_invalid_action_error_lists_the_available_ones(
    tmp_path: Path, entries: list[Entry], action: str, complaint: str
) -> None:
    path = write_bag(tmp_path / "bag.mcap", [image(S), *entries])
    expected = (
        "source.topic_not_found" if complaint.startswith("no commands on") else "source.command_invalid"
    )
    with pytest.raises(SourceError, check=code(expected)) as caught:
        BagSource(path, action=action)
    assert str(path) in str(caught.value) and complaint in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("max_age_s=x", "max_age_s"),
        ("action=/cmd_vel&max_age_s=-1", "max_age_s"),
        ("max_age_s=nan", "max_age_s"),
        ("axtion=/cmd_vel", "axtion"),
    ],
)
def test_invalid_bag_options_are_named(tmp_path: Path, options: str, named: str) -> None:
    path = write_bag(tmp_path / "bag.mcap", [image(S), twist(S, 1.0)])
    with pytest.raises(SourceError, check=code("source.option_invalid")) as caught:
        open_source(f"{path}?{options}")
    assert named in str(caught.value).removeprefix(f"{path}?{options}")


@given(st.text("linear.xyzagu[]0129data ", max_size=12))
def test_any_text_is_a_field_or_a_coded_error(field: str) -> None:
    _, _, type_name, fields = twist(S, 1.0)
    message = build(type_name, fields)
    try:
        reader = MessageFields(type_name, (field,), message)
    except ValueError as error:
        assert str(error)
    else:
        assert len(reader.read(message)) == len(reader.names)
