"""Inputs of a model in a bag, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.errors import SourceError
from jepa_runtime.replay.bag_inputs import BagInputs, Command, Goal, Topics
from jepa_runtime.sources.base import Frame
from tests.errors import code
from tests.runtime.bags import Entry, floats, image, twist, twist_stamped, write_bag
from tests.runtime.fakes import manifest

MS = 1_000_000
S = 1_000 * MS


def goal(stamp_ns: int, topic: str = "/goal_image") -> Entry:
    return image(stamp_ns, topic=topic)


def received(inputs: BagInputs) -> list[tuple[str, int]]:
    """Return type and log time of all inputs, in order."""
    return [(type(entry.content).__name__, entry.log_ns) for entry in inputs.read()]


def opened(path: Path, *entries: Entry, described: Any = None, **topics: str) -> BagInputs:
    return BagInputs(write_bag(path, entries), described or manifest(), Topics(**topics))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("gci"), st.integers(1, 6)), min_size=1, max_size=20))
def test_messages_arrive_in_order_with_images_last_at_their_time(
    tmp_path_factory: pytest.TempPathFactory, given_entries: list[tuple[str, int]]
) -> None:
    make = {"g": goal, "c": lambda stamp: twist(stamp, 0.0), "i": image}
    entries = [*(make[kind](stamp) for kind, stamp in given_entries), image(7), twist(7, 0.0)]
    inputs = opened(tmp_path_factory.mktemp("bag") / "bag.mcap", *entries)
    rank = {"Goal": 0, "Command": 1, "Frame": 2}
    result = received(inputs)
    assert len(result) == len(entries)
    assert result == sorted(result, key=lambda entry: (entry[1], rank[entry[0]]))
    inputs.close()


def test_messages_are_decoded_with_their_values(tmp_path: Path) -> None:
    described = manifest(low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0))
    entries = (goal(3), twist(4, 0.5, turn=0.25), image(5, value=9))
    goal_stamp, command, frame = (
        entry.content for entry in opened(tmp_path / "a.mcap", *entries, described=described).read()
    )
    assert isinstance(goal_stamp, Goal) and goal_stamp.stamp_ns == 3 and goal_stamp.image is not None
    assert isinstance(command, Command) and command.stamp_ns == 4
    np.testing.assert_array_equal(command.action, np.float32([0.5, 0.0, 0.25]))
    assert isinstance(frame, Frame) and (frame.stamp_ns, frame.sequence) == (5, 0)
    assert frame.image[0, 0].tolist() == [9, 9, 9]


def test_unrequested_images_are_counted_but_not_decoded(tmp_path: Path) -> None:
    log_ns, topic, type_name, fields = image(2)
    broken = (log_ns, topic, type_name, fields | {"encoding": "rgbx77"})
    inputs = opened(tmp_path / "a.mcap", image(1), broken, image(3, value=7), action="none")
    result = [entry.content for entry in inputs.read(lambda index: index != 1)]
    assert [frame.sequence for frame in result if isinstance(frame, Frame)] == [0, 2]
    assert inputs.frame(2).image[0, 0, 0] == 7
    with pytest.raises(SourceError, check=code("source.image_invalid")):
        list(inputs.read())
    with pytest.raises(SourceError, check=code("replay.no_such_image")):
        inputs.frame(3)


def test_stamps_are_those_of_the_headers_or_else_of_the_recording(tmp_path: Path) -> None:
    late = (S + 7, *image(S + 5)[1:])
    unstamped = (S + 9, *image(0)[1:])
    inputs = opened(tmp_path / "a.mcap", image(S), late, unstamped, action="none")
    assert inputs.stamps_ns().tolist() == [S, S + 5, S + 9]
    frames = [entry.content for entry in inputs.read()]
    assert [frame.stamp_ns for frame in frames if isinstance(frame, Frame)] == [S, S + 5, S + 9]
    assert inputs.count == 3


def test_command_stamp_is_used_instead_of_its_arrival_time(tmp_path: Path) -> None:
    inputs = opened(tmp_path / "a.mcap", image(S), twist_stamped(S + 20, S + 5, 1.0))
    (command,) = (entry.content for entry in inputs.read() if isinstance(entry.content, Command))
    assert command.stamp_ns == S + 5


def test_other_commands_are_listed_with_their_fields(tmp_path: Path) -> None:
    inputs = opened(tmp_path / "a.mcap", image(1), floats(2, 0.1, 0.2, 0.3), action="effort:data[2],data[0]")
    *_, command = (entry.content for entry in inputs.read())
    assert isinstance(command, Command)
    np.testing.assert_allclose(command.action, [0.3, 0.1], rtol=1e-6)


def test_model_without_actions_needs_no_commands(tmp_path: Path) -> None:
    described = manifest(low=(0.0,), high=(0.0,))
    inputs = opened(tmp_path / "a.mcap", image(1), described=described)
    assert received(inputs) == [("Frame", 1)] and inputs.commands() is None


def test_several_topics_of_a_kind_require_a_choice(tmp_path: Path) -> None:
    with pytest.raises(SourceError, check=code("replay.ambiguous_topic")):
        opened(
            tmp_path / "a.mcap", image(1), goal(1, "/a/goal_image"), goal(1, "/b/goal_image"), action="none"
        )
    entries = (image(1), goal(2, "/a/goal_image"), goal(3, "/b/goal_image"))
    inputs = opened(tmp_path / "b.mcap", *entries, action="none", goal="/b/goal_image")
    assert received(inputs) == [("Frame", 1), ("Goal", 3)]
    assert received(opened(tmp_path / "c.mcap", *entries, action="none", goal="none")) == [("Frame", 1)]
