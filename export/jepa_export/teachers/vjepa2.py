"""V-JEPA 2 (Assran et al. 2025) and V-JEPA 2.1: encoder, predictor, and anticipation without actions.

Both read clips of frames, normalized by :mod:`normalization`. A clip becomes one token for each patch
of each ``tubelet`` frames, frames outermost; the encoder attends in both directions over its clip, so tokens
of the past must never be taken from a clip that contains the future. 2.1 differs only by settings:
interleaved rotary pairs, stretched positions, a separate patch embedding for single images, and a predictor
whose output may lie in its teacher's space instead of the encoder's. That predictor's second output, for
context tokens, is used in training only and omitted here.

The official code can also train V-JEPA 2 with a table of positions that is added to the tokens, instead of
rotary positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.teachers.layers import EPS, PatchEmbedding, Sizes, blocks, check_shape, take
from jepa_export.teachers.rope import Pairing, Rope, grid_positions


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Sizes):
    """Sizes of an encoder.

    Attributes:
        px: Height of a frame in pixels.
        px_across: Width of a frame in pixels (None: the frame is square).
        taps: Blocks whose normalized outputs are concatenated in a token; the last block is one of them.
        frames: Length of the longest clip.
        table: Positions are a table that is added to the tokens, instead of rotary ones.
        span: Side of the grid that rows and columns are stretched to (None: not stretched).
        images: The encoder has a patch embedding for single images.
        modalities: An embedding of the modality (image or video) is added to the tokens.
    """

    px: int
    px_across: int | None = None
    taps: tuple[int, ...]
    frames: int = 64
    patch: int = 16
    tubelet: int = 2
    table: bool = False
    pairing: Pairing = "tiled"
    span: int | None = None
    images: bool = False
    modalities: bool = False

    @property
    def frame_size(self) -> tuple[int, int]:
        """Return the height and width of a frame in pixels."""
        return self.px, self.px if self.px_across is None else self.px_across

    @property
    def grid(self) -> tuple[int, int]:
        """Return the number of rows and columns of patches in a frame."""
        height, width = self.frame_size
        return height // self.patch, width // self.patch

    @property
    def patches(self) -> int:
        """Return the number of patches in a frame."""
        rows, columns = self.grid
        return rows * columns

    @property
    def places(self) -> int:
        """Return the number of tokens of the longest clip."""
        return self.frames // self.tubelet * self.patches

    @property
    def output_dim(self) -> int:
        """Return the width of a token."""
        return len(self.taps) * self.width


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(Sizes):
    """Sizes of a predictor.

    Attributes:
        mask_index: Default mask token: 1, as in Meta's code. (In the published V-JEPA 2 only token 0 is
            reported to be trained.)
        teacher_width: Width of the space of the teacher that the encoder was distilled from, if predictions
            lie in it (None: they lie in the encoder's own space).
        span: Side of the grid that rows and columns are stretched to (None: not stretched, independent of the
            encoder, as in Meta's published models).
    """

    mask_tokens: int
    mask_index: int = 1
    teacher_width: int | None = None
    span: int | None = None


@dataclass(frozen=True, kw_only=True)
class VJEPA2Config:
    """Encoder and predictor of one model.

    Attributes:
        fps: Frame rate of the clips that the model was trained on in Hz (4 in Assran et al. 2025).
    """

    encoder: EncoderConfig
    predictor: PredictorConfig
    fps: float = 4.0

    @property
    def step_s(self) -> float:
        """Return the duration of one tubelet in seconds."""
        return self.encoder.tubelet / self.fps

    @property
    def output_space(self) -> Literal["encoder", "teacher"]:
        """Return the space of predictions: the encoder's output, or only the teacher's."""
        return "encoder" if self.predictor.teacher_width is None else "teacher"

    @property
    def output_dim(self) -> int:
        """Return the width of a predicted token."""
        return self.predictor.teacher_width or self.encoder.output_dim

    def build(self) -> VJEPA2:
        """Return the model with untrained weights."""
        return VJEPA2(self)


class Encoder(nn.Module):
    """Encoder of clips [batch, T, 3, height, width] to tokens [batch, T / tubelet * patches, output_dim]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        size, patch, width = config.frame_size, config.patch, config.width
        self.patch_embed = PatchEmbedding(3 * config.tubelet, size, patch, width)
        if config.images:
            self.patch_embed_img = PatchEmbedding(3, size, patch, width)
        if config.modalities:
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, width))
        if config.table:
            self.pos_embed = nn.Parameter(torch.zeros(1, config.places, width))
        else:
            positions = grid_positions(config.frames // config.tubelet, *config.grid, span=config.span)
            self.rope = Rope(positions, config.head_dim, config.pairing)
        self.blocks = blocks(config)
        self.norms = nn.ModuleList(nn.LayerNorm(width, EPS) for _ in config.taps)

    def forward(self, clips: Tensor, ids: Tensor | None = None) -> Tensor:
        """Encode ``clips``, or only their tokens ``ids`` ([n] or [batch, n]).

        Raises:
            JepaExportError: The clips have another shape or length.
        """
        tokens, rotation = self._embed(clips), None
        count = tokens.shape[1]
        if self.config.table:
            tokens = tokens + self.pos_embed[:, :count]
        else:
            rotation = self.rope.first(count) if ids is None else self.rope.at(ids)
        if ids is not None:
            tokens = take(tokens, ids)
        out: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, rotation)
            if index in self.config.taps:
                out.append(self.norms[len(out)](tokens))
        return torch.cat(out, dim=-1)

    def _embed(self, clips: Tensor) -> Tensor:
        config = self.config
        check_shape("clips", clips, "batch", "frames", 3, *config.frame_size)
        frames = int(clips.shape[1])
        if frames == 1 and config.images:
            image: Tensor = self.patch_embed_img(clips[:, 0])
            return image + self.img_mod_embed if config.modalities else image
        if frames % config.tubelet or not 0 < frames <= config.frames:
            raise JepaExportError(
                f"clips: must have a multiple of {config.tubelet} frames and at most {config.frames}, got "
                f"{frames}; repeat a single image {config.tubelet} times",
                code="teacher.shape",
            )
        return self.embed_tubelets(clips)

    def embed_tubelets(self, clips: Tensor) -> Tensor:
        """Return the tokens of clips of any number of tubelets, before the first block."""
        config = self.config
        steps = int(clips.shape[1]) // config.tubelet
        tubelets = clips.reshape(-1, 3 * config.tubelet, *config.frame_size)
        tokens: Tensor = self.patch_embed(tubelets)
        tokens = tokens.reshape(-1, steps * config.patches, config.width)
        return tokens + self.video_mod_embed if config.modalities else tokens


