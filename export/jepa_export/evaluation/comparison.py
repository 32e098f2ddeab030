"""How far one computation lies from another, and predictions from what came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips
from jepa_export.evaluation.reference_outputs import Outputs
from jepa_export.evaluation.results import Comparison, Foresight
from jepa_runtime.model.parity import cosines

# Of 1 - cosine: four bins a decade. What lies outside counts in the first or last bin.
EDGES = np.logspace(-9, 0, 37)
_TINY = 1e-12

Floats64 = NDArray[np.float64]


def compare(name: str, found: Outputs, expected: Outputs) -> Comparison:
    """Compare with what the reference ``name`` computes from the same clips.

    Raises:
        JepaExportError: its outputs have another shape.
    """
    for ours, theirs in ((found.latents, expected.latents), (found.futures, expected.futures)):
        if ours.shape != theirs.shape:
            raise JepaExportError(
                f"{name}: gives {list(theirs.shape)} where the bundle gives {list(ours.shape)}: compare with "
                "a reference of the same tokens and dimensions"
            )
    latents, reference = (outputs.latents.astype(np.float64) for outputs in (found, expected))
    aligned = cosine(latents, reference)
    drift = relative(found.futures, expected.futures)
    counts, _ = np.histogram(np.clip(1 - aligned, EDGES[0], EDGES[-1]), EDGES)
    return Comparison(
        reference=name,
        mean_cosine=float(aligned.mean()),
        worst_cosine=float(aligned.min()),
        pooled_cosine=float(cosine(latents.mean(axis=-2), reference.mean(axis=-2)).mean()),
        max_relative_error=float(np.abs(latents - reference).max() / max(np.abs(reference).max(), _TINY)),
        drift=drift.mean(axis=(0, 1)).tolist(),
        worst_drift=drift.max(axis=(0, 1)).tolist(),
        histogram=counts.tolist(),
    )


def predict(found: Outputs, clips: Clips) -> Foresight:
    """Compare the futures of what was executed with what then was seen, through the same encoder."""
    size = clips.between.shape[1] + 1
    now, came = found.latents[:, size - 1 : size], found.latents[:, size:]
    return Foresight(
        drift=relative(found.futures[:, 0], came).mean(axis=0).tolist(),
        standing_still=relative(now, came).mean(axis=0).tolist(),
    )


def cosine(ours: Floats64, theirs: Floats64) -> Floats64:
    """As :func:`jepa_runtime.model.parity.cosines`, without what rounding adds."""
    return np.clip(cosines(ours, theirs), -1.0, 1.0)


def relative(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Floats64:
    """Norms [...] of the differences of latents [..., T, D], over the norms of ``theirs``."""
    difference, size = (
        np.linalg.norm(array.reshape(*array.shape[:-2], -1).astype(np.float64), axis=-1)
        for array in (ours - theirs, theirs)
    )
    return np.asarray(difference / np.maximum(size, _TINY))
