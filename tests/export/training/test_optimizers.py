"""Muon and AdamW as one optimizer."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon

from jepa_export.training.optimizers import CombinedOptimizer, muon_and_adamw


class Network(nn.Module):
    """A large matrix, a small one, a convolution and positions of the size of a large matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.large, self.small, self.wide = nn.Linear(16, 20), nn.Linear(20, 15), nn.Conv2d(16, 16, 1)
        self.positions = nn.Parameter(torch.randn(16, 16))
        self.norm = nn.LayerNorm(15)

    def forward(self) -> Tensor:
        image = self.wide(self.positions.expand(16, -1, -1)[None])
        out: Tensor = self.norm(self.small(self.large(image[0, 0]))).pow(3).mean()
        return out


def train(network: Network, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network().backward()
        optimizer.step()


def weights(network: Network) -> dict[str, Any]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_muon_gets_the_large_matrices_of_linear_layers_and_adamw_the_rest() -> None:
    network = Network()
    optimizer = muon_and_adamw(network, 1e-3)
    muon, adamw = optimizer.parts
    assert isinstance(muon, Muon) and isinstance(adamw, AdamW)
    (large,) = (value for group in muon.param_groups for value in group["params"])
    assert large is network.large.weight
    held = [value for group in optimizer.param_groups for value in group["params"]]
    assert len(held) == len({id(value) for value in held}) == len(list(network.parameters()))


def test_combined_optimizer_updates_as_its_parts_would() -> None:
    ours, theirs = Network(), Network()
    train(ours, muon_and_adamw(ours, 1e-2), 3)
    parts = muon_and_adamw(theirs, 1e-2).parts
    for _ in range(3):
        theirs.zero_grad()
        theirs().backward()
        for part in parts:
            part.step()
    before = Network().state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
        assert not torch.equal(value, before[name]), name


def test_state_that_was_saved_continues_exactly_with_rates_that_are_set_later() -> None:
    whole = Network()
    optimizer = muon_and_adamw(whole, 1e-2)
    train(whole, optimizer, 2)
    saved_weights, saved = weights(whole), deepcopy(optimizer.state_dict())
    resumed = Network()
    again = muon_and_adamw(resumed, 1e-2)
    resumed.load_state_dict(saved_weights)
    again.load_state_dict(saved)
    for each, network in ((optimizer, whole), (again, resumed)):
        assert isinstance(each, CombinedOptimizer)
        for group in each.param_groups:
            group["lr"] = 3e-3 * group.get("lr_factor", 1.0)
        train(network, each, 2)
    assert [group["lr"] for part in again.parts for group in part.param_groups] == [3e-2, 3e-3]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
