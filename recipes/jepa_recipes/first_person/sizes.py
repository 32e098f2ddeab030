"""The sizes of the networks and of the training set. Without torch, so that the help can list them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Size of the networks.

    Attributes:
        dim: Numbers of a token.
        encoder_depth: Transformer blocks of the encoder.
        encoder_heads: Heads of its attention.
        predictor_depth: Transformer blocks of the predictor.
    """

    dim: int
    encoder_depth: int
    encoder_heads: int
    predictor_depth: int


STUDENTS = {
    "small": NetworkSize(dim=64, encoder_depth=2, encoder_heads=2, predictor_depth=1),
    "base": NetworkSize(dim=96, encoder_depth=3, encoder_heads=2, predictor_depth=2),
    "large": NetworkSize(dim=128, encoder_depth=4, encoder_heads=4, predictor_depth=3),
}
"""The sizes for robots, by name."""
BASE = "base"
"""The name of the size that is trained unless another one is chosen."""
STUDENT = STUDENTS[BASE]
LAYOUTS = 5000
"""Number of houses for training unless another one is chosen."""
TEACHER = NetworkSize(dim=160, encoder_depth=6, encoder_heads=4, predictor_depth=3)
