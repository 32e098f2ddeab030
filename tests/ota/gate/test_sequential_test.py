"""The paired sequential test: its error rates are as stated, and it reports indecision."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.errors import UpdateError
from jepa_runtime.ota.gate import sequential_test
from jepa_runtime.ota.gate.sequential_test import PairedTest, Verdict, alpha_after, half_width, score
from jepa_runtime.ota.release import Budgets
from jepa_runtime.util.proportions import wilson
from tests.errors import code
from tests.scripts import load

power = load("gate_power").power
CURRENT, MARGIN, ALPHA = 0.2, 0.05, 0.05
MEASURED = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "gate.json"


def quick(**changes: float) -> PairedTest:
    settings = {"margin": MARGIN, "alpha_accept": ALPHA, "alpha_refuse": ALPHA} | changes
    sizes = {"min_frames": 200, "max_frames": 2000, "block_frames": 10}
    return PairedTest(**settings, **sizes)


def feed(test: PairedTest, draw: Callable[[], tuple[float, float]]) -> Verdict:
    while (verdict := test.add(*draw())) is Verdict.CONTINUE:
        pass
    return verdict


def test_score_is_the_unpredicted_fraction_of_the_change() -> None:
    assert score(0.0, 3.0) == 0.0
    assert score(3.0, 3.0) == 0.5
    assert score(9.0, 3.0) == 0.75


def test_score_of_constant_latents_equals_that_of_no_prediction() -> None:
    assert score(0.0, 0.0) == 0.5


@given(
    # Not so small that scaling underflows to 0.
    st.just(0.0) | st.floats(1e-300, 1e6),
    st.just(0.0) | st.floats(1e-300, 1e6),
    st.floats(1e-3, 1e3),
)
def test_score_is_bounded_and_scale_invariant(error: float, change: float, scale: float) -> None:
    assert 0 <= score(error, change) <= 1
    assert score(scale * error, scale * change) == pytest.approx(score(error, change), abs=1e-6)


def test_equal_models_are_accepted_at_the_first_look() -> None:
    test = quick()
    random = np.random.default_rng(0)
    assert feed(test, lambda: (value := float(random.uniform(0.1, 0.3)), value)) is Verdict.ACCEPT
    assert test.summary().frames == 200 and test.has_evaluated


def test_clearly_worse_candidate_is_rejected_at_the_first_look() -> None:
    test = quick()
    random = np.random.default_rng(0)
    assert feed(test, lambda: (0.2, float(random.uniform(0.25, 0.35)))) is Verdict.REFUSE
    assert (test.summary().frames, test.reason) == (200, "the candidate was shown to be worse")
    assert test.summary().current == pytest.approx(0.2)


def test_candidate_on_the_margin_is_rejected_at_the_end_as_not_proven_equal() -> None:
    test = quick(alpha_accept=1e-6, alpha_refuse=1e-6)
    random = np.random.default_rng(1)
    assert feed(test, lambda: (0.2, 0.21 + 0.1 * float(random.standard_normal()))) is Verdict.REFUSE
    assert (test.summary().frames, test.reason) == (2000, "the candidate was not shown to be as good")


def test_sequential_test_decides_nothing_below_the_minimum_frames() -> None:
    test = quick()
    verdicts = {test.add(0.2, 0.9) for _ in range(199)}
    assert verdicts == {Verdict.CONTINUE} and not test.has_evaluated


def test_single_non_finite_prediction_rejects_the_candidate() -> None:
    test = quick()
    assert test.add(0.2, math.nan) is Verdict.REFUSE
    assert test.reason == "the candidate predicted NaN or infinity"


def test_failing_active_model_ends_the_comparison() -> None:
    with pytest.raises(UpdateError, check=code("gate.active_not_finite")):
        quick().add(math.nan, 0.2)


def test_verdict_is_final() -> None:
    test = quick()
    assert feed(test, lambda: (0.2, 0.9)) is Verdict.REFUSE
    decided = test.summary()
    assert test.add(0.9, 0.0) is Verdict.REFUSE
    assert test.summary() == decided


def test_fault_on_one_frame_in_twenty_is_detected_in_the_mean() -> None:
    random = np.random.default_rng(2)

    def draw() -> tuple[float, float]:
        return 0.2, 1.0 if random.uniform() < 0.05 else 0.2

    assert feed(quick(), draw) is Verdict.REFUSE


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_candidate_on_the_margin_has_the_stated_error_rates(
    correlation: float,
) -> None:
    result = power(quick, effect=MARGIN * CURRENT, sd=0.05, runs=400, seed=1, correlation=correlation)
    assert result.interval(result.accepted)[0] <= ALPHA
    assert result.interval(result.rejected)[0] <= ALPHA
    assert result.accepted + result.rejected + result.undecided == 400


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_equal_candidate_is_accepted_and_worse_one_rejected(correlation: float) -> None:
    def rate(effect: float) -> tuple[int, int]:
        result = power(quick, effect=effect, sd=0.02, runs=50, seed=2, correlation=correlation)
        return result.accepted, result.rejected

    assert rate(0.0) == (50, 0)
    assert rate(2 * MARGIN * CURRENT) == (0, 50)


def test_rare_large_errors_keep_the_stated_error_rate() -> None:
    """Return scores far from Gaussian: a candidate on the margin, whose excess comes from few frames."""

    def run(seed: int) -> PairedTest:
        random, test = np.random.default_rng(seed), quick()
        share = MARGIN * CURRENT / (0.6 - CURRENT)
        feed(test, lambda: (CURRENT, 0.6 if random.uniform() < share else CURRENT))
        return test

    reasons = [run(seed).reason for seed in range(300)]
    assert wilson(reasons.count("the candidate was shown to be as good"), 300)[0] <= ALPHA
    assert wilson(reasons.count("the candidate was shown to be worse"), 300)[0] <= ALPHA


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=60), st.floats(0.001, 0.5))
def test_interval_widens_with_stricter_error_rates(values: list[float], alpha: float) -> None:
    array = np.array(values)
    assert half_width(array, alpha / 2) >= half_width(array, alpha) >= 0


def test_interval_equals_that_of_the_e_value_at_its_end() -> None:
    values = np.array([0.3, -0.1, 0.25, -0.2, 0.4, -0.15, 0.1, 0.05, 0.3, -0.2])
    n, end = len(values), values.mean() + half_width(values, ALPHA)
    squares, total = np.sum((values - end) ** 2), np.sum(values - end)
    e_value = math.sqrt(1 / (n + 1)) * ((n + 1) * squares / ((n + 1) * squares - total**2)) ** (n / 2)
    assert e_value == pytest.approx(1 / ALPHA)


def test_one_or_two_blocks_give_no_bound_and_identical_ones_no_uncertainty() -> None:
    assert half_width(np.array([0.3]), ALPHA) == half_width(np.array([0.3, 0.2]), ALPHA) == math.inf
    assert half_width(np.array([0.3, 0.3]), ALPHA) == 0


def test_correlated_blocks_count_for_fewer() -> None:
    random = np.random.default_rng(4)
    fresh = random.standard_normal(100)
    alike = np.repeat(fresh[:50], 2)
    wider = half_width(alike, ALPHA) / half_width(fresh, ALPHA) * fresh.std() / alike.std()
    assert 1.3 < wider < 2.5


def test_repeated_comparisons_keep_the_error_rate_bounded() -> None:
    alphas = [alpha_after(tests) for tests in range(10_000)]
    assert alphas[0] == sequential_test.ALPHA and sum(alphas[1:]) <= sequential_test.ALPHA
    assert alphas[1:] == sorted(alphas[1:], reverse=True)
    assert PairedTest(alpha_accept=alphas[-1]).verdict is Verdict.CONTINUE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": -1.0}, "margin"),
        ({"alpha_accept": 0.0}, "alphas"),
        ({"alpha_accept": 1.0}, "alphas"),
        ({"alpha_refuse": 0.0}, "alphas"),
        ({"alpha_refuse": 1.0}, "alphas"),
        ({"block_frames": 0}, "block_frames"),
        ({"min_frames": 10, "block_frames": 20}, "min_frames"),
        ({"max_frames": 100, "min_frames": 200}, "max_frames"),
    ],
)
def test_invalid_settings_are_rejected(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairedTest(**changes)


def test_default_margin_separates_measured_harmless_and_harmful_candidates() -> None:
    content = json.loads(MEASURED.read_text(encoding="utf-8"))
    ratios = {harmless: [row["error_ratio"] for row in content["rows"] if row["harmless"] is harmless]
              for harmless in (True, False)}  # fmt: skip
    most = Budgets().max_error_ratio
    assert most is not None and content["settings"]["test"]["margin"] == pytest.approx(most - 1)
    assert (
        max(ratio["most"] for ratio in ratios[True]) < most < min(ratio["least"] for ratio in ratios[False])
    )
