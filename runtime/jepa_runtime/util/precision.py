"""The precisions of the graphs in a bundle."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["int8", "fp16", "bf16", "fp32"]
"""The number format of the weights of a graph."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""All precisions."""
