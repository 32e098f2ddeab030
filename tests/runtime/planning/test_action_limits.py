"""Action limits: results are always allowed, and allowed actions are unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jepa_runtime.planning.action_limits import ActionLimits

HORIZON = 4


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@st.composite
def limits(draw: st.DrawFn) -> ActionLimits:
    """Return boxes that may or may not contain zero, with any of the other limits."""
    size = draw(st.integers(1, 4))
    number = st.floats(-3, 3, width=32)
    low = f32(*draw(st.lists(number, min_size=size, max_size=size)))
    width = f32(*draw(st.lists(st.floats(0, 4, width=32), min_size=size, max_size=size)))
    components = draw(st.none() | st.sets(st.integers(0, size - 1), min_size=1).map(tuple))
    least = np.clip(np.zeros(size), low, low + width)
    norm = float(np.linalg.norm(least if components is None else least[list(components)]))
    return ActionLimits(
        low=low,
        high=low + width,
        max_norm=draw(st.none() | st.floats(0, 4).map(lambda more: norm + more)),
        norm_components=components,
        max_change=draw(
            st.none()
            | st.lists(st.floats(0.015625, 2, width=32), min_size=size, max_size=size).map(
                lambda change: f32(*change)
            )
        ),
    )


def sequences(size: int) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float32, (3, HORIZON, size), elements=st.floats(-10, 10, width=32))


def assert_allowed(actions: np.ndarray, within: ActionLimits, previous: np.ndarray | None) -> None:
    assert (actions >= within.low).all() and (actions <= within.high).all()
    if within.max_norm is not None:
        limited = actions if within.norm_components is None else actions[..., list(within.norm_components)]
        # The square of less than 1e-18 loses digits in single precision.
        assert np.linalg.norm(limited, axis=-1).max() <= within.max_norm * (1 + 1e-6) + 1e-18
    if within.max_change is not None:
        first = actions[:, :0] if previous is None else np.tile(previous, (len(actions), 1, 1))
        changes = np.abs(np.diff(np.concatenate([first, actions], axis=1), axis=1))
        assert (changes <= within.max_change + 1e-5).all()


@settings(max_examples=300)
@given(data=st.data(), within=limits(), after=st.booleans())
def test_projected_actions_are_allowed_and_projecting_again_is_exact(
    data: st.DataObject, within: ActionLimits, after: bool
) -> None:
    size = len(within.low)
    previous = within.clip(data.draw(sequences(size)))[0, 0] if after else None
    given_ = data.draw(sequences(size))
    stored = given_.copy()

    actions = within.clip(given_, previous)

    assert actions.shape == given_.shape and actions.dtype == np.float32
    assert_allowed(actions, within, previous)
    np.testing.assert_array_equal(within.clip(actions, previous), actions)
    alone = [within.clip(each, previous) for each in given_]
    np.testing.assert_allclose(alone, actions, rtol=1e-5, atol=1e-5, err_msg="alike alone and among others")
    np.testing.assert_array_equal(given_, stored)


@settings(max_examples=100)
@given(data=st.data(), within=limits(), share=st.floats(0, 1, width=32))
def test_interpolation_between_allowed_sequences_is_allowed(
    data: st.DataObject, within: ActionLimits, share: float
) -> None:
    """The mean of elites needs no clipping."""
    one, other = (within.clip(data.draw(sequences(len(within.low)))) for _ in range(2))
    between = (share * one + (1 - share) * other).astype(np.float32)
    np.testing.assert_allclose(within.clip(between), between, rtol=1e-5, atol=1e-5)


@settings(max_examples=100)
@given(data=st.data(), within=limits(), share=st.floats(0, 1, width=32))
def test_partial_step_allows_a_proportional_change(
    data: st.DataObject, within: ActionLimits, share: float
) -> None:
    before, expected = within.clip(data.draw(sequences(len(within.low))))[0, :2]
    approached = within.approach(expected, before, share)
    assert_allowed(approached[None, None], within, None)
    if within.max_change is None:
        np.testing.assert_array_equal(approached, expected)
    else:
        assert (np.abs(approached - before) <= share * within.max_change + 1e-5).all()


def test_vector_beyond_the_norm_keeps_its_direction() -> None:
    within = ActionLimits(low=f32(-9, -9), high=f32(9, 9), max_norm=0.5)
    np.testing.assert_allclose(within.clip(f32(3, 4)), f32(0.3, 0.4), rtol=1e-6)


def test_only_selected_components_share_a_norm() -> None:
    within = ActionLimits(low=f32(-9, -9, -9), high=f32(9, 9, 9), max_norm=1.0, norm_components=(0, 2))
    np.testing.assert_allclose(within.clip(f32(3, 7, 4)), f32(0.6, 7, 0.8), rtol=1e-6)


def test_robot_that_cannot_stop_slows_down_as_far_as_its_box_allows() -> None:
    within = ActionLimits(low=f32(0.6, -2), high=f32(2, 2), max_norm=1.0)
    slowed = within.clip(f32(2, 2))
    assert slowed[0] >= np.float32(0.6)
    assert np.linalg.norm(slowed) == pytest.approx(1.0, rel=1e-5)


def test_smallest_action_slightly_above_the_norm_by_rounding_is_returned() -> None:
    least = f32(0.6, 0.8, 0.0)
    within = ActionLimits(low=f32(0.6, 0.8, -1), high=f32(2, 2, 1), max_norm=1.0)
    np.testing.assert_array_equal(within.clip(f32(0.6, 0.8, 1)), least)


def test_changes_are_limited_relative_to_the_last_executed_action() -> None:
    within = ActionLimits(low=f32(-1), high=f32(1), max_change=f32(0.25))
    expected = np.ones((1, 4, 1), np.float32)
    np.testing.assert_allclose(within.clip(expected, f32(0))[0, :, 0], [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(within.clip(expected)[0, :, 0], [1, 1, 1, 1])


def test_component_with_one_value_never_changes() -> None:
    low, high = f32(-1, 0.5), f32(1, 0.5)
    within = ActionLimits(low=low, high=high, max_change=f32(0.25) * (high - low))
    np.testing.assert_allclose(within.clip(np.ones((1, 1, 2), np.float32), f32(0, 0.5))[0, 0], [0.5, 0.5])


def test_last_action_beyond_the_limits_is_projected() -> None:
    within = ActionLimits(low=f32(-1), high=f32(1), max_change=f32(0.25))
    np.testing.assert_allclose(within.clip(np.zeros((1, 2, 1), np.float32), f32(8))[0, :, 0], [0.75, 0.5])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"low": f32(1, 0)}, "low must not exceed high"),
        ({"low": f32(0)}, "low must not exceed high"),
        ({"low": f32(-np.inf, 0), "max_norm": 1.0}, "low and high must be finite"),
        ({"max_change": f32(0.1)}, "max_change must be 2 numbers above 0"),
        ({"max_change": f32(0.1, 0)}, "max_change must be 2 numbers above 0"),
        ({"max_norm": 1.0, "norm_components": (2,)}, r"norm_components must be within 0 … 1"),
        ({"low": f32(0.5, -1), "max_norm": 0.4}, r"smallest action in the box \(0.5\), got 0.4"),
        ({"max_norm": -0.1}, "max_norm must be at least"),
        ({"max_norm": float("nan")}, "max_norm must be at least"),
    ],
)
def test_contradictory_limits_are_rejected(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ActionLimits(**({"low": f32(-1, -1), "high": f32(0.9, 0.9)} | wrong))


@given(st.data())
def test_projected_action_is_not_forbidden(data: st.DataObject) -> None:
    within = data.draw(limits())
    (action, previous), *_ = data.draw(sequences(len(within.low)))[:, :2]
    before = within.clip(previous[None])[0]
    assert within.forbids(within.clip(action[None], before)[0], before) == ""


@pytest.mark.parametrize(
    ("action", "previous", "why"),
    [
        (f32(1.0, 0.1), None, "beyond the limits; the nearest allowed is [0.5"),
        (f32(0.5, 0.5), None, "beyond the limits"),
        (f32(0.5, 0.0), f32(0.0, 0.0), "the nearest allowed is [0.25"),
        (f32(np.nan, 0.0), None, "is not finite"),
        (f32(0.0, np.inf), None, "is not finite"),
    ],
)
def test_action_beyond_box_norm_or_change_is_forbidden_with_the_reason(
    action: np.ndarray, previous: np.ndarray | None, why: str
) -> None:
    within = ActionLimits(low=f32(-0.5, -1), high=f32(0.5, 1), max_norm=0.6, max_change=f32(0.25, 0.25))
    assert why in within.forbids(action, previous)


@pytest.mark.parametrize(
    ("action", "effort"),
    [([0.0, 0.0], 0.0), ([0.5, 0.0], 0.25), ([-1.0, 0.0], 0.5), ([0.0, 1.5], 0.75), ([2.0, 2.0], 2**0.5)],
)
def test_effort_is_the_fraction_of_the_limits(action: list[float], effort: float) -> None:
    limits = ActionLimits(
        low=np.array([-2.0, 0.0], np.float32), high=np.array([1.0, 2.0], np.float32), max_norm=2.0
    )
    assert limits.effort(np.array(action, np.float32)) == pytest.approx(effort)


def test_component_fixed_at_zero_has_no_effort() -> None:
    limits = ActionLimits(low=np.zeros(2, np.float32), high=np.array([0.0, 2.0], np.float32))
    assert limits.effort(np.array([0.0, 1.0], np.float32)) == 0.5
