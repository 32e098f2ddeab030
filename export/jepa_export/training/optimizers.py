"""Optimizers of modules with transformer blocks: Muon for the large matrices, AdamW for the rest."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

# Smaller ones, such as projections to a few outputs, are left to AdamW.
_LEAST_SIDE = 16
_WEIGHT_DECAY = 0.01
# Learning rate of Muon in relation to AdamW's.
_MUON_FACTOR = 10.0


class CombinedOptimizer(Optimizer):
    """Several optimizers of different parameters as one.

    Args:
        parts: The optimizers.
    """

    def __init__(self, *parts: Optimizer) -> None:
        # The groups are shared: a learning rate that is set here is that of the part.
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters once."""
        del closure
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def muon_and_adamw(module: nn.Module, learning_rate: float) -> CombinedOptimizer:
    """Return Muon for the weights of linear layers of at least 16 x 16, and AdamW for all other parameters.

    Muon: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". It is for matrices
    that multiply vectors; positions, norms and convolutions are none.
    """
    matrices = [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and min(layer.weight.shape) >= _LEAST_SIDE
    ]
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in module.parameters() if id(parameter) not in chosen]
    muon = Muon(
        [{"params": matrices, "lr_factor": _MUON_FACTOR}],
        lr=learning_rate,
        weight_decay=_WEIGHT_DECAY,
        momentum=0.95,
        ns_steps=4,
    )
    return CombinedOptimizer(
        muon, AdamW(others, lr=learning_rate, weight_decay=_WEIGHT_DECAY, betas=(0.9, 0.98))
    )
