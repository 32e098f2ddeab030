"""How far a share can be trusted: by Wilson's interval or the binomial distribution itself."""

from __future__ import annotations

import math


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval (Wilson 1927) of a share; z = 1.96 for 95 %."""
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares of the same trials, first less second.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data" (1998), method 10: Wilson's intervals of both, joined by their correlation.

    Args:
        both, first, second, neither: trials in which both, only the first, only the second or neither
            succeeded; one at least.
    """
    trials = both + first + second + neither
    shares = (both + first) / trials, (both + second) / trials
    (low, high), (low_second, high_second) = wilson(both + first, trials), wilson(both + second, trials)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    agreement: float = both * neither - first * second
    if agreement > 0:
        agreement = max(agreement - trials / 2, 0.0)
    correlation = agreement / math.sqrt(margins) if margins else 0.0

    def joined(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    difference = shares[0] - shares[1]
    return (
        difference - joined(shares[0] - low, high_second - shares[1]),
        difference + joined(high - shares[0], shares[1] - low_second),
    )


def chance_of(successes: int, trials: int, share: float) -> float:
    """The exact chance of so many successes or more where each of ``trials`` succeeds with ``share``, above 0
    and below 1: the upper tail of the binomial distribution."""
    if successes <= 0:
        return 1.0
    # The terms are summed on the side of the mean on which they only become smaller.
    below, odds = successes <= trials * share, share / (1 - share)
    count, total = successes - below, 0.0
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(share)
        + (trials - count) * math.log1p(-share)
    )
    while term > total * 1e-12:
        total += term
        term *= count / ((trials - count + 1) * odds) if below else (trials - count) / (count + 1) * odds
        count += -1 if below else 1
    return max(0.0, 1.0 - total) if below else min(1.0, total)
