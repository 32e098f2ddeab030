"""Copies of a bundle: its full-precision variant, and that with noise on the predictor's weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from jepa_runtime.bundle import ROLES, Bundle, seal


def full_precision(bundle: Bundle, folder: Path, **fields: Any) -> Bundle:
    """Return a copy of a bundle with its fp32 (ONNX) variants only.

    Args:
        bundle: The bundle.
        folder: New folder of the copy.
        fields: Changed fields of its manifest.

    Raises:
        BundleError: The bundle has no such variants.
    """
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("openvino", "manifest.json"))
    manifest = bundle.manifest.model_dump(mode="json") | fields
    for role in ROLES:
        manifest["graphs"][role] = [one for one in manifest["graphs"][role] if one["target"] == "onnx"]
    return seal(folder, manifest)


def perturbed(bundle: Bundle, folder: Path, *, noise: float, seed: int, **fields: Any) -> Bundle:
    """Return a :func:`full_precision` copy with Gaussian noise on the predictor's matrices.

    The golden outputs are those of the original: the shadow gate does not use them.

    Args:
        bundle: The bundle.
        folder: New folder of the copy.
        noise: Standard deviation of the noise relative to the root mean square of each matrix.
        seed: Seed of the noise.
        fields: Changed fields of the manifest.
    """
    copy = full_precision(bundle, folder, **fields)
    path = folder / copy.manifest.graphs.predictor[0].path
    model, random = onnx.load(path), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim >= 2 and weights.dtype == np.float32:
            size = noise * np.sqrt(np.mean(np.square(weights)))
            changed = weights + size * random.standard_normal(weights.shape)
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    onnx.save(model, path)
    return seal(folder, copy.manifest)
