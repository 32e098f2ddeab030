"""INT8 as training can bear it: numbers are rounded as the engine will, and gradients pass as if they were
not (straight-through, Bengio et al. 2013).

It is done to the products with weights that post-training quantization takes, the same way (see
:mod:`jepa_export.targets.openvino`): weights symmetric with a scale for each output, activations asymmetric
with one range for the tensor, here that of the batch. Networks and checkpoints stay as they are: it is the
product that is replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from jepa_runtime.backends import cpu_int8

# The largest weight on this machine.
MOST = 63 if cpu_int8.cut_off_here() else 127
_LEAST = 1e-12


class FakeInt8(TorchFunctionMode):
    """While it is active, every linear layer computes with the numbers that INT8 can hold."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is functional.linear:
            inputs, weight, *rest = args
            args = (activations(inputs), weights(weight), *rest)
        return function(*args, **(kwargs or {}))


def weights(values: Tensor) -> Tensor:
    """[outputs, inputs]: for each output, multiples of one distance up to :data:`MOST` of it."""
    scale = values.detach().float().abs().amax(dim=1, keepdim=True).clamp_min(_LEAST) / MOST
    return _straight_through(values, (values / scale).round() * scale)


def activations(values: Tensor) -> Tensor:
    """256 of one distance, from the least value (or 0) to the largest (or 0) that any process has."""
    least, most = values.detach().aminmax()
    reach = torch.stack([-least, most]).float().clamp_min(0)
    if distributed.is_initialized():
        distributed.all_reduce(reach, distributed.ReduceOp.MAX)
    below, above = reach
    scale = (below + above).clamp_min(_LEAST) / 255
    zero = (below / scale).round()
    return _straight_through(values, ((values / scale + zero).round().clamp(0, 255) - zero) * scale)


def _straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    return values + (rounded.to(values.dtype) - values).detach()
