"""The cross-entropy method finds the lowest cost and never exceeds the limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig

HORIZON, SAMPLES = 4, 64


def limits(
    low: tuple[float, ...] = (-1.0, -1.0), high: tuple[float, ...] = (1.0, 1.0), norm: float | None = None
) -> ActionLimits:
    return ActionLimits(low=np.float32(low), high=np.float32(high), max_norm=norm)


def search(seed: int = 0, *, within: ActionLimits | None = None, **settings_: float) -> CEM:
    config = CEMConfig(**({"num_samples": SAMPLES, "horizon": HORIZON, "topk": 8} | settings_))
    return CEM(config, within or limits(), seed=seed)


def distance_to(target: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.square(actions - target).sum(axis=(1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_cem_finds_the_optimum_of_a_quadratic(seed: int) -> None:
    target = np.random.default_rng(seed).uniform(-0.7, 0.7, (HORIZON, 2)).astype(np.float32)
    cem = search(seed, num_samples=256, topk=16, min_std=0.01)
    for _ in range(25):
        cem.tell(distance_to(target, cem.ask()))
    np.testing.assert_allclose(cem.mean, target, atol=0.05)


def test_cem_approaches_an_unreachable_optimum_as_far_as_the_norm_allows() -> None:
    cem = search(within=limits(norm=0.5), num_samples=256, topk=16, min_std=0.01)
    for _ in range(25):
        cem.tell(distance_to(np.float32([3.0, 4.0]), cem.ask()))
    np.testing.assert_allclose(cem.mean, np.tile([0.3, 0.4], (HORIZON, 1)), atol=0.03)


@settings(max_examples=60)
@given(
    box=st.lists(st.tuples(st.floats(-3, 0), st.floats(0.1, 3)), min_size=1, max_size=4),
    norm=st.none() | st.floats(0.1, 4),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_candidates_and_plan_respect_box_and_norm_for_any_costs(
    box: list[tuple[float, float]], norm: float | None, seed: int, data: st.DataObject
) -> None:
    low, high = zip(*box, strict=True)
    within = limits(low, high, norm)
    cem = search(seed, within=within, num_samples=12, topk=3)
    costs = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=12, max_size=12)
    for _ in range(3):
        actions = cem.ask()
        assert actions.shape == (12, HORIZON, len(low)) and actions.dtype == np.float32
        for proposed in (actions, cem.mean):
            assert (proposed >= within.low - 1e-6).all() and (proposed <= within.high + 1e-6).all()
            if norm is not None:
                assert np.linalg.norm(proposed, axis=-1).max() <= norm * (1 + 1e-5)
        cem.tell(np.array(data.draw(costs)))
        cem.shift()


def test_plan_is_always_among_the_candidates() -> None:
    cem = search()
    for _ in range(5):
        plan = cem.mean.copy()
        actions = cem.ask()
        np.testing.assert_allclose(actions[0], plan, atol=1e-6)
        cem.tell(distance_to(np.float32([0.5, -0.5]), actions))


def test_fraction_of_the_candidates_has_a_constant_action() -> None:
    actions = search(constant_fraction=0.25).ask()
    constant = (actions == actions[:, :1]).all(axis=(1, 2))
    assert constant[-SAMPLES // 4 :].all()
    # The plan is also constant before the first costs.
    assert constant.sum() == SAMPLES // 4 + 1


def test_costs_that_are_not_finite_count_as_worst() -> None:
    cem = search()
    actions = cem.ask()
    costs = np.full(SAMPLES, np.nan)
    costs[10:18] = np.arange(8) * 1e9
    cem.tell(costs)
    np.testing.assert_allclose(cem.mean, actions[10:18].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_candidate_with_a_non_finite_cost_is_never_an_elite(nothing: float) -> None:
    cem = search()
    actions = cem.ask()
    costs = np.full(SAMPLES, nothing)
    costs[10:12] = 1, 2
    cem.tell(costs)
    np.testing.assert_allclose(cem.mean, actions[10:12].mean(axis=0), atol=1e-6)


def test_plan_is_unchanged_when_no_cost_is_finite() -> None:
    cem = search()
    cem.tell(distance_to(np.float32([0.5, -0.5]), cem.ask()))
    plan = cem.mean.copy()
    cem.ask()
    cem.tell(np.full(SAMPLES, np.nan))
    np.testing.assert_array_equal(cem.mean, plan)


def test_shift_drops_the_executed_step_and_repeats_the_last_action() -> None:
    cem = search()
    cem.tell(distance_to(np.linspace(-1, 1, HORIZON * 2).reshape(HORIZON, 2), cem.ask()))
    plan = cem.mean.copy()
    cem.shift()
    np.testing.assert_array_equal(cem.mean, plan[[1, 2, 3, 3]])
    cem.shift(10)
    np.testing.assert_array_equal(cem.mean, plan[[3, 3, 3, 3]])


def test_shift_widens_the_search() -> None:
    cem = search(constant_fraction=0.0)
    for _ in range(15):
        cem.tell(distance_to(np.zeros(2, np.float32), cem.ask()))
    narrow = cem.ask()[1:].std()
    cem.shift()
    assert cem.ask()[1:].std() > 2 * narrow


def test_reset_clears_the_plan() -> None:
    cem = search()
    cem.tell(distance_to(np.ones(2, np.float32), cem.ask()))
    assert cem.mean.any()
    cem.reset()
    assert not cem.mean.any()


def run(seed: int) -> np.ndarray:
    cem = search(seed)
    for _ in range(4):
        cem.tell(distance_to(np.float32([0.2, 0.4]), cem.ask()))
    return cem.mean


def test_equal_seeds_search_equally_and_others_do_not() -> None:
    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


@pytest.mark.parametrize("shape", [(), (SAMPLES - 1,), (SAMPLES, 1), (SAMPLES, HORIZON)])
def test_costs_of_another_shape_are_rejected(shape: tuple[int, ...]) -> None:
    cem = search()
    cem.ask()
    with pytest.raises(ValueError, match="one cost for each of the 64 candidates"):
        cem.tell(np.zeros(shape))


@pytest.mark.parametrize("spoil", ["before ask", "twice", "after shift"])
def test_costs_without_candidates_are_rejected(spoil: str) -> None:
    cem = search()
    if spoil != "before ask":
        cem.ask()
    if spoil == "twice":
        cem.tell(np.zeros(SAMPLES))
    if spoil == "after shift":
        cem.shift()
    with pytest.raises(ValueError, match="last ask"):
        cem.tell(np.zeros(SAMPLES))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"topk": 0}, "topk"), ({"topk": 65}, "between 1 and num_samples"), ({"horizon": 0}, "horizon")],
)
def test_invalid_settings_are_rejected(wrong: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CEMConfig(**wrong)


def test_momentum_retains_a_fraction_of_the_old_mean_and_spread() -> None:
    first = {"constant_fraction": 0.0, "min_std": 0.0, "init_std": 0.1}
    plain, heavy = search(**first), search(**first, momentum_mean=0.25, momentum_std=0.75)
    for cem in (plain, heavy):
        costs = distance_to(np.float32([0.5, 0.5]), candidates := cem.ask())
        cem.tell(costs)
    # Both began at a mean of 0 and a spread of 0.1, and draw the same noise.
    np.testing.assert_allclose(heavy.mean, 0.75 * plain.mean, rtol=1e-5)
    spread = candidates[np.argsort(costs)[:8]].std(axis=0)
    narrow, wide = ((cem.ask()[1:] - cem.mean).std(axis=0) for cem in (plain, heavy))
    np.testing.assert_allclose(wide / narrow, (0.25 * spread + 0.75 * 0.1) / spread, rtol=1e-3)


def test_plan_with_momentum_starts_from_the_robot_state() -> None:
    slow = ActionLimits(low=np.float32([-1]), high=np.float32([1]), max_change=np.float32([0.1]))
    cem = search(within=slow, momentum_mean=0.5)
    cem.tell(distance_to(np.float32([0.9]), cem.ask()))
    cem.executed = np.float32([-0.9])
    cem.tell(distance_to(np.float32([0.9]), cem.ask()))
    assert abs(cem.mean[0, 0] + 0.9) <= 0.1 + 1e-6


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"momentum_mean": 1.0}, "momentum_mean must be at least 0 and below 1"),
        ({"momentum_std": -0.1}, "std"),
    ],
)
def test_momentum_of_one_is_rejected(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CEMConfig(**wrong)
