"""Whether a model computes on this machine what it computed when it was exported: parity with the golden
outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle, Golden, Tolerance
from jepa_runtime.world_model import WorldModel

_TINY = 1e-12


@dataclass(frozen=True)
class Parity:
    """How closely one graph reproduces its reference.

    Attributes:
        graph: encoder, predictor, step or energy.
        precision: that was asked for.
        mean_cosine: over all vectors; NaN if an output is not finite.
        min_cosine: cosine of the worst vector (a token, or all energies together); NaN if an output is not
        finite.
        max_abs: the largest difference of two numbers; NaN if an output is not finite.
        tolerance: what the bundle allows.
    """

    graph: str
    precision: str
    mean_cosine: float
    min_cosine: float
    max_abs: float
    tolerance: Tolerance

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerance."""
        return self.min_cosine >= self.tolerance.min_cosine and self.max_abs <= self.tolerance.max_abs

    @property
    def figures(self) -> str:
        """What was found and what is allowed, for messages."""
        return (
            f"worst cosine {self.min_cosine:.6f} (at least {self.tolerance.min_cosine:g}), "
            f"largest difference {self.max_abs:.4g} (at most {self.tolerance.max_abs:g})"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: null instead."""
        finite = not math.isnan(self.max_abs)
        return {
            "graph": self.graph,
            "precision": self.precision,
            "min_cosine": self.min_cosine if finite else None,
            "max_abs": self.max_abs if finite else None,
            "tolerance": self.tolerance.model_dump(),
            "ok": self.ok,
        }


def golden_parity(
    bundle: Bundle, *, engine: str, precision: str | None = None, options: BackendOptions | None = None
) -> list[Parity]:
    """Run the golden inputs through each graph by itself, in every size in which it serves, and compare with
    the reference outputs.

    Args:
        bundle: trained or not.
        engine: ``engine:DEVICE``.
        precision: int8, fp16 or fp32; None: the first that the engine can run.

    Raises:
        BundleError: the bundle has nothing for this engine and precision, or was changed meanwhile.
        BackendError: no such engine or device, or it cannot run the graphs.
    """
    golden = bundle.golden()
    with WorldModel.open(
        bundle,
        engine=engine,
        precision=precision,
        # The graph as it will serve: another K is another graph, which an engine may compile to other code.
        num_samples=max(len(golden.actions), bundle.manifest.num_samples),
        options=options,
        allow_untrained=True,
    ) as model:
        tolerance = next(
            value for name, value in bundle.manifest.golden.tolerances.items() if name == model.precision
        )
        return [
            Parity(graph, model.precision, *_difference(computed, reference), tolerance)
            for graph, computed, reference in _outputs(model, golden)
        ]


def _outputs(model: WorldModel, golden: Golden) -> list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    latents = np.stack([model.encode(frame) for frame in golden.frames])
    futures = np.stack([model.predict(golden.actions, latents=latent).latents for latent in golden.latents])
    # One candidate has a graph of its own, or is another size of the predictor. The first may stand still.
    steps = 1 if model.manifest.graphs.step else model.manifest.horizon
    one, expected = golden.actions[-1:, :steps], golden.futures[:, -1:, :steps]
    followed = np.stack([model.predict(one, latents=latent).latents for latent in golden.latents])
    found = [("encoder", latents, golden.latents)]
    if model.manifest.graphs.step:
        found += [("predictor", futures, golden.futures), ("step", followed, expected)]
    else:
        every = np.concatenate([futures, followed], axis=1)
        found.append(("predictor", every, np.concatenate([golden.futures, expected], axis=1)))
    if golden.energy is not None:
        # States are judged singly, and futures together.
        goal, twice = golden.goal[0], np.concatenate([golden.latents, golden.latents])
        singly = np.stack([model.energy(latent, goal) for latent in golden.latents])
        energies = np.concatenate([singly, model.energy(twice, goal)])
        found.append(("energy", energies.reshape(3, -1), np.stack([golden.energy] * 3)))
    return found


def _difference(computed: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float, float]:
    if not np.isfinite(computed).all():
        return float("nan"), float("nan"), float("nan")
    ours, theirs = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (computed, reference))
    found = cosines(ours, theirs)
    return float(found.mean()), float(found.min()), float(np.abs(ours - theirs).max())


def cosines(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines [...] of vectors [..., D]; two vectors of zeros agree."""
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    both_zero = (np.abs(ours).max(axis=-1) < _TINY) & (np.abs(theirs).max(axis=-1) < _TINY)
    return np.where(both_zero, 1.0, (ours * theirs).sum(axis=-1) / np.maximum(norms, _TINY))
