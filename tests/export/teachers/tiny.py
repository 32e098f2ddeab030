"""Small teachers of every family, and weights and inputs that follow from a seed.

The golden files contain the outputs of the official code for these weights and inputs. Neither is stored, as
numpy guarantees that ``RandomState`` always generates the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_export.teachers.family import Member
from jepa_export.teachers.ijepa import IJEPAConfig
from jepa_export.teachers.layers import Sizes
from jepa_export.teachers.lewm import LeWMConfig
from jepa_export.teachers.vit import ViTConfig
from jepa_export.teachers.vjepa2 import EncoderConfig, PredictorConfig, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import VJEPA2ACConfig

GOLDEN = Path(__file__).with_name("golden")
PX, SIDE, FRAMES = 48, 3, 4
# A head of 20 is rotated in three parts of 6, one of 14 in parts of 4: both have a remainder.
WIDTH, PRED_WIDTH, TEACHER_WIDTH = 40, 28, 36
CONTEXT, TARGET = [0, 4, 5, 11, 17], [3, 10, 16]
ACTION_DIM, HISTORY = 4, 3

Shapes = Mapping[str, Sequence[int]]


def sizes(width: int, depth: int, heads: int = 2) -> dict[str, int]:
    return {"width": width, "depth": depth, "heads": heads, "hidden": 4 * width}


def _vjepa2_1(*taps: int, teacher_width: int | None) -> Member:
    return Member(
        family="V-JEPA 2.1",
        config=VJEPA2Config(
            encoder=EncoderConfig(
                **sizes(WIDTH, 12),
                px=PX,
                frames=8,
                pairing="interleaved",
                span=16,
                images=True,
                modalities=True,
                taps=taps,
            ),
            predictor=PredictorConfig(**sizes(PRED_WIDTH, 4), mask_tokens=3, teacher_width=teacher_width),
        ),
        weights="ema_encoder",
        published=(),
    )


TINY = {
    "vjepa2": Member(
        family="V-JEPA 2",
        config=VJEPA2Config(
            encoder=EncoderConfig(**sizes(WIDTH, 2), px=PX, frames=8, taps=(1,)),
            predictor=PredictorConfig(**sizes(PRED_WIDTH, 2), mask_tokens=3),
        ),
        weights="target_encoder",
        published=(),
    ),
    "vjepa2_1": _vjepa2_1(11, teacher_width=TEACHER_WIDTH),
    "vjepa2_1_levels": _vjepa2_1(2, 5, 8, 11, teacher_width=None),
    "vjepa2_ac": Member(
        family="V-JEPA 2-AC",
        config=VJEPA2ACConfig(
            encoder=EncoderConfig(**sizes(WIDTH, 2), px=PX, frames=2, taps=(1,)),
            predictor=Sizes(**sizes(PRED_WIDTH, 2)),
            frames=4,
        ),
        weights="encoder",
        published=(),
    ),
    "lewm": Member(
        family="LeWM",
        config=LeWMConfig(
            encoder=ViTConfig(**sizes(24, 2), px=28, patch=14, class_token=True, eps=1e-12),
            depth=2,
            heads=2,
            head_dim=16,
            hidden=40,
            projector=32,
            history=HISTORY,
            action_dim=2,
        ),
        weights="encoder",
        published=(),
    ),
    "ijepa": Member(
        family="I-JEPA",
        config=IJEPAConfig(
            encoder=ViTConfig(**sizes(24, 2), px=42, patch=14), predictor=Sizes(**sizes(12, 2))
        ),
        weights="target_encoder",
        published=(),
        license="CC-BY-NC-4.0",
    ),
}


def seeded(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Set weights large enough that each part of a network affects the output."""
    random = np.random.RandomState(seed)
    return {name: torch.from_numpy(_weight(random, name, tuple(shapes[name]))) for name in sorted(shapes)}


def _weight(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    noise = random.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(noise)
    if len(shape) < 2:
        return 0.2 * noise + (1 if name.endswith("weight") else 0)
    fan_in = 4 if shape[0] == 1 else np.prod(shape[1:])
    return (1.5 / np.sqrt(fan_in) * noise).astype(np.float32)


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Return an input."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def golden(case: str) -> tuple[dict[str, dict[str, list[int]]], dict[str, Tensor]]:
    """Return names and shapes of the official weights by network, and the official outputs."""
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as arrays:
        outputs = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "shapes"}
        return json.loads(str(arrays["shapes"])), outputs


def official(case: str) -> dict[str, Any]:
    """Return a checkpoint in the official format."""
    networks = golden(case)[0]
    if case == "lewm":
        return dict(seeded(networks["model"]))
    encoder, predictor = seeded(networks["encoder"]), seeded(networks["predictor"], seed=1)
    prefix = "module." if case == "ijepa" else "module.backbone."
    wrapped = {prefix + name: tensor for name, tensor in encoder.items()}
    others = {prefix + name: torch.zeros_like(tensor) for name, tensor in encoder.items()}
    return {
        **{name: others for name in ("encoder", "target_encoder")},
        TINY[case].weights: wrapped,
        "predictor": {prefix + name: tensor for name, tensor in predictor.items()},
        "opt": {"param_groups": [{"lr": 0.1}]},
        "epoch": 3,
    }
