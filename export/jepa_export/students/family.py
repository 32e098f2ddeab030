"""The family of students: matched pairs of encoder and predictor, the smallest first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import Encoder, EncoderConfig
from jepa_export.students.predictor import ParallelBlock, Predictor, PredictorConfig


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One member: transformer sizes of both networks, and the latent between them."""

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
    encoder: Encoder
    predictor: Predictor


def create(name: str, *, px: int, action_scale: tuple[float, ...], seed: int) -> Student:
    """A member of the family with fresh weights.

    Args:
        px: side of the frame in pixels, a multiple of 16.
        action_scale: the largest magnitude of each component of an action.
        seed: of the weights; torch's own random state is left alone.

    Raises:
        JepaExportError: there is no such member, or a size is not possible.
    """
    if name not in FAMILY:
        raise JepaExportError(f"no student is called {name!r}; there are: {', '.join(FAMILY)}")
    sizes = FAMILY[name]
    latent = {"tokens": sizes.tokens, "dim": sizes.dim}
    try:
        encoder = EncoderConfig(px=px, patch=16, **_transformer(sizes.encoder), **latent)
        predictor = PredictorConfig(**_transformer(sizes.predictor), **latent, action_scale=action_scale)
    except ValueError as error:
        raise JepaExportError(f"student {name}: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(name, Encoder(encoder).eval(), Predictor(predictor).eval())


def _transformer(sizes: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("width", "depth", "heads"), sizes, strict=True))


def stir(predictor: Predictor, seed: int) -> None:
    """Random numbers where training starts from zeros, so that an untrained predictor computes as much as a
    trained one: with zeros every future is the present."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [block.modulation for block in predictor.blocks if isinstance(block, ParallelBlock)]
    for layer in (*blocks, predictor.out):
        nn.init.normal_(layer.weight, std=0.02, generator=generator)
