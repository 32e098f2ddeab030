"""Comparison of two profiles: effects with confidence intervals, and a verdict for scripts.

The median and one chosen percentile of the response (of the latency, if a profile has no rate) are compared
by the ratio of the two runs' percentiles minus one, each resampled independently (see
:mod:`jepa_runtime.util.bootstrap`). The proportions of lost frames and of missed deadlines are compared by
their difference, with resampled means: both occur in bursts, which a test of independent frames would take
for evidence. The verdict is

- ``worse`` if a percentile rose by more than the limit and its interval lies above zero; if the interval of
  the rise in lost frames or missed deadlines lies above zero; or if a graph of the other profile does not
  reproduce its golden outputs;
- ``not judged`` if there are too few samples for one of the percentiles or its interval, or if one rose by
  more than the limit and its interval includes zero: a rare stall is not accepted because it is rare;
- ``better`` if the interval of a percentile lies below zero, else ``same``.

In simulated pairs of equal runs of 20 s to 3 min at 30 Hz, the verdict was ``worse`` in 0 or 1 of 100 pairs
if frames are correlated over up to half a second or stall for 0.3 s every 6 s, and in 0 to 11 if they are
correlated over seconds or stall for 2 s every 20 s; in 91 to 100 if the other run was 10 % slower. Lost
frames, single and in bursts, caused the verdict in 0 to 6 of 100 equal pairs. The intervals do not cover
differences between runs, such as other load or heat: of six runs of one model on shared cores, 12 of the 30
pairs were reported as worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.profiling.profile import OPTIONAL_STAGES, Profile
from jepa_runtime.profiling.run_statistics import (
    Distribution,
    distribution,
    late_frames,
    lost_frames,
    responses,
    stage_times,
)
from jepa_runtime.util.bootstrap import MIN_SAMPLES, confidence_interval, resampled_means, resampled_quantiles
from jepa_runtime.util.percentiles import PERCENTILES, PercentileName, label
from jepa_runtime.util.statistics import nearest_rank

Measure = Literal["response", "latency"]
Verdict = Literal["better", "same", "worse", "not judged"]

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """An effect and its 95 % interval: relative to the baseline for times, a difference for proportions."""

    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One profile compared with the baseline.

    Attributes:
        verdict: The verdict; see the module.
        reasons: The reasons for ``worse`` and ``not judged``.
        differences: Conditions that differ, so that a change may have another cause than the model.
        times: Relative change by percentile, without those that could not be judged.
        lost: Change of the proportion of dropped or failed frames; None for too few frames.
        missed: Change of the proportion of missed deadlines; None for too few frames, or without a common
            deadline.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    differences: tuple[str, ...]
    times: dict[PercentileName, Change]
    lost: Change | None
    missed: Change | None


def common_measure(profiles: Iterable[Profile]) -> Measure:
    """Return ``response`` if every profile has a rate, else ``latency``."""
    return "response" if all(profile.run.rate_hz is not None for profile in profiles) else "latency"


def differences(baseline: Profile, other: Profile) -> tuple[str, ...]:
    """Return the conditions that differ.

    Versions of model and engine are no conditions: comparing them is the purpose.
    """
    ours, theirs = _conditions(baseline), _conditions(other)
    return tuple(
        f"{name}: {ours.get(name) or 'unknown'} against {theirs.get(name) or 'unknown'}"
        for name in (ours | theirs)
        if ours.get(name) != theirs.get(name)
    )


def measured(profile: Profile, measure: Measure) -> _Floats:
    """Return the samples [ms] that are compared."""
    run = profile.run
    return responses(run) if measure == "response" else np.asarray(run.latency_ms, np.float64)


def compare(
    baseline: Profile, other: Profile, *, measure: Measure, percentile: PercentileName, max_regression: float
) -> Comparison:
    """Compare ``other`` with ``baseline``.

    Args:
        baseline: The reference.
        other: The profile to judge.
        measure: See :func:`common_measure`.
        percentile: The percentile to judge in addition to the median.
        max_regression: Largest accepted rise of a percentile, as a proportion: 0.05 is 5 %.
    """
    names: tuple[PercentileName, ...] = tuple(dict.fromkeys(("p50", percentile)))
    before, after = measured(baseline, measure), measured(other, measure)
    old, new = distribution(before), distribution(after)
    unbounded = [*_unbounded(old, "the baseline", names), *_unbounded(new, "the other profile", names)]
    times = {
        name: _relative_change(before, after, PERCENTILES[name])
        for name in names
        if _is_bounded(old, name) and _is_bounded(new, name)
    }
    lost = _proportion_change(lost_frames(baseline.run), lost_frames(other.run))
    same_deadline = baseline.run.deadline_ms == other.run.deadline_ms
    missed = _proportion_change(late_frames(baseline.run), late_frames(other.run)) if same_deadline else None
    worse = [
        *_regressions(times, {"lost frames": lost, "missed deadlines": missed}, max_regression),
        *(
            f"{parity.graph} does not reproduce its golden outputs"
            for parity in other.parity
            if not parity.ok
        ),
    ]
    unjudged = [*unbounded, *_insignificant(times, max_regression)]
    verdict: Verdict = "same"
    if worse:
        verdict = "worse"
    elif unjudged:
        verdict = "not judged"
    elif any(change.high < 0 for change in times.values()):
        verdict = "better"
    return Comparison(
        verdict=verdict,
        reasons=(*worse, *unjudged),
        differences=differences(baseline, other),
        times=times,
        lost=lost,
        missed=missed,
    )


def _regressions(
    times: dict[PercentileName, Change], proportions: dict[str, Change | None], max_regression: float
) -> list[str]:
    slower = [
        f"{label(name)} rose by {change.point:.1%}, more than {max_regression:.1%}"
        for name, change in times.items()
        if change.point > max_regression and change.low > 0
    ]
    return slower + [
        f"{name} rose by {change.point:.2%} of the frames"
        for name, change in proportions.items()
        if change is not None and change.low > 0
    ]


def _insignificant(times: dict[PercentileName, Change], max_regression: float) -> list[str]:
    return [
        f"too few samples to distinguish a rise of {label(name)} by {change.point:.1%} from chance; measure "
        "longer"
        for name, change in times.items()
        if change.point > max_regression and change.low <= 0
    ]


def _conditions(profile: Profile) -> dict[str, str]:
    subject, environment, run = profile.subject, profile.environment, profile.run
    facts = {
        "kind of measurement": profile.kind,
        "CPU": environment.cpu,
        "cores": environment.cores or None,
        "architecture": environment.architecture,
        "engine": subject.engine,
        "device": subject.device,
        "precision": subject.precision,
        "threads": subject.threads,
        "futures": subject.futures,
        "horizon": subject.horizon,
        "middleware": environment.versions.get("rmw"),
        "source": subject.source,
        "frame size": subject.frame_size and "{} x {}".format(*subject.frame_size),
        "rate": run.rate_hz and f"{run.rate_hz:g} Hz",
        "deadline": run.deadline_ms and f"{run.deadline_ms:g} ms",
    }
    conditions = {name: str(value) for name, value in facts.items() if value is not None}
    frames = len(run.scheduled_s)
    if frames:
        conditions |= {
            f"{stage} in most frames": "yes" if 2 * len(stage_times(run, stage)) > frames else "no"
            for stage in OPTIONAL_STAGES
        }
    return conditions | {f"setting {name}": value for name, value in environment.settings.items()}


def _unbounded(samples: Distribution, owner: str, names: Iterable[PercentileName]) -> list[str]:
    if not samples.n:
        return [f"{owner} contains no samples"]
    return [
        f"{label(name)} of {owner}: {samples.n} samples are too few for its interval; measure longer or "
        "choose a lower percentile"
        for name in names
        if not _is_bounded(samples, name)
    ]


def _is_bounded(samples: Distribution, name: PercentileName) -> bool:
    quantile = samples.quantiles()[name]
    return quantile.low is not None and quantile.low > 0 and quantile.high is not None


def _relative_change(before: _Floats, after: _Floats, permille: int) -> Change:
    old, new = (nearest_rank(np.sort(series), permille) for series in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = resampled_quantiles(after, permille, seed=1) / resampled_quantiles(before, permille, seed=0)
    return Change(new / old - 1, *confidence_interval(ratios - 1))


def _proportion_change(before: NDArray[np.bool_] | None, after: NDArray[np.bool_] | None) -> Change | None:
    if before is None or after is None or min(len(before), len(after)) < MIN_SAMPLES:
        return None
    old, new = before.astype(np.float64), after.astype(np.float64)
    rise = resampled_means(new, seed=1) - resampled_means(old, seed=0)
    return Change(float(new.mean() - old.mean()), *confidence_interval(rise))
