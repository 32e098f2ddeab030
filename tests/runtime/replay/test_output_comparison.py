"""Comparing two bags of outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.errors import SourceError
from jepa_runtime.recording import McapRecorder, messages
from jepa_runtime.replay.output_comparison import Comparison, compare
from jepa_runtime.ros_messages.definitions import build
from tests.errors import code
from tests.runtime.fakes import FakeModel
from tests.runtime.recording.test_black_box import BEGUN
from tests.runtime.recording.test_mcap_writer import STAMP_NS, result

LATENT, FUTURES, SURPRISE = (f"/world_model/{name}" for name in ("latent", "futures", "surprise"))


def outputs(path: Path, *stamps: int, node: str = "/world_model", **changes: Any) -> Path:
    """Write the outputs of some frames, with ``changes`` to their results."""
    model: Any = FakeModel()
    with McapRecorder(path) as recorder:
        for stamp_ns in stamps:
            changed = replace(result(), stamp_ns=stamp_ns, **changes)
            for name, type_name, fields in (
                ("latent", messages.LATENT_STATE, messages.latent_state(changed, model)),
                ("futures", messages.PREDICTED_FUTURES, messages.predicted_futures(changed, model)),
                ("surprise", messages.SURPRISE, messages.surprise(changed, model)),
            ):
                if fields is not None:
                    recorder.write_message(f"{node}/{name}", build(type_name, fields), stamp_ns)
    return path


def counts(result: Comparison) -> dict[str, tuple[int, int, int, int]]:
    return {
        topic.topic: (topic.equal, topic.different, topic.only_first, topic.only_second)
        for topic in result.topics
    }


def test_durations_and_frame_counters_are_not_compared(tmp_path: Path) -> None:
    first = outputs(tmp_path / "a.mcap", 1, 2)
    times = dict.fromkeys(result().timings_ms, 99.0)
    second = outputs(tmp_path / "b.mcap", 1, 2, timings_ms=times, sequence=77, deadline_missed=False)
    comparison = compare(first, second)
    assert comparison.same
    assert counts(comparison) == {topic: (2, 0, 0, 0) for topic in (LATENT, FUTURES, SURPRISE)}


def test_single_bit_is_a_difference(tmp_path: Path) -> None:
    latent = result().latent.copy()
    latent[1, 2] = np.nextafter(latent[1, 2], np.float32(np.inf))
    comparison = compare(
        outputs(tmp_path / "a.mcap", STAMP_NS), outputs(tmp_path / "b.mcap", STAMP_NS, latent=latent)
    )
    assert not comparison.same
    (topic,) = [topic for topic in comparison.topics if not topic.same]
    assert topic.topic == LATENT and topic.difference is not None
    assert topic.difference.stamp_ns == STAMP_NS
    assert topic.difference.fields == {"latent": pytest.approx(float(np.spacing(result().latent[1, 2])))}


def test_arrays_of_another_shape_or_not_finite_have_no_numeric_difference(tmp_path: Path) -> None:
    other = {"latent": result().latent[:1], "frame_id": "left"}
    comparison = compare(outputs(tmp_path / "a.mcap", 1), outputs(tmp_path / "b.mcap", 1, **other))
    difference = next(topic.difference for topic in comparison.topics if topic.topic == LATENT)
    assert difference is not None and difference.fields == {"header.frame_id": None, "latent": None}


def test_messages_in_only_one_bag_are_counted(tmp_path: Path) -> None:
    result = compare(outputs(tmp_path / "a.mcap", 1, 2, 3, 5), outputs(tmp_path / "b.mcap", 2, 4, 5, 6, 7))
    assert not result.same
    assert counts(result)[LATENT] == (2, 0, 2, 3)


def test_outputs_missing_from_the_first_bag_are_reported(tmp_path: Path) -> None:
    result = compare(outputs(tmp_path / "a.mcap", 1, surprise=None), outputs(tmp_path / "b.mcap", 1))
    assert counts(result)[SURPRISE] == (0, 0, 0, 1)
    assert not result.same


def test_event_only_in_the_second_bag_is_reported(tmp_path: Path) -> None:
    second, model = tmp_path / "b.mcap", FakeModel()
    with McapRecorder(second) as recorder:
        event = messages.surprise_event(BEGUN, result(), model)  # type: ignore[arg-type]
        recorder.write_message("/world_model/events", build(messages.SURPRISE_EVENT, event), 1)
    comparison = compare(outputs(tmp_path / "a.mcap", 1), second)
    assert counts(comparison)["/world_model/events"] == (0, 0, 0, 1)


def test_absent_energies_are_equal(tmp_path: Path) -> None:
    without = {"goal_stamp_ns": None, "current_energy": None}
    assert compare(
        outputs(tmp_path / "a.mcap", 1, **without), outputs(tmp_path / "b.mcap", 1, **without)
    ).same


def test_node_in_a_namespace_is_found(tmp_path: Path) -> None:
    second = outputs(tmp_path / "b.mcap", 1, node="/robot1/world_model")
    assert compare(outputs(tmp_path / "a.mcap", 1), second).same


def test_several_cameras_require_a_choice(tmp_path: Path) -> None:
    both = tmp_path / "b.mcap"
    model: Any = FakeModel()
    with McapRecorder(both) as recorder:
        for camera in ("left", "right"):
            message = build(messages.LATENT_STATE, messages.latent_state(result(), model))
            recorder.write_message(f"/world_model/{camera}/latent", message, 1)
    with pytest.raises(
        SourceError,
        match=r"several topics of jepa_msgs/msg/LatentState: .*left.*right",
        check=code("replay.ambiguous_topic"),
    ):
        compare(outputs(tmp_path / "a.mcap", 1), both)
