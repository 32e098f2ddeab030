"""Whether one profile is worse than another: effects with intervals, and a verdict that a script can act on.

Compared are the median and one chosen percentile of the response (of the latency, where a profile has no
rate): the ratio of the two runs' percentiles, each drawn by itself (see
:mod:`jepa_runtime.util.bootstrap`), less one. Shares of frames lost and of deadlines missed are compared
by their difference, drawn as that of means, because both come in bursts that a test of independent frames
would take for evidence. The verdict is

- ``worse`` if a percentile rose by more than is allowed and its interval lies above zero; if the interval
  of the rise in lost frames or missed deadlines lies above zero; or if a graph of the other profile does not
  reproduce its golden outputs;
- ``not judged`` if the samples do not carry one of the percentiles or do not bound it, or if one rose by more
  than is allowed and its interval reaches down to zero: a rare stall is not passed for being rare;
- ``better`` if the interval of a percentile lies below zero, else ``same``.

In simulated pairs of equal runs of 20 s to 3 min at 30 Hz the verdict was ``worse`` in 0 or 1 of a hundred
where frames are alike for up to half a second or stall for 0.3 s every 6 s, and in 0 to 11 where they are
alike for seconds or stall for 2 s every 20 s; where the other run was a tenth slower, in 91 to 100. Losses,
alone and in bursts, raised an alarm in 0 to 6 of a hundred equal ones. What changed between two runs and not
within them (a neighbour, heat) is in no interval: of six runs of one model on cores that others share, 12 of
the 30 pairs were told to be worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.profiling.profile import PASSED_BY, Profile
from jepa_runtime.profiling.run_statistics import (
    Distribution,
    distribution,
    gone_through,
    late_frames,
    lost_frames,
    responses,
)
from jepa_runtime.util.bootstrap import MIN_SAMPLES, interval, resampled_means, resampled_quantiles
from jepa_runtime.util.statistics import PERCENTILES, PercentileName, nearest_rank

Measure = Literal["response", "latency"]
Verdict = Literal["better", "same", "worse", "not judged"]

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """An effect and its 95 % interval: relative to the baseline for times, a difference for shares."""

    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One profile against the baseline.

    Attributes:
        verdict: see the module.
        reasons: for ``worse`` and ``not judged``.
        differences: what was unlike, so that a change may not be the model's.
        times: relative change by percentile; those that could not be judged are missing.
        lost: change of the share of frames dropped or failed; None: too few frames.
        missed: change of the share of deadlines missed; None: no or another deadline, or too few frames.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    differences: tuple[str, ...]
    times: dict[PercentileName, Change]
    lost: Change | None
    missed: Change | None


def label(name: PercentileName) -> str:
    """As people write it: ``p99.9``."""
    return "p99.9" if name == "p999" else name


def common_measure(profiles: Iterable[Profile]) -> Measure:
    """The response where every profile has one, which takes a rate; else the latency."""
    return "response" if all(profile.run.rate_hz is not None for profile in profiles) else "latency"


def differences(baseline: Profile, other: Profile) -> tuple[str, ...]:
    """What must be alike for a change to be the model's, and is not.

    Versions of model and engine are not among it: to compare them is the purpose.
    """
    ours, theirs = _conditions(baseline), _conditions(other)
    return tuple(
        f"{name}: {ours.get(name) or 'not told'} against {theirs.get(name) or 'not told'}"
        for name in (ours | theirs)
        if ours.get(name) != theirs.get(name)
    )


def compare(
    baseline: Profile, other: Profile, *, measure: Measure, percentile: PercentileName, max_regression: float
) -> Comparison:
    """Judge ``other`` against ``baseline``.

    Args:
        measure: see :func:`common_measure`.
        percentile: the one that is judged beside the median.
        max_regression: by how much a percentile may rise, as a share: 0.05 is 5 %.
    """
    names: tuple[PercentileName, ...] = tuple(dict.fromkeys(("p50", percentile)))
    before, after = _series(baseline, measure), _series(other, measure)
    old, new = distribution(before), distribution(after)
    unbounded = [*_unbounded(old, "the baseline", names), *_unbounded(new, "the other profile", names)]
    times = {
        name: _relative_change(before, after, PERCENTILES[name])
        for name in names
        if _is_bounded(old, name) and _is_bounded(new, name)
    }
    lost = _share_change(lost_frames(baseline.run), lost_frames(other.run))
    same_deadline = baseline.run.deadline_ms == other.run.deadline_ms
    missed = _share_change(late_frames(baseline.run), late_frames(other.run)) if same_deadline else None
    worse = [
        *_regressions(times, {"lost frames": lost, "missed deadlines": missed}, max_regression),
        *(
            f"{parity.graph} does not reproduce its golden outputs"
            for parity in other.parity
            if not parity.ok
        ),
    ]
    unjudged = [*unbounded, *_by_chance(times, max_regression)]
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
    times: dict[PercentileName, Change], shares: dict[str, Change | None], max_regression: float
) -> list[str]:
    slower = [
        f"{label(name)} rose by {change.point:.1%}, more than {max_regression:.1%}"
        for name, change in times.items()
        if change.point > max_regression and change.low > 0
    ]
    return slower + [
        f"{what} rose by {change.point:.2%} of the frames"
        for what, change in shares.items()
        if change is not None and change.low > 0
    ]


def _by_chance(times: dict[PercentileName, Change], max_regression: float) -> list[str]:
    return [
        f"too few samples to tell a rise of {label(name)} by {change.point:.1%} from chance; measure longer"
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
    told = {name: str(value) for name, value in facts.items() if value is not None}
    frames = len(run.scheduled_s)
    if frames:
        told |= {
            f"{stage} in most frames": "yes" if 2 * len(gone_through(run, stage)) > frames else "no"
            for stage in PASSED_BY
        }
    return told | {f"setting {name}": value for name, value in environment.settings.items()}


def _series(profile: Profile, measure: Measure) -> _Floats:
    run = profile.run
    return responses(run) if measure == "response" else np.asarray(run.latency_ms, np.float64)


def _unbounded(samples: Distribution, whose: str, names: Iterable[PercentileName]) -> list[str]:
    if not samples.n:
        return [f"{whose} holds no samples, and without them there is no interval"]
    return [
        f"{label(name)} of {whose}: {samples.n} samples do not carry it with an interval; "
        "measure longer or choose a lower percentile"
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
    return Change(new / old - 1, *interval(ratios - 1))


def _share_change(before: NDArray[np.bool_] | None, after: NDArray[np.bool_] | None) -> Change | None:
    if before is None or after is None or min(len(before), len(after)) < MIN_SAMPLES:
        return None
    old, new = before.astype(np.float64), after.astype(np.float64)
    rise = resampled_means(new, seed=1) - resampled_means(old, seed=0)
    return Change(float(new.mean() - old.mean()), *interval(rise))
