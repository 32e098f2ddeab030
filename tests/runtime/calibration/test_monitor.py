"""Calibration monitor: stated bounds, learning from errors, and alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.calibration import Alarms, CalibrationMonitor, CoverageRate, clearly_below

STEP_NS, TOLERANCE_NS, HORIZON = 200, 25, 3
START = (1.0, 2.0, 4.0)


def make(
    start: tuple[float, ...] = START, *, latent_space: str = "a", alarms: Alarms | None = None
) -> CalibrationMonitor:
    return CalibrationMonitor(
        start,
        probability=0.9,
        step_ns=STEP_NS,
        tolerance_ns=TOLERANCE_NS,
        latent_space=latent_space,
        alarms=alarms,
    )


def some_alarms() -> Alarms:
    """Scores above 3 are surprising."""
    highest = np.linspace(0.1, 3.0, 200)
    return Alarms(highest, block=3, step_s=0.2, false_alarm_every_s=30)


def live(trust: CalibrationMonitor, errors: list[list[float]], first: int = 0) -> None:
    """Add an image with these errors [H] in each step."""
    for step, row in enumerate(errors, start=first):
        stamp_ns = step * STEP_NS
        near, far = stamp_ns - STEP_NS, stamp_ns - HORIZON * STEP_NS
        trust.add_errors(stamp_ns, np.array(row), [near, far, far])
        trust.state(stamp_ns)


def test_bounds_start_with_those_of_the_bundle() -> None:
    stated = make().state(0)
    assert stated.bounds.tolist() == pytest.approx(START)
    assert stated.probability == 0.9
    assert [share.value for share in stated.overall] == [None] * HORIZON


def test_error_is_compared_with_the_bound_published_for_its_image() -> None:
    trust = make()
    trust.state(0)
    evaluated = trust.add_errors(STEP_NS, np.array([1.5, math.nan, math.nan]), [0, -400, -400])
    assert evaluated.stated.tolist()[0] == 1.0 and np.isnan(evaluated.stated[1:]).all()
    assert trust.state(STEP_NS).overall[0] == CoverageRate(0, 1)
    assert trust.state(STEP_NS).bounds[0] > 1.0, "the error counts as missed"


def test_error_without_a_published_bound_is_scored_only() -> None:
    trust = make()
    evaluated = trust.add_errors(STEP_NS, np.array([1.0, 2.0, 4.0]), [0, -400, -400])
    assert evaluated.score is not None and evaluated.score.value == 1.0
    assert trust.state(STEP_NS).overall == (CoverageRate(0, 0),) * HORIZON


def test_bounds_have_the_stated_coverage_for_any_error_scale() -> None:
    rng = np.random.default_rng(0)
    trust = make()
    for phase, scale in enumerate((0.1, 5.0)):
        live(trust, (scale * np.abs(rng.standard_normal((1500, HORIZON)))).tolist(), first=1500 * phase)
        for share in trust.state((1500 * (phase + 1) - 1) * STEP_NS).recent:
            assert share.errors == 300
            assert share.value == pytest.approx(0.9, abs=0.05)


def test_unknown_bound_is_infinite_and_counts_for_nothing_until_an_error_arrives() -> None:
    trust = make((0.0, 0.0, 0.0))
    assert np.isinf(trust.state(0).bounds).all()
    trust.add_errors(STEP_NS, np.array([0.5, math.nan, math.nan]), [0, -400, -400])
    stated = trust.state(STEP_NS)
    assert stated.bounds[0] == pytest.approx(0.5) and np.isinf(stated.bounds[1])
    assert stated.overall[0].errors == 0


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_latent_that_is_not_finite_updates_nothing(broken: float) -> None:
    trust = make()
    live(trust, [[broken] * HORIZON] * 10)
    stated = trust.state(10 * STEP_NS)
    assert stated.bounds.tolist() == pytest.approx(START)
    assert stated.overall == (CoverageRate(0, 0),) * HORIZON


@pytest.mark.parametrize("ages", [(1,), (1, 2), (1, 3), (1, 4, 8)])
def test_newest_latent_is_compared_with_predictions_one_step_half_and_a_horizon_ago(
    ages: tuple[int, ...],
) -> None:
    assert make((1.0,) * ages[-1]).ages == ages


def test_errors_are_recorded_once_per_step() -> None:
    trust = make()
    assert trust.is_due(0)
    trust.add_errors(0, np.ones(HORIZON), [-200, -600, -600])
    assert not trust.is_due(STEP_NS - TOLERANCE_NS - 1)
    assert trust.is_due(STEP_NS - TOLERANCE_NS)


@pytest.mark.parametrize("frame_ns", [10, 34, 36, 44, 59, 150, 180, 199])
def test_errors_are_recorded_at_most_once_per_step_at_any_frame_rate(frame_ns: int) -> None:
    trust, taken, steps = make(), 0, 500
    for stamp_ns in range(0, steps * STEP_NS, frame_ns):
        if trust.is_due(stamp_ns):
            trust.add_errors(stamp_ns, np.ones(HORIZON), [stamp_ns - STEP_NS] * HORIZON)
            taken += 1
    assert 0.75 * steps < taken <= steps + 1


def test_errors_after_a_pause_are_recorded_once_per_step() -> None:
    trust = make()
    for stamp_ns in (0, 10 * STEP_NS):
        trust.add_errors(stamp_ns, np.ones(HORIZON), [stamp_ns - STEP_NS] * HORIZON)
    assert not trust.is_due(11 * STEP_NS - 2 * TOLERANCE_NS - 1) and trust.is_due(11 * STEP_NS)


def test_pending_predictions_are_bounded() -> None:
    trust = make()
    for frame in range(10_000):
        trust.state(frame * STEP_NS // 6)
    assert len(trust._stated) == 6 * (HORIZON + 1) + 1


def test_history_reset_drops_pending_predictions_and_keeps_learned_bounds() -> None:
    trust = make()
    live(trust, [[9.0, 9.0, 9.0]] * 20)
    learned = trust.state(20 * STEP_NS).bounds
    trust.reset()
    assert trust.is_due(0), "the clock may have been set back"
    evaluated = trust.add_errors(21 * STEP_NS, np.ones(HORIZON), [20 * STEP_NS, 18 * STEP_NS, 18 * STEP_NS])
    assert np.isnan(evaluated.stated).all()
    assert trust.state(21 * STEP_NS).bounds.tolist() == learned.tolist()


def test_history_reset_ends_an_alarm() -> None:
    trust = make(alarms=some_alarms())
    live(trust, [[1.0, 2.0, 4.0]] * 5 + [[9.0, 18.0, 36.0]] * 2)
    (begun,) = trust.take_alarms()
    assert (begun.kind, begun.end_ns, begun.event.start_ns) == ("surprise", None, 5 * STEP_NS)
    trust.reset()
    (ended,) = trust.take_alarms()
    assert (ended.kind, ended.end_ns, ended.event.score) == ("surprise", 6 * STEP_NS, 9.0)
    assert trust.take_alarms() == ()


def usual(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Return errors of which the bundle's bounds cover 90 %, with scores below the threshold."""
    return np.array(START) * np.minimum(np.abs(rng.standard_normal((steps, HORIZON))) / 1.645, 3.0)


