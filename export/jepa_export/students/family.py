"""The family of students: matched pairs of encoder and predictor, smallest first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import Encoder, EncoderConfig, FrameEncoder
from jepa_export.students.predictor import ParallelBlock, Predictor, PredictorConfig


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of one member: transformers of both networks, and the latent between them."""

    encoder: tuple[int, int, int]
    """width, depth, heads"""
    predictor: tuple[int, int, int]
    """width, depth, heads"""
    tokens: int
    dim: int


FAMILY = {
    "vit_ti": Sizes(encoder=(192, 12, 2), predictor=(128, 4, 2), tokens=4, dim=128),
    "vit_s": Sizes(encoder=(384, 12, 4), predictor=(192, 4, 3), tokens=8, dim=128),
    "vit_m": Sizes(encoder=(576, 12, 6), predictor=(256, 4, 4), tokens=8, dim=192),
}


@dataclass(frozen=True)
class Student:
    """An encoder and the predictor for its latents."""

    name: str
    encoder: FrameEncoder
    predictor: Predictor


def create(name: str, *, px: int, action_scale: tuple[float, ...], seed: int) -> Student:
    """Return a member of the family with untrained weights.

    Args:
        name: A name in :data:`FAMILY`.
        px: Side of the frame in pixels, a multiple of 16.
        action_scale: Largest magnitude of each action component.
        seed: Seed of the weights; torch's global generator is not changed.

    Raises:
        JepaExportError: The member is unknown, or a size is not possible.
    """
    if name not in FAMILY:
        raise JepaExportError(
            f"student {name!r}: unknown; choose one of {', '.join(FAMILY)}", code="student.unknown"
        )
    sizes = FAMILY[name]
    latent = {"tokens": sizes.tokens, "dim": sizes.dim}
    try:
        encoder = EncoderConfig(px=px, patch=16, **_transformer(sizes.encoder), **latent)
        predictor = PredictorConfig(**_transformer(sizes.predictor), **latent, action_scale=action_scale)
    except ValueError as error:
        raise JepaExportError(f"student {name}: {error}", code="student.sizes") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(name, Encoder(encoder).eval(), Predictor(predictor).eval())


def _transformer(sizes: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("width", "depth", "heads"), sizes, strict=True))


def randomize(predictor: Predictor, seed: int) -> None:
    """Set weights that training initializes to zero to random numbers.

    With zeros each future equals the present, and an untrained predictor would compute less than a trained
    one.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = [block.modulation for block in predictor.blocks if isinstance(block, ParallelBlock)]
    for layer in (*blocks, predictor.out):
        nn.init.normal_(layer.weight, std=0.02, generator=generator)
