"""The vision transformer of single images (Dosovitskiy et al. 2021) with learned positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_export.teachers.layers import EPS, PatchEmbedding, Sizes, blocks, check_shape, take


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Sizes):
    """Sizes. ``class_token``: a token of no place stands first. ``eps`` is that of the layer norms."""

    px: int
    patch: int
    class_token: bool = False
    eps: float = EPS


class ViT(nn.Module):
    """Images [batch, 3, px, px] -> tokens [batch, patches (+ 1), width], row by row."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(3, config.px, config.patch, config.width)
        patches = self.patch_embed.side**2
        if config.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + config.class_token, config.width))
        self.blocks = blocks(config, config.eps)
        self.norm = nn.LayerNorm(config.width, config.eps)

    def forward(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        """All tokens of ``images``, or of those ``ids`` ([n] or [batch, n]) that alone are then looked at.

        Raises:
            JepaExportError: images of another shape.
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