def test_trust_unannounced_jump_counts_as_missed_and_does_not_widen_bounds() -> None:
    """A jump invalidates every earlier prediction: for one horizon errors are 30 times the bounds."""
    rng = np.random.default_rng(1)
    before, after = usual(rng, 300), usual(rng, 60)
    jump = np.full((HORIZON, HORIZON), np.nan)
    for step in range(HORIZON):
        jump[step, step:] = 30 * np.array(START)[step:]
        jump[step, :step] = 0.5 * np.array(START)[:step]
    trust = make(alarms=some_alarms())
    live(trust, before.tolist())
    learned, counted = trust.bounds(), trust.state(300 * STEP_NS).overall
    live(trust, jump.tolist(), first=300)
    assert trust.bounds() == pytest.approx(learned)
    missed = [later.errors - later.within - (now.errors - now.within) for now, later in
              zip(counted, trust.state(303 * STEP_NS).overall, strict=True)]  # fmt: skip
    assert missed == [1, 2, 3]
    (begun,) = trust.take_alarms()
    assert begun.kind == "surprise" and begun.event.start_ns == 300 * STEP_NS
    live(trust, after.tolist(), first=303)
    assert (trust.bounds() < 2 * learned).all(), "no error of the jump is learned later"


@pytest.mark.parametrize("factor", [5.0, 50.0])
def test_trust_lasting_change_widens_bounds_while_the_alarm_is_on(factor: float) -> None:
    rng = np.random.default_rng(2)
    trust = make(alarms=some_alarms())
    live(trust, usual(rng, 300).tolist())
    trust.take_alarms()
    live(trust, (factor * usual(rng, 400)).tolist(), first=300)
    kinds = [(alarm.kind, alarm.end_ns) for alarm in trust.take_alarms()]
    assert kinds[0] == ("surprise", None) and ("surprise", 700 * STEP_NS) not in kinds
    assert (trust.bounds() > 0.5 * factor * np.array(START)).all()
    live(trust, (factor * usual(rng, 300)).tolist(), first=700)
    for share in trust.state(1000 * STEP_NS).recent:
        assert share.value == pytest.approx(0.9, abs=0.04)


