"""PyTorch: the exported modules with the same weights.

Eager; or with ``--compile`` through torch.compile in its default mode; or with ``--compile frozen`` with
frozen weights, which it then lays out for its kernels. The mode reduce-overhead of torch.compile uses CUDA
graphs, which a CPU does not have. In bf16 with autocast. In INT8:

    eager           torch.ao's dynamic quantization: weights per channel, activations at run time
    frozen          torchao's quantizer for x86 (PT2E): weights per channel, activations calibrated on the
                    golden inputs; torchao is not a dependency of this project

The weights of an untrained student come from its seed, which the bundle's provenance contains."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from bf16 import has_bf16
from numpy.typing import NDArray
from serving import AbsentError, InTurn, Task, serve

try:
    import torch
    import torch._inductor.config

    from jepa_export.students.family import FAMILY, create, randomize
    from jepa_export.students.layers import Block, attend, merge_heads, split_heads
except ImportError:
    torch = None

if TYPE_CHECKING:
    from torch import nn

_PRECISIONS = {
    None: ("fp32", "bf16", "int8"),
    "default": ("fp32", "bf16"),
    "frozen": ("fp32", "bf16", "int8"),
}
# The encoder reads the weights of this layer itself, to fold the normalization of pixels into them.
_NOT_QUANTIZED = "embed.proj"


class _Modules:
    def __init__(self, task: Task) -> None:
        if torch is None:
            raise AbsentError("torch is not installed (extra export)")
        mode = _mode(task.options)
        if task.precision not in _PRECISIONS[mode]:
            raise AbsentError(f"it has no {task.precision} in this mode")
        if task.precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise AbsentError("torch computes no bf16 on this processor")
        if task.precision == "bf16" and mode is not None and not has_bf16():
            raise AbsentError("it would emulate bf16 on this processor, as eager mode does")
        if mode is not None and shutil.which(os.environ.get("CXX", "g++")) is None:
            raise AbsentError("torch.compile needs a C++ compiler")
        torch.set_num_threads(task.threads)
        self._bf16 = task.precision == "bf16"
        self._encoder, self._predictor = (
            _prepared(module, task, role, mode)
            for role, module in zip(("encoder", "predictor"), _exported(task), strict=True)
        )

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        with torch.no_grad(), self._autocast():
            return self._encoder(torch.from_numpy(frame)).float().numpy()

    def predict(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32], past: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        given = [torch.from_numpy(each) for each in (latents, actions, past) if each is not None]
        with torch.no_grad(), self._autocast():
            return self._predictor(*given).float().numpy()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._bf16)


def _mode(options: list[str]) -> str | None:
    """Return the mode of torch.compile; None: eager."""
    if "--compile" not in options:
        return None
    return "frozen" if "frozen" in options else "default"


def _exported(task: Task) -> tuple[nn.Module, nn.Module]:
    """Return encoder and predictor as they were exported."""
    manifest = task.bundle.manifest
    seed = re.search(r"build .*--seed (\d+)", manifest.provenance.command)
    if manifest.trained or manifest.model_id not in FAMILY or seed is None:
        raise AbsentError("the weights are known for untrained bundles of jepa-export build only")
    action = manifest.io.action
    student = create(
        manifest.model_id,
        px=manifest.io.frame.height,
        action_scale=tuple(max(-low, high) for low, high in zip(action.low, action.high, strict=True)),
        seed=int(seed[1]),
    )
    randomize(student.predictor, int(seed[1]))
    return student.encoder.eval(), student.predictor.eval()


def _prepared(module: nn.Module, task: Task, role: str, mode: str | None) -> Any:
    """Return the module, quantized and compiled as requested."""
    if task.precision == "int8":
        module = _dynamic(module) if mode is None else _static(module, task, role)
    if mode is None:
        return module
    if mode == "frozen":
        # As an option of torch.compile it does not reach all code that needs it (torch 2.13).
        torch._inductor.config.freezing = True
    return torch.compile(module)


def _dynamic(module: nn.Module) -> nn.Module:
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    for each in module.modules():
        if isinstance(each, Block):
            each.forward = partial(_in_one_product, each)
    products = {
        name: per_channel_dynamic_qconfig
        for name, each in module.named_modules()
        if isinstance(each, torch.nn.Linear) and name != _NOT_QUANTIZED
    }
    with warnings.catch_warnings(action="ignore"):  # It is deprecated.
        return quantize_dynamic(module, products, inplace=True)


def _in_one_product(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """Run a block with its layer qkv as one product, which can be replaced by a quantized one."""
    products = block.qkv(block.norm_attention(tokens)).chunk(3, dim=-1)
    query, key, value = (split_heads(part, block.heads) for part in products)
    tokens = tokens + block.out(merge_heads(attend(query, key, value)))
    return tokens + block.mlp(block.norm_mlp(tokens))


def _static(module: nn.Module, task: Task, role: str) -> nn.Module:
    try:
        from torchao.quantization.pt2e import quantize_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except ImportError as error:
        raise AbsentError("torchao is not installed (pip install torchao)") from error
    samples = [tuple(map(torch.from_numpy, inputs.values())) for inputs in task.inputs(role)]
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        exported = torch.export.export(module, samples[0]).module()
        observed = quantize_pt2e.prepare_pt2e(exported, quantizer)
        for sample in samples:
            observed(*sample)
        return quantize_pt2e.convert_pt2e(observed)


if __name__ == "__main__":
    serve(partial(InTurn, open_model=_Modules))
