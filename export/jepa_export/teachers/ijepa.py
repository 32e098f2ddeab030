"""I-JEPA (Assran et al. 2023), for images. Its weights are for non-commercial use only (CC-BY-NC 4.0)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_export.teachers.layers import EPS, Sizes, blocks, take
from jepa_export.teachers.vit import ViT, ViTConfig


@dataclass(frozen=True, kw_only=True)
class IJEPAConfig:
    """Sizes; ``predictor`` is None for a model without one, as in the ports to Hugging Face."""

    encoder: ViTConfig
    predictor: Sizes | None

    def build(self) -> IJEPA:
        """Return the model with untrained weights."""
        return IJEPA(self)


class Predictor(nn.Module):
    """Predictor from context tokens to tokens at other positions of the same image."""

    def __init__(self, encoder: ViTConfig, sizes: Sizes) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder.width, sizes.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (encoder.px // encoder.patch) ** 2, sizes.width))
        self.blocks = blocks(sizes)
        self.norm = nn.LayerNorm(sizes.width, EPS)
        self.proj = nn.Linear(sizes.width, encoder.width)

    def forward(self, context: Tensor, context_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Predict the tokens at ``target_ids``.

        Args:
            context: Tokens of the encoder, [batch, n, width].
            context_ids: Their positions, [n] or [batch, n].
            target_ids: Positions to predict, [m] or [batch, m].

        Returns:
            [batch, m, width].
        """
        positions = self.pos_embed.expand(len(context), -1, -1)
        tokens = torch.cat(
            [
                self.embed(context) + take(positions, context_ids),
                self.mask_token + take(positions, target_ids),
            ],
            dim=1,
        )
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.proj(self.norm(tokens[:, context.shape[1] :]))
        return out


class IJEPA(nn.Module):
    """The complete model; calling it encodes images."""

    def __init__(self, config: IJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ViT(config.encoder)
        self.predictor = None if config.predictor is None else Predictor(config.encoder, config.predictor)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images [batch, 3, px, px] (see :mod:`normalization`) to [batch, patches, width]."""
        out: Tensor = self.encoder(images)
        return out