class Predictor(nn.Module):
    """Predictor from context tokens to tokens at other positions of the same clip, or of its future."""

    def __init__(self, config: VJEPA2Config) -> None:
        super().__init__()
        encoder, own = config.encoder, config.predictor
        self.mask_index = own.mask_index
        if len(encoder.taps) == 1:
            self.embed: nn.Module = nn.Linear(encoder.width, own.width)
        else:
            widths = encoder.output_dim, encoder.width, own.width
            activation = nn.SiLU() if own.gated else nn.GELU()
            self.embed = nn.Sequential(nn.Linear(*widths[:2]), activation, nn.Linear(*widths[1:]))
        self.mask_tokens = nn.Parameter(torch.zeros(own.mask_tokens, own.width))
        self.modalities = encoder.images and encoder.modalities
        if self.modalities:
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, own.width))
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, own.width))
        self.table, self.places = encoder.table, encoder.places
        if self.table:
            self.pos_embed = nn.Parameter(torch.zeros(1, self.places, own.width))
        else:
            # The official predictor counts positions in square frames, also if the frames are not square.
            rows = encoder.grid[0]
            positions = grid_positions(ceil(self.places / rows**2), rows, span=own.span)
            self.rope = Rope(positions[: self.places], own.head_dim, encoder.pairing)
        self.blocks = blocks(own)
        self.norm = nn.LayerNorm(own.width, EPS)
        self.proj = nn.Linear(own.width, config.output_dim)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor,
        target_ids: Tensor,
        *,
        mask_index: int | None = None,
        image: bool = False,
    ) -> Tensor:
        """Predict the tokens at ``target_ids``.

        Args:
            context: Tokens of the encoder, [batch, n, encoder output_dim].
            context_ids: Their positions in the grid of the clip, frames outermost; [n] or [batch, n].
            target_ids: Positions to predict, [m] or [batch, m], below ``places``.
            mask_index: Mask token, modulo their number; None: the configured one.
            image: The context is a single image (2.1).

        Returns:
            [batch, m, output_dim].
        """
        index = (self.mask_index if mask_index is None else mask_index) % len(self.mask_tokens)
        masks = self.mask_tokens[index].expand(context.shape[0], target_ids.shape[-1], -1)
        tokens, rotation = torch.cat([self.embed(context), masks], dim=1), None
        if self.modalities:
            tokens = tokens + (self.img_mod_embed if image else self.video_mod_embed)
        ids = torch.cat([context_ids, target_ids], dim=-1)
        if self.table:
            tokens = tokens + take(self.pos_embed.expand(len(tokens), -1, -1), ids)
        else:
            rotation = self.rope.at(ids)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        out: Tensor = self.proj(self.norm(tokens[:, context.shape[1] :]))
        return out


