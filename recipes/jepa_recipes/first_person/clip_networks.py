"""The networks of masked latent prediction: a frame encoder on clips, and the predictor of hidden tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_recipes.first_person.networks import (
    COLUMNS,
    ROWS,
    TOKENS,
    Block,
    FrameEncoder,
    normalized_pixels,
)

# Frames of a clip, one model step apart.
FRAMES = 4


class ClipEncoder(nn.Module):
    """Encoder of uint8 clips [N, F, 72, 96, 3] to latents [N, F * TOKENS, dim], F at most :data:`FRAMES`.

    Its attention is over the tokens of all frames. A clip of one frame is encoded as by the frame encoder.

    Args:
        frame: The frame encoder.
    """

    def __init__(self, frame: FrameEncoder) -> None:
        super().__init__()
        self.frame = frame
        # Positions in time of the frames after the first one, whose tokens have those of a frame alone.
        self.times = nn.Parameter(torch.randn(FRAMES - 1, 1, frame.dim))

    def forward(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode clips.

        Args:
            clips: The clips.
            visible: Numbers of the tokens of a frame that are visible in each clip [N, V]; None: all.

        Returns:
            The latents of visible tokens [N, F V, dim]. No pixel of another one has an effect on them.
        """
        frames = clips.shape[1]
        pixels = normalized_pixels(clips.flatten(0, 1))
        if visible is not None:
            pixels = pixels * _visible_pixels(visible, pixels).repeat_interleave(frames, 0)
        tokens = self.frame.embed(pixels).unflatten(0, clips.shape[:2]).flatten(1, 2)
        first = self.frame.positions
        positions = torch.cat([first, first + self.times[: frames - 1]]).flatten(0, 1)[None]
        if visible is not None:
            numbers = in_clip(visible, frames)
            tokens, positions = take_tokens(tokens, numbers), positions[0][numbers]
        return self.frame.mix(tokens, positions)


class MaskedPredictor(nn.Module):
    """Predictor of the latents of hidden tokens from those of visible ones.

    Args:
        dim: Numbers of a latent token.
        width: Numbers of a token in the predictor: fewer, so that the encoder has to do the work.
        depth: Transformer blocks.
        heads: Heads of the attention.
    """

    def __init__(self, dim: int, *, width: int = 96, depth: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.input, self.hidden = nn.Linear(dim, width), nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(TOKENS, width))
        self.times = nn.Parameter(torch.randn(FRAMES, 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, scale=0.5) for _ in range(depth))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, dim)

    def forward(self, latents: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict the latents of hidden tokens.

        Args:
            latents: Latents of the visible tokens of F frames [N, F V, dim].
            visible: Their numbers in a frame [N, V].
            hidden: Those of the hidden tokens [N, M].

        Returns:
            [N, F M, dim].
        """
        frames = latents.shape[1] // visible.shape[1]
        numbers = torch.cat([in_clip(visible, frames), in_clip(hidden, frames)], dim=1)
        positions = (self.positions + self.times[:frames]).flatten(0, 1)[numbers]
        masked = self.hidden.expand(len(latents), frames * hidden.shape[1], -1)
        tokens = torch.cat([self.input(latents), masked], dim=1)
        for block in self.blocks:
            tokens = block(tokens, positions)
        out: Tensor = self.output(self.norm(tokens[:, latents.shape[1] :]))
        return out


def in_clip(numbers: Tensor, frames: int) -> Tensor:
    """Return the numbers of tokens in clips [N, F M], given those in a frame [N, M]."""
    return (numbers[:, None] + TOKENS * torch.arange(frames)[:, None]).flatten(1)


def take_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Return the tokens [N, M, dim] with the given numbers [N, M] of tokens [N, T, dim]."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[-1]))


def _visible_pixels(visible: Tensor, pixels: Tensor) -> Tensor:
    """Return 1 for the pixels of visible tokens and 0 for others [N, 1, height, width]."""
    seen = pixels.new_zeros(len(visible), TOKENS).scatter(1, visible, 1.0).view(-1, 1, ROWS, COLUMNS)
    height, width = pixels.shape[-2] // ROWS, pixels.shape[-1] // COLUMNS
    return seen.repeat_interleave(height, 2).repeat_interleave(width, 3)
