"""Variants of a bundle: its form in full precision, and that with noise on the predictor's weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from jepa_runtime.bundle import ROLES, Bundle, seal


def full_precision(bundle: Bundle, folder: Path, **fields: Any) -> Bundle:
    """A copy of the fp32 (ONNX) half of a bundle.

    Args:
        folder: of the copy; it is made.
        fields: of its manifest that differ.

    Raises:
        BundleError: the bundle has no such half.
    """
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("openvino", "manifest.json"))
    manifest = bundle.manifest.model_dump(mode="json") | fields
    for role in ROLES:
        manifest["graphs"][role] = [one for one in manifest["graphs"][role] if one["target"] == "onnx"]
    return seal(folder, manifest)


def perturbed(bundle: Bundle, folder: Path, *, noise: float, seed: int, **fields: Any) -> Bundle:
    """As :func:`full_precision`, with Gaussian noise on the predictor's matrices.

    The golden outputs stay those of the original: the shadow gate does not look at them.

    Args:
        noise: its standard deviation, as a share of the root mean square of each matrix.
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
