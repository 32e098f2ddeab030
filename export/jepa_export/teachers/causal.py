"""The encoder of V-JEPA 2 or 2.1 with block-causal attention, which reads a stream step by step.

All tokens of a tubelet attend to each other and to those of the previous ``steps - 1`` tubelets, never to
later ones, so keys and values of earlier tubelets can be cached: :class:`CausalStepEncoder` encodes one
tubelet, at a constant cost. :class:`CausalEncoder` computes the same for all tubelets of a clip, for
training.

Positions in time are those in the window of a tubelet: the oldest tubelet that it attends to has position 0.
As the window moves on, the position of a cached key changes, so keys are cached before their rotation. (The
rotation of V-JEPA 2 is not relative: with its frequencies, a score depends on both positions and not only on
their difference, see :mod:`~jepa_export.teachers.rope`.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from jepa_export.errors import JepaExportError
from jepa_export.students.layers import merge_heads, split_heads
from jepa_export.teachers.layers import Block, check_shape
from jepa_export.teachers.rope import Rotation
from jepa_export.teachers.vjepa2 import Encoder, EncoderConfig

# Added to the scores of absent entries; their weights are then exactly 0, also in fp16.
_MASKED = -1e4
_Heads = tuple[Tensor, Tensor, Tensor]


def check_causal(name: str, config: EncoderConfig, steps: int) -> None:
    """Check that an encoder can be causal over a window of ``steps`` tubelets.

    Raises:
        JepaExportError: Its positions are a table, or the window is too short or too long.
    """
    if config.table:
        raise JepaExportError(
            f"{name}: a causal encoder needs rotary positions, and this one adds a table of positions to its "
            "tokens, which cannot move on with a cache: use --time clip:N",
            code="export.option_not_applicable",
        )
    longest = config.frames // config.tubelet
    if not 2 <= steps <= longest:
        raise JepaExportError(
            f"{name}: a causal encoder attends to 2 to {longest} tubelets of {config.tubelet} frames, got "
            f"{steps}: give another number of frames (--time causal:N)",
            code="export.invalid_clip_length",
        )


def entry_shape(config: EncoderConfig) -> tuple[int, int, int, int]:
    """Return the shape of what is cached of a tubelet: keys and values of each block."""
    return config.depth, 2, config.patches, config.width


class CausalEncoder(nn.Module):
    """Block-causal encoder of clips of any length: [batch, T, 3, height, width] -> as :class:`Encoder`.

    Args:
        encoder: The encoder, whose weights are shared.
        steps: Tubelets that a tubelet attends to, itself included.
    """

    def __init__(self, encoder: Encoder, steps: int) -> None:
        super().__init__()
        self.encoder, self.steps = encoder, steps

    def forward(self, clips: Tensor) -> Tensor:
        """Encode normalized clips.

        Raises:
            JepaExportError: The clips have another shape, or no whole number of tubelets.
        """
        config = self.encoder.config
        check_shape("clips", clips, "batch", "frames", 3, *config.frame_size)
        if not clips.shape[1] or clips.shape[1] % config.tubelet:
            raise JepaExportError(
                f"clips: must have a multiple of {config.tubelet} frames, got {clips.shape[1]}",
                code="teacher.shape",
            )

        def attend(index: int, heads: _Heads) -> Tensor:
            query, key, value = (each.split(config.patches, dim=2) for each in heads)
            attended = []
            for newest, each in enumerate(query):
                oldest = max(0, newest + 1 - self.steps)
                window = slice(oldest, newest + 1)
                count = newest + 1 - oldest
                rotation = self.encoder.rope.first(count * config.patches)
                cos, sin = (table[-config.patches :] for table in (rotation.cos, rotation.sin))
                own = Rotation(cos, sin, rotation.partner)
                attended.append(
                    scaled_dot_product_attention(
                        own.apply(each),
                        rotation.apply(torch.cat(key[window], dim=2)),
                        torch.cat(value[window], dim=2),
                    )
                )
            return torch.cat(attended, dim=2)

        return _encode(self.encoder, self.encoder.embed_tubelets(clips), attend)


class CausalStepEncoder(nn.Module):
    """The encoder of the newest tubelet of a stream, with a cache of the previous ``steps - 1`` tubelets.

    Args:
        encoder: The encoder.
        steps: Tubelets that a tubelet attends to, itself included.
    """

    def __init__(self, encoder: Encoder, steps: int) -> None:
        super().__init__()
        self.encoder, self.steps = encoder, steps

    def forward(self, tubelet: Tensor, cache: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a tubelet.

        Args:
            tubelet: Normalized frames [1, tubelet, 3, height, width].
            cache: Entries [steps - 1, *entry_shape] in any order; absent ones are finite.
            positions: [steps], the position in time of each entry and of the tubelet; -1: absent.

        Returns:
            The tokens [1, T, D], and the entry [1, *entry_shape] for the cache.
        """
        config, rope = self.encoder.config, self.encoder.rope
        rows = positions.long().clamp(min=0)
        cos, sin = (
            table[: self.steps * config.patches].unflatten(0, (self.steps, config.patches))[rows]
            for table in (rope.cos, rope.sin)
        )
        own = Rotation(cos[-1], sin[-1], rope.partner)
        every = Rotation(cos.flatten(0, 1), sin.flatten(0, 1), rope.partner)
        absent = (positions < 0).to(cache.dtype) * _MASKED
        mask = absent[:, None].expand(self.steps, config.patches).reshape(1, 1, 1, -1)
        entry: list[Tensor] = []

        def attend(index: int, heads: _Heads) -> Tensor:
            query, key, value = heads
            entry.append(torch.stack([merge_heads(key)[0], merge_heads(value)[0]]))
            known = (split_heads(cache[:, index, row].flatten(0, 1)[None], config.heads) for row in range(2))
            keys, values = (
                torch.cat([old, new], dim=2) for old, new in zip(known, (key, value), strict=True)
            )
            return scaled_dot_product_attention(own.apply(query), every.apply(keys), values, attn_mask=mask)

        tokens = _encode(self.encoder, self.encoder.embed_tubelets(tubelet), attend)
        return tokens, torch.stack(entry)[None]


def _encode(encoder: Encoder, tokens: Tensor, attend: Callable[[int, _Heads], Tensor]) -> Tensor:
    """Run the blocks of an encoder with another attention: index and heads -> heads of the result."""
    out: list[Tensor] = []
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, Block)
        attended = attend(index, block.attn.heads_of(block.norm1(tokens)))
        tokens = tokens + block.attn.proj(merge_heads(attended))
        tokens = tokens + block.mlp(block.norm2(tokens))
        if index in encoder.config.taps:
            out.append(encoder.norms[len(out)](tokens))
    return torch.cat(out, dim=-1)
