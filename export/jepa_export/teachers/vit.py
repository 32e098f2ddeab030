"""Vision transformer of single images (Dosovitskiy et al. 2021) with learned positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_export.teachers.layers import EPS, PatchEmbedding, Sizes, blocks, check_shape, take


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Sizes):
    """Sizes of the vision transformer.

    Attributes:
        class_token: Prepend a token without a position.
        eps: Epsilon of the layer normalizations.
    """

    px: int
    patch: int
    class_token: bool = False
    eps: float = EPS


class ViT(nn.Module):
    """Encoder of images [batch, 3, px, px] to tokens [batch, patches (+ 1), width], row by row."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(3, config.px, config.patch, config.width)
        patches = self.patch_embed.rows * self.patch_embed.columns
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + config.class_token, config.width))
        self.blocks = blocks(config, config.eps)
        self.norm = nn.LayerNorm(config.width, config.eps)

    def forward(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        """Encode ``images``, or only their tokens ``ids`` ([n] or [batch, n]).

        Raises:
            JepaExportError: The images have another shape.
        """
        check_shape("images", images, "batch", 3, self.config.px, self.config.px)
        tokens = self.patch_embed(images)
        if self.config.class_token:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self.pos_embed
        if ids is not None:
            tokens = take(tokens, ids)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out
