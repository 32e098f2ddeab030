"""Action sequences as users write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.candidates import default_candidates
from jepa_runtime.replay.action_sequences import ActionSequence, sequences
from tests.errors import code
from tests.runtime.fakes import HORIZON, manifest

# Both components together stay within the model's norm of 1.
numbers = st.floats(-0.6875, 0.6875, width=32)


def read(spec: str, horizon: int = HORIZON) -> list[ActionSequence]:
    return sequences(spec, manifest(), horizon=horizon, num_samples=5)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=HORIZON))
def test_action_file_round_trips_and_repeats_the_last_action(steps: list[tuple[float, float]]) -> None:
    (result,) = read(";".join(f"{x!r},{y!r}" for x, y in steps))
    expected = [*steps, *[steps[-1]] * (HORIZON - len(steps))]
    np.testing.assert_array_equal(result.actions, np.array(expected, np.float32))


@given(st.text())
def test_arbitrary_text_is_parsed_or_raises_an_error_with_the_reason(text: str) -> None:
    try:
        result = read(text)
    except JepaRuntimeError as error:
        assert str(error)
    else:
        assert all(sequence.actions.shape == (HORIZON, 2) for sequence in result)


def test_fan_equals_the_default_candidates_of_the_runtime() -> None:
    result = read("fan", horizon=2)
    assert [sequence.label for sequence in result[:2]] == ["fan (0,0)", "fan (1,0)"]
    np.testing.assert_array_equal(
        np.stack([sequence.actions for sequence in result]), default_candidates(manifest(), 5)[:, :2]
    )


def test_files_contain_one_sequence_or_several(tmp_path: Path) -> None:
    several = np.linspace(-0.5, 0.5, 12, dtype=np.float32).reshape(2, 3, 2)
    np.save(tmp_path / "plan.npy", several)
    (tmp_path / "plan.json").write_text(json.dumps(several.tolist()))
    (tmp_path / "plan.csv").write_text("0.1,0.2\n\n0.3,0.4\n")
    for name in ("plan.npy", "plan.json"):
        result = read(str(tmp_path / name))
        assert [sequence.label for sequence in result] == [f"{name} 0", f"{name} 1"]
        np.testing.assert_array_equal(np.stack([sequence.actions for sequence in result]), several)
    (one,) = read(str(tmp_path / "plan.csv"))
    assert one.label == "plan.csv"
    np.testing.assert_allclose(one.actions, [[0.1, 0.2], [0.3, 0.4], [0.3, 0.4]])


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("0.5", "replay.invalid_actions"),
        ("0,0;0,0;0,0;0,0", "replay.too_many_steps"),
        ("0,0;0,0.5;0.5,-1.5", "replay.actions_beyond_limits"),
        ("0.9,0.9", "replay.actions_beyond_limits"),
        ("0,nan", "replay.invalid_actions"),
        ("0,1e400", "replay.invalid_actions"),
        ("0,0;0", "replay.invalid_actions"),
        ("left,right", "replay.invalid_actions"),
        ("", "replay.invalid_actions"),
        ("missing.npy", "replay.unreadable_actions"),
    ],
)
def test_sequences_that_the_model_cannot_evaluate_raise(spec: str, reason: str) -> None:
    with pytest.raises(JepaRuntimeError, check=code(reason)) as caught:
        read(spec)
    assert spec in str(caught.value)


def test_sequences_beyond_the_limits_name_the_step() -> None:
    with pytest.raises(JepaRuntimeError) as caught:
        read("0,0;0,0.5;0.5,-1.5")
    assert "step 2 of sequence 0, [0.5, -1.5]" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npy", b"not an array", "unreadable_actions"),
        ("a.npy", b"", "unreadable_actions"),
        ("a.json", b"{", "unreadable_actions"),
        ("a.json", b'{"actions": 1}', "invalid_actions"),
        ("a.json", b"[]", "invalid_actions"),
        ("a.json", b"\xff\xfe", "unreadable_actions"),
        ("a.json", b"[" * 100_000, "unreadable_actions"),
        ("a.csv", b"linear.x,linear.y\n0,0\n", "unreadable_actions"),
        ("a.csv", b"", "invalid_actions"),
    ],
)
def test_files_without_actions_are_rejected(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JepaRuntimeError, check=code(f"replay.{reason}")) as caught:
        read(str(tmp_path / name))
    assert name in str(caught.value)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(JepaRuntimeError, check=code("replay.unreadable_actions")):
        read(str(tmp_path / "a.npy"))
