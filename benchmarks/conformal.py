"""Compare five methods of online conformal prediction on synthetic errors.

jepa_runtime.calibration is based on the result. Methods are evaluated as they are used: an error arrives as
many steps after its bound was stated as the horizon is long.

Adaptive conformal inference (ACI; Gibbs & Candes 2021, step 0.005), its aggregated form (DtACI; Gibbs &
Candes 2024), conformal PID control (Angelopoulos, Candes & Tibshirani 2023: quantile tracking with a step of
a tenth of the largest recent error, and their integrator), and quantile tracking of the logarithm: with a
fixed rate, and ours, with a rate that decays to the same value. The first three use the last 256 errors. Each
method starts with the bound that covers 90 % of the first 1000 errors, or with a third of it if the name of
the stream says so. Halfway through, errors triple if the name says so.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import MIN_RATE, Bounds
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import write_json

ROOT = Path(__file__).resolve().parent.parent
ALPHA = 0.1
WINDOW = 256
BURN_IN = 400
SETTLED = 200
# In errors: none; eight steps ahead, updated once per step as in the runtime; and updated with each image.
DELAYS = (0, 8, 48)
# Streams whose first bound is this proportion of the one that covers.
STARTS = {"independent, start a third": 1 / 3, "autocorrelated, start a third": 1 / 3}

Floats = NDArray[np.float64]


class Method(Protocol):
    """A method that states bounds for many streams at once."""

    def current(self) -> Floats: ...

    def update(self, errors: Floats, stated: Floats) -> None: ...


class Aci:
    """Quantile of the last errors, at a level that misses raise and hits lower."""

    def __init__(self, start: Floats) -> None:
        self._start = start
        self._level = np.full(len(start), ALPHA)
        self._errors = np.zeros((0, len(start)))
        self._sorted = self._errors

    def current(self) -> Floats:
        return self._quantile(self._level)

    def update(self, errors: Floats, stated: Floats) -> None:
        self._level = self._level + 0.005 * (ALPHA - (errors > stated))
        self._push(errors)

    def _push(self, errors: Floats) -> None:
        self._errors = np.concatenate([self._errors, errors[None]])[-WINDOW:]
        self._sorted = np.sort(self._errors, axis=0)

    def _quantile(self, level: Floats) -> Floats:
        """Return the quantile; infinite if the level is below the resolution of the errors."""
        count = len(self._sorted)
        if count < 1 / ALPHA:
            return self._start
        rank = np.ceil((1 - level) * (count + 1)).astype(int)
        quantiles = np.take_along_axis(self._sorted, np.clip(rank - 1, 0, count - 1)[None], axis=0)[0]
        return np.where(rank > count, np.inf, np.where(rank < 1, 0.0, quantiles))


class DtAci(Aci):
    """Several ACI experts, weighted by the pinball loss of their levels."""

    _STEPS = np.array([0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128])[:, None]
    _INTERVAL = 500

    def __init__(self, start: Floats) -> None:
        super().__init__(start)
        experts = len(self._STEPS)
        self._levels = np.full((experts, len(start)), ALPHA)
        self._weights = np.full((experts, len(start)), 1 / experts)
        self._mixing_rate = 1 / (2 * self._INTERVAL)
        spread = (1 - ALPHA) ** 2 * ALPHA**3 + ALPHA**2 * (1 - ALPHA) ** 3
        self._rate = math.sqrt(3 / self._INTERVAL * (math.log(experts * self._INTERVAL) + 2) / spread)

    def current(self) -> Floats:
        return self._quantile((self._weights * self._levels).sum(axis=0))

    def update(self, errors: Floats, stated: Floats) -> None:
        fitting = ((self._sorted >= errors).sum(axis=0) + 1) / (len(self._sorted) + 1)
        away = fitting - self._levels
        fitted = self._weights * np.exp(-self._rate * (ALPHA * away - np.minimum(0, away)))
        self._weights = (1 - self._mixing_rate) * fitted / fitted.sum(axis=0) + self._mixing_rate / len(
            fitted
        )
        self._levels = self._levels + self._STEPS * (ALPHA - (self._levels > fitting))
        self._push(errors)


class Pid:
    """Quantile tracking, and an integrator that saturates."""

    _SATURATION = 5.0

    def __init__(self, start: Floats) -> None:
        self._tracked = start.copy()
        self._sum = np.zeros(len(start))
        self._errors = np.tile(start, (WINDOW, 1))
        self._count = 0

    def current(self) -> Floats:
        count = self._count + 2
        angle = self._sum * math.log(count) / (self._SATURATION * count)
        integral = np.tan(np.clip(angle, -1.57, 1.57)) * self._errors.max(axis=0)
        return np.maximum(0, self._tracked + integral)

    def update(self, errors: Floats, stated: Floats) -> None:
        self._errors[self._count % WINDOW] = errors
        self._count += 1
        away = (errors > stated) - ALPHA
        self._tracked = self._tracked + 0.1 * self._errors.max(axis=0) * away
        self._sum += away


class FixedRate:
    """Quantile tracking of the logarithm with the final rate of ours."""

    def __init__(self, start: Floats, delay: int) -> None:
        self._log = np.log(start)
        self._rate = min(MIN_RATE, 1 / max(delay, 1))

    def current(self) -> Floats:
        bounds: Floats = np.exp(self._log)
        return bounds

    def update(self, errors: Floats, stated: Floats) -> None:
        self._log = self._log + self._rate * ((errors > stated) - ALPHA)


def streams(rng: np.random.Generator, steps: int, count: int) -> dict[str, Floats]:
    """Return the errors [steps, count] of each stream."""
    noise = rng.standard_normal((steps, count))
    for step in range(1, steps):
        noise[step] = 0.95 * noise[step - 1] + math.sqrt(1 - 0.95**2) * noise[step]
    alike, single = np.exp(noise / 2), np.abs(rng.standard_normal((steps, count)))
    change = np.where(np.arange(steps) < steps // 2, 1.0, 3.0)[:, None]
    return {
        "independent": single,
        "heavy tails": np.abs(rng.standard_t(2, (steps, count))),
        "autocorrelated": alike,
        "independent, 3 x": single * change,
        "autocorrelated, 3 x": alike * change,
        "slow drift to 3 x": single * np.geomspace(1, 3, steps)[:, None],
        **dict(zip(STARTS, (single, alike), strict=True)),
    }


def evaluate(method: Method, errors: Floats, delay: int) -> dict[str, float]:
    """Return the coverage of errors [steps, streams] by bounds stated ``delay`` steps before they arrive."""
    steps = len(errors)
    stated = [method.current()] * delay
    for step, arrived in enumerate(errors):
        stated.append(method.current())
        method.update(arrived, stated[step])
    bounds = np.stack(stated[:steps])
    within, half = errors <= bounds, steps // 2
    local = np.stack([within[at : at + SETTLED].mean(axis=0) for at in range(BURN_IN, half - SETTLED, 50)])
    early = bounds[BURN_IN:half]
    return {
        "coverage_first_100": float(within[:100].mean()),
        "coverage_first_200": float(within[:200].mean()),
        "coverage_before": float(within[BURN_IN:half].mean()),
        "coverage_first_200_after": float(within[half : half + SETTLED].mean()),
        "coverage_next_200_after": float(within[half + SETTLED : half + 2 * SETTLED].mean()),
        "coverage_of_the_rest": float(within[half + SETTLED :].mean()),
        "spread_over_200": float(local.std()),
        "mean_finite_bound_to_quantile": float(
            early[np.isfinite(early)].mean() / np.quantile(errors[:half], 1 - ALPHA)
        ),
        "infinite": float(np.isinf(bounds).mean()),
    }


def methods(start: Floats, delay: int) -> dict[str, Method]:
    """Return all methods in their initial state."""
    ours = Bounds(start.tolist(), probability=1 - ALPHA, delays=[delay] * len(start), latent_space="made up")
    return {
        "ours": ours,
        "fixed rate": FixedRate(start, delay),
        "ACI": Aci(start),
        "DtACI": DtAci(start),
        "PID": Pid(start),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6000, help="steps of each stream (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=24, help="streams of each kind (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "conformal.json")
    arguments = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    drawn = streams(np.random.default_rng(0), arguments.steps, arguments.streams)
    for name, errors in drawn.items():
        start = np.full(arguments.streams, np.quantile(errors[:1000], 1 - ALPHA) * STARTS.get(name, 1.0))
        for delay in DELAYS:
            for title, method in methods(start, delay).items():
                rows.append(
                    {"stream": name, "delay": delay, "method": title, **evaluate(method, errors, delay)}
                )
                shares = "  ".join(f"{key} {value:.3f}" for key, value in list(rows[-1].items())[3:])
                print(f"{name:<29} delay {delay:>2} {title:<10} {shares}")
    report = {
        "probability": 1 - ALPHA,
        "steps": arguments.steps,
        "streams": arguments.streams,
        "machine": {"cpu": cpu_info(), "versions": package_versions()},
        "rows": rows,
    }
    write_json(arguments.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