def test_trust_jumps_more_frequent_than_false_alarms_teach_the_bounds() -> None:
    """Scores above the threshold in every sixth step, each with its own alarm, are normal conditions."""
    trust = make(alarms=some_alarms())
    rows = usual(np.random.default_rng(3), 1200)
    rows[::6] = 5 * np.array(START)
    live(trust, rows.tolist())
    begun = [alarm for alarm in trust.take_alarms() if alarm.kind == "surprise" and alarm.end_ns is None]
    assert len(begun) == 200
    for share in trust.state(1200 * STEP_NS).recent:
        assert share.value == pytest.approx(0.9, abs=0.03)


def test_trust_without_alarms_learns_every_error() -> None:
    trust = make()
    live(trust, [[30.0, 60.0, 120.0]] * 6)
    assert (trust.bounds() > 2 * np.array(START)).all()


def test_swapped_model_keeps_the_bounds_and_resets_coverage() -> None:
    before, after = make(alarms=some_alarms()), make((7.0, 7.0, 7.0))
    live(before, [[9.0, 18.0, 36.0]] * 20)
    learned = before.state(20 * STEP_NS).bounds
    after.adopt_state(before)
    stated = after.state(21 * STEP_NS)
    assert stated.bounds.tolist() == pytest.approx(learned.tolist())
    assert stated.overall == (CoverageRate(0, 0),) * HORIZON
    news = after.take_alarms()
    begun = {alarm.kind for alarm in news if alarm.end_ns is None}
    assert {alarm.kind for alarm in news if alarm.end_ns is not None} == begun == {"surprise", "change"}


def test_bounds_of_another_latent_space_are_discarded() -> None:
    before, after = make(), make((7.0, 7.0, 7.0), latent_space="b")
    live(before, [[9.0, 18.0, 36.0]] * 20)
    after.adopt_state(before)
    assert after.state(0).bounds.tolist() == pytest.approx([7.0] * 3)


def test_low_coverage_is_reported_with_its_horizon() -> None:
    trust = make()
    live(trust, [[0.1, 0.1, 0.1]] * 300)
    assert trust.state(300 * STEP_NS).undercovered == ()
    live(trust, [[0.1, 0.1, 1e9]] * 60, first=301)
    assert trust.state(361 * STEP_NS).undercovered == (3,)


@pytest.mark.parametrize(
    ("share", "alike", "below"),
    [
        (CoverageRate(0, 0), 8, False),
        (CoverageRate(0, 7), 8, False),
        (CoverageRate(15, 15), 8, False),
        (CoverageRate(270, 300), 1, False),
        (CoverageRate(250, 300), 1, True),
        (CoverageRate(250, 300), 8, False),
        (CoverageRate(200, 300), 8, True),
    ],
)
def test_correlated_neighbors_count_for_fewer(share: CoverageRate, alike: int, below: bool) -> None:
    assert clearly_below(share, 0.9, correlated=alike) is below


@pytest.mark.parametrize(
    ("share", "probability"), [(CoverageRate(14, 15), 0.9), (CoverageRate(30, 31), 0.95)]
)
def test_rate_above_the_target_is_never_low_for_any_number_of_errors(
    share: CoverageRate, probability: float
) -> None:
    assert not clearly_below(share, probability, correlated=8)
