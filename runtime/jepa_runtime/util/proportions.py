"""Confidence intervals and exact tests of proportions."""

from __future__ import annotations

import math


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); z = 1.96 for 95 %."""
    proportion = successes / trials
    center = (proportion + z * z / (2 * trials)) / (1 + z * z / trials)
    variance = proportion * (1 - proportion) / trials + z * z / (4 * trials * trials)
    half = z / (1 + z * z / trials) * math.sqrt(variance)
    return max(0.0, center - half), min(1.0, center + half)


def paired_difference(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two proportions of the same trials, first minus second.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
    paired data" (1998), method 10: the Wilson intervals of both, combined by their correlation.

    Args:
        both: The number of trials in which both succeeded.
        first: The number in which only the first succeeded.
        second: The number in which only the second succeeded.
        neither: The number in which neither succeeded. At least one of the four is positive.
    """
    trials = both + first + second + neither
    proportions = (both + first) / trials, (both + second) / trials
    (low, high), (low_second, high_second) = wilson(both + first, trials), wilson(both + second, trials)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    agreement: float = both * neither - first * second
    if agreement > 0:
        agreement = max(agreement - trials / 2, 0.0)
    correlation = agreement / math.sqrt(margins) if margins else 0.0

    def combined(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * correlation * one * other + other * other))

    difference = proportions[0] - proportions[1]
    return (
        difference - combined(proportions[0] - low, high_second - proportions[1]),
        difference + combined(high - proportions[0], proportions[1] - low_second),
    )


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Return the probability of at least ``successes``: the upper tail of the binomial distribution.

    Args:
        successes: The number of successes.
        trials: The number of trials.
        probability: The probability of a success, above 0 and below 1.
    """
    if successes <= 0:
        return 1.0
    # Terms are summed on the side of the mean where they decrease.
    below, odds = successes <= trials * probability, probability / (1 - probability)
    count, total = successes - below, 0.0
    term = math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(probability)
        + (trials - count) * math.log1p(-probability)
    )
    while term > total * 1e-12:
        total += term
        term *= count / ((trials - count + 1) * odds) if below else (trials - count) / (count + 1) * odds
        count += -1 if below else 1
    return max(0.0, 1.0 - total) if below else min(1.0, total)
