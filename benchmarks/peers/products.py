"""The time of matrix products of LeWM's sizes alone in OpenVINO: a lower bound for a rollout."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import openvino as ov
import openvino.opset15 as ops

# Widths between the products of a block, each of which reads the output of the one before. (In LeWM keys,
# values and queries have the same input; here the same number of products runs in sequence.)
_BLOCK = (192, 1024, 192, 1024, 192, 2048, 192)
_BLOCKS = 6
# Range of the values rounded to INT8: they have unit scale.
_REACH = 4.0


def products(*, int8: bool) -> ov.Model:
    """Return a model of products alone, ``rows`` [?, 192] -> [?, 192]; ``int8``: with rounded values."""
    rng = np.random.default_rng(0)
    rows = ops.parameter([-1, _BLOCK[0]], np.float32, name="rows")
    rows.output(0).get_tensor().set_names({"rows"})
    node: ov.Node = rows
    for _ in range(_BLOCKS):
        for before, after in pairwise(_BLOCK):
            weights = (rng.standard_normal((after, before)) / np.sqrt(before)).astype(np.float32)
            constant: ov.Node = ops.constant(weights)
            if int8:
                node = ops.fake_quantize(node, *_bounds(-_REACH, _REACH * 127 / 128), levels=256)
                most = np.abs(weights).max(axis=1, keepdims=True)
                constant = ops.fake_quantize(constant, *_bounds(-most, most), levels=255)
            node = ops.matmul(node, constant, transpose_a=False, transpose_b=True)
    result = ops.result(node)
    node.output(0).get_tensor().set_names({"out"})
    return ov.Model([result], [rows], "products")


def multiply_adds(rows: int) -> int:
    """Return the multiply-adds of one call."""
    return rows * _BLOCKS * sum(before * after for before, after in pairwise(_BLOCK))


def _bounds(low: float | np.ndarray, high: float | np.ndarray) -> tuple[ov.Node, ...]:
    """Return the bounds of inputs and the same of outputs."""
    ends = [ops.constant(np.asarray(end, np.float32)) for end in (low, high)]
    return (*ends, *ends)