class FixedPredictor(nn.Module):
    """Predictor for one context and one target, as it is exported: their positions are constants."""

    context_ids: Tensor
    target_ids: Tensor

    def __init__(self, predictor: Predictor, context_ids: Tensor, target_ids: Tensor) -> None:
        super().__init__()
        self.predictor = predictor
        self.register_buffer("context_ids", context_ids, persistent=False)
        self.register_buffer("target_ids", target_ids, persistent=False)

    def forward(self, context: Tensor) -> Tensor:
        out: Tensor = self.predictor(context, self.context_ids, self.target_ids)
        return out


class VJEPA2(nn.Module):
    """The complete model; calling it encodes clips."""

    def __init__(self, config: VJEPA2Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.predictor = Predictor(config)

    def forward(self, clips: Tensor) -> Tensor:
        """Return the tokens of normalized clips, see :class:`Encoder`."""
        out: Tensor = self.encoder(clips)
        return out

    def anticipate(
        self,
        latents: Tensor,
        *,
        skip: int = 0,
        steps: int = 1,
        rounds: int = 1,
        mask_index: int | None = None,
    ) -> Tensor:
        """Predict what comes after a clip, from mask tokens (Meta's anticipation evaluation).

        In further rounds, the predicted tokens replace the oldest ones, and positions do not advance.

        Args:
            latents: All tokens of the clip, as the encoder returns them.
            skip: Steps of ``tubelet`` frames between the clip and the prediction.
            steps: Steps predicted at once.
            rounds: Number of predictions.
            mask_index: See :class:`Predictor`.

        Returns:
            Tokens [batch, rounds * steps * patches, output_dim].

        Raises:
            JepaExportError: The requested future is beyond what the model was trained on, or would have to be
                predicted from predictions in another space.
        """
        count, per_step = int(latents.shape[1]), self.config.encoder.patches
        first, ahead = count + skip * per_step, steps * per_step
        if first + ahead > self.predictor.places:
            raise JepaExportError(
                f"anticipation: clip and prediction span {(first + ahead) // per_step} steps, the model "
                f"{self.predictor.places // per_step}; use a shorter clip, or skip less",
                code="teacher.horizon",
            )
        if rounds > 1 and self.config.output_space == "teacher":
            raise JepaExportError(
                "anticipation: this model predicts in its teacher's space and cannot read its own "
                "predictions; "
                "request more steps instead of rounds",
                code="teacher.horizon",
            )
        places = torch.arange(first + ahead, device=latents.device)
        futures: list[Tensor] = []
        for _ in range(rounds):
            if futures:
                latents = torch.cat([latents[:, ahead:], futures[-1]], dim=1)
            future = self.predictor(latents, places[:count], places[first:], mask_index=mask_index)
            futures.append(future)
        return torch.cat(futures, dim=1)
