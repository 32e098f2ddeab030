"""Comparison of two computations of the same outputs, and of predictions with the outcome."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips
from jepa_export.evaluation.reference_outputs import Outputs
from jepa_export.evaluation.results import Comparison, PredictionAccuracy
from jepa_runtime.model import cosines

# Bins of 1 - cosine: four per decade. Values outside count in the first or last bin.
EDGES = np.logspace(-9, 0, 37)
_TINY = 1e-12

Floats64 = NDArray[np.float64]


def compare(name: str, found: Outputs, expected: Outputs) -> Comparison:
    """Compare outputs with those of the reference ``name`` for the same clips.

    Raises:
        JepaExportError: The outputs of the reference have another shape.
    """
    for ours, theirs in ((found.latents, expected.latents), (found.futures, expected.futures)):
        if ours.shape != theirs.shape:
            raise JepaExportError(
                f"reference {name}: outputs have shape {list(theirs.shape)}, those of the bundle "
                f"{list(ours.shape)}; compare with a reference of the same tokens and dimensions",
                code="evaluation.shape_mismatch",
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


def compare_predictions(found: Outputs, clips: Clips) -> PredictionAccuracy:
    """Compare the futures of executed actions with the latents of the frames that followed."""
    size = clips.history_actions.shape[1] + 1
    now, observed = found.latents[:, size - 1 : size], found.latents[:, size:]
    return PredictionAccuracy(
        drift=relative(found.futures[:, 0], observed).mean(axis=0).tolist(),
        standing_still=relative(now, observed).mean(axis=0).tolist(),
    )


def cosine(ours: Floats64, theirs: Floats64) -> Floats64:
    """Return :func:`jepa_runtime.model.parity.cosines`, clipped to remove rounding errors."""
    return np.clip(cosines(ours, theirs), -1.0, 1.0)


def relative(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Floats64:
    """Return the norms [...] of differences of latents [..., T, D], relative to those of ``theirs``."""
    difference, size = (
        np.linalg.norm(array.reshape(*array.shape[:-2], -1).astype(np.float64), axis=-1)
        for array in (ours - theirs, theirs)
    )
    return np.asarray(difference / np.maximum(size, _TINY))
