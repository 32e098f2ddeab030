"""LeWM (Maes et al. 2026): one token per frame, and a small causal predictor that is modulated by actions.

An action here is everything that is commanded between two frames: ``frame skip`` actions of the robot
concatenated, each component standardized over the training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from jepa_export.errors import JepaExportError
from jepa_export.students.layers import merge_heads, split_heads
from jepa_export.teachers.layers import EPS, check_shape
from jepa_export.teachers.vit import ViT, ViTConfig


@dataclass(frozen=True, kw_only=True)
class LeWMConfig:
    """Sizes of the model.

    Attributes:
        history: Frames that the predictor reads.
        head_dim: Size of a head, independent of the width.
        projector: Width inside the projections of latents.
        action_dim: Numbers in an action.
        mixed: Output size of the first layer of the action encoder.
    """

    encoder: ViTConfig
    depth: int
    heads: int
    head_dim: int
    hidden: int
    projector: int
    history: int
    action_dim: int
    mixed: int = 10

    def build(self) -> LeWM:
        """Return the model with untrained weights."""
        return LeWM(self)


class Attention(nn.Module):
    """Causal self-attention with its own layer normalization."""

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_dim
        self.norm = nn.LayerNorm(config.encoder.width)
        self.qkv = nn.Linear(config.encoder.width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, config.encoder.width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        parts = self.qkv(self.norm(tokens)).chunk(3, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in parts)
        out: Tensor = self.proj(merge_heads(scaled_dot_product_attention(query, key, value, attn_mask=mask)))
        return out


class ModulatedBlock(nn.Module):
    """Transformer block that a condition shifts, scales and gates (AdaLN-zero, Peebles and Xie 2023)."""

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        width = config.encoder.width
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.norm = nn.LayerNorm(width, EPS, elementwise_affine=False)
        self.attn = Attention(config)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, width)
        )

    def forward(self, tokens: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition).chunk(6, dim=-1)
        tokens = tokens + gate * self.attn(self.norm(tokens) * (1 + scale) + shift, mask)
        out: Tensor = tokens + mlp_gate * self.mlp(self.norm(tokens) * (1 + mlp_scale) + mlp_shift)
        return out


class Projection(nn.Module):
    """MLP with batch normalization in its hidden layer: [..., width] -> the same shape."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, latents: Tensor) -> Tensor:
        out: Tensor = self.net(latents.flatten(0, -2)).unflatten(0, latents.shape[:-1])
        return out


class LeWM(nn.Module):
    """The complete model; calling it encodes frames."""

    mask: Tensor

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder.width
        self.encoder = ViT(config.encoder)
        self.projector = Projection(width, config.projector)
        self.mix = nn.Linear(config.action_dim, config.mixed)
        self.action_encoder = nn.Sequential(
            nn.Linear(config.mixed, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, config.history, width))
        self.blocks = nn.ModuleList(ModulatedBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.pred_proj = Projection(width, config.projector)
        causal = torch.full((config.history, config.history), -1e4).triu(1)
        self.register_buffer("mask", causal, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode frames [batch, T, 3, px, px], normalized by :mod:`normalization`, to [batch, T, width]."""
        tokens = self.encoder(images.flatten(0, 1))[:, 0]
        out: Tensor = self.projector(tokens.unflatten(0, images.shape[:2]))
        return out

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Predict for each of at most ``history`` frames the latent of the next.

        Args:
            latents: [batch, T, width].
            actions: Actions from each frame to the next, [batch, T, action_dim].

        Raises:
            JepaExportError: A tensor has another shape, or there are too many frames.
        """
        frames = int(latents.shape[1])
        check_shape("latents", latents, "batch", frames, self.config.encoder.width)
        check_shape("actions", actions, "batch", frames, self.config.action_dim)
        if frames > self.config.history:
            raise JepaExportError(
                f"latents: the predictor reads at most {self.config.history} frames, got {frames}",
                code="teacher.shape",
            )
        tokens = latents + self.pos_embed[:, :frames]
        condition = self.action_encoder(self.mix(actions))
        for block in self.blocks:
            tokens = block(tokens, condition, self.mask[:frames, :frames])
        out: Tensor = self.pred_proj(self.norm(tokens))
        return out

    def rollout(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Predict the latents that follow ``latents``.

        Args:
            latents: [batch, T, width].
            actions: [batch, T - 1 + H, action_dim]; the first T - 1 lead from each known frame to the next.

        Returns:
            [batch, H, width].
        """
        known = int(latents.shape[1])
        for end in range(known, int(actions.shape[1]) + 1):
            start = max(0, end - self.config.history)
            following = self.predict(latents[:, start:end], actions[:, start:end])[:, -1:]
            latents = torch.cat([latents, following], dim=1)
        return latents[:, known:]
