"""Quantization-aware training for INT8, with straight-through gradients (Bengio et al. 2013).

Values are rounded as the engine will round them. This applies to the linear layers that post-training
quantization quantizes, in the same way (see :mod:`jepa_export.targets.openvino`): weights symmetric with one
scale per output, activations asymmetric with one range per tensor, here that of the batch. Networks and
checkpoints stay unchanged: only the matrix product is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from jepa_runtime.backends import cpu_int8

# The largest quantized weight on this CPU.
MAX_WEIGHT = 63 if cpu_int8.saturates_here() else 127
_MIN_SCALE = 1e-12


class FakeInt8(TorchFunctionMode):
    """While active, every linear layer computes with values that INT8 can represent."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is functional.linear:
            inputs, weight, *rest = args
            args = (quantize_activations(inputs), quantize_weights(weight), *rest)
        return function(*args, **(kwargs or {}))


def quantize_weights(values: Tensor) -> Tensor:
    """Round weights [outputs, inputs] to multiples of one scale per output, up to :data:`MAX_WEIGHT`."""
    scale = values.detach().float().abs().amax(dim=1, keepdim=True).clamp_min(_MIN_SCALE) / MAX_WEIGHT
    return _straight_through(values, (values / scale).round() * scale)


def quantize_activations(values: Tensor) -> Tensor:
    """Round to 256 values between the minimum (or 0) and the maximum (or 0) over all processes."""
    minimum, maximum = values.detach().aminmax()
    reach = torch.stack([-minimum, maximum]).float().clamp_min(0)
    if distributed.is_initialized():
        distributed.all_reduce(reach, distributed.ReduceOp.MAX)
    below, above = reach
    scale = (below + above).clamp_min(_MIN_SCALE) / 255
    zero = (below / scale).round()
    return _straight_through(values, ((values / scale + zero).round().clamp(0, 255) - zero) * scale)


def _straight_through(values: Tensor, rounded: Tensor) -> Tensor:
    return values + (rounded.to(values.dtype) - values).detach()
