"""The action-conditioned predictor: from the latents of a few frames and K action sequences to K futures.

Each frame is one token of a causal transformer: its latent tokens concatenated and projected to ``width``.
The action that follows a frame modulates each block (AdaLN-zero, Peebles and Xie 2023, as in LeWM); the
output is the difference between the latent of the frame and that of the next. Attention and MLP of a block
run in parallel after one normalization (as in ViT-22B, Dehghani et al. 2023), which halves the modulations
and shortens the graph.

A rollout computes the frames of the history once for all candidates, and each predicted frame once: keys and
values are cached, so K candidates of H steps cost K * H frames for any history. The exported graph is either
the whole rollout as one flat graph (:class:`Predictor`), or its two halves (:class:`Past` and :class:`Step`),
from which a graph with a loop is made: it holds weights and code of one step instead of H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.students.layers import MLP_RATIO, attend, merge_heads, split_heads, unit_scale

CONDITION_DIM = 64
WINDOW = 4
# Keys and values of one frame, [K or 1, 1, width] each.
Frame = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """Sizes of the predictor.

    Attributes:
        tokens: Number of tokens of a latent.
        dim: Dimensions of a token.
        width: Width of the transformer.
        depth: Number of its layers.
        heads: Number of heads of a layer.
        action_scale: Largest magnitude of each action component (SI units), by which actions are divided.

    Raises:
        ValueError: The sizes are incompatible, or ``action_scale`` is empty or not positive.
    """

    tokens: int
    dim: int
    width: int
    depth: int
    heads: int
    action_scale: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of 2 x heads ({2 * self.heads}), got {self.width}")
        if not self.action_scale or min(self.action_scale) <= 0:
            raise ValueError(f"action_scale must be positive numbers, got {self.action_scale}")


class ParallelBlock(nn.Module):
    """Windowed attention and MLP in parallel after one modulated normalization, one token per frame.

    ``lag_bias`` [WINDOW, heads] is added to the scores of the frames 0, 1, … steps back. Frames are
    distinguished by nothing else, so what was computed for a frame stays valid for any length of the rollout.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(CONDITION_DIM, 3 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.lag_bias = nn.Parameter(torch.zeros(WINDOW, heads))
        self.attended = nn.Linear(width, width)
        self.hidden = nn.Linear(width, MLP_RATIO * width)
        self.out = nn.Linear(MLP_RATIO * width, width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, condition: Tensor) -> tuple[Tensor, list[Frame]]:
        """Process a sequence of frames at once.

        Args:
            tokens: [batch, n, width].
            condition: [batch or 1, n, CONDITION_DIM].

        Returns:
            The tokens, and the keys and values of each frame.
        """
        normed, gate, (query, key, value) = self._project(tokens, condition)
        bias = self._sequence_bias(tokens.shape[1])
        of_query, of_key, of_value = (split_heads(part, self.heads) for part in (query, key, value))
        attended = merge_heads(attend(of_query, of_key, of_value, bias))
        made = list(zip(key.split(1, dim=1), value.split(1, dim=1), strict=True))
        return self._add(tokens, gate, attended, normed), made

    def step(
        self, tokens: Tensor, condition: Tensor, past: list[Frame], absent: Tensor | None = None
    ) -> tuple[Tensor, Frame]:
        """Process one more frame of each candidate.

        One query attends to a few keys: products and sums of vectors take an eighth of the time of matrix
            products of
        that shape (OpenVINO 2026.4, 64 candidates).

        Args:
            tokens: [K or 1, 1, width].
            condition: [K, 1, CONDITION_DIM].
            past: Keys and values of the previous frames, newest last, of batch 1 if candidates share them.
            absent: [1, frames, 1, 1], added to the scores of ``past`` and of the frame itself.
        """
        normed, gate, (query, key, value) = self._project(tokens, condition)
        frames = [*past[1 - WINDOW :], (key, value)]
        query = self._heads(query) * (query.shape[-1] // self.heads) ** -0.5
        scores = [(query * self._heads(key)).sum(-1, keepdim=True) for key, _ in frames]
        bias = self.lag_bias[: len(frames)].flip(0)[..., None]
        if absent is not None:
            bias = bias + absent
        weights = (torch.cat(scores, dim=1) + bias).softmax(1).split(1, dim=1)
        attended = sum(
            (weight * self._heads(value) for weight, (_, value) in zip(weights, frames, strict=True)),
            start=torch.zeros(()),
        )
        return self._add(tokens, gate, attended.flatten(2), normed), (key, value)

    def _project(self, tokens: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        normed = self.norm(tokens) * (1 + scale) + shift
        return normed, gate, list(self.qkv(normed).chunk(3, dim=-1))

    def _add(self, tokens: Tensor, gate: Tensor, attended: Tensor, normed: Tensor) -> Tensor:
        change = self.attended(attended) + self.out(functional.gelu(self.hidden(normed)))
        added: Tensor = tokens + gate * change
        return added

    def _heads(self, tokens: Tensor) -> Tensor:
        by_head: Tensor = tokens.unflatten(-1, (self.heads, -1))
        return by_head

    def _sequence_bias(self, frames: int) -> Tensor:
        """Return the bias by lag, [heads, frames, frames]; minus infinity outside the causal window."""
        places = torch.arange(frames, device=self.lag_bias.device)
        lag = places[:, None] - places
        bias = self.lag_bias[lag.clamp(0, WINDOW - 1)].permute(2, 0, 1)
        return bias.masked_fill((lag < 0) | (lag >= WINDOW), -torch.inf)


class Predictor(nn.Module):
    """The predictor. T, D: ``tokens`` and ``dim`` of a latent; A: components of an action."""

    action_scale: Tensor

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: nn.Module = nn.Linear(config.tokens * config.dim, config.width)
        self.embed_action = nn.Sequential(
            nn.Linear(len(config.action_scale), CONDITION_DIM),
            nn.SiLU(),
            nn.Linear(CONDITION_DIM, CONDITION_DIM),
            nn.SiLU(),
        )
        self.no_action = nn.Parameter(0.02 * torch.randn(CONDITION_DIM))
        self.blocks = nn.ModuleList(ParallelBlock(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.tokens * config.dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("action_scale", torch.tensor(config.action_scale), persistent=False)

    def next_latents(self, latents: Tensor, actions: Tensor | None) -> Tensor:
        """Predict the latent after each frame of a sequence, from it and the frames before it, for training.

        Args:
            latents: [B, L, T, D].
            actions: [B, L, A], each executed after its frame; None: unknown (the action-free mode).

        Returns:
            [B, L, T, D], of unit scale.
        """
        tokens, condition = self.embed(latents.flatten(2)), self.condition(actions, latents.shape[1])
        for block in self.blocks:
            tokens, _ = block(tokens, condition)
        return self._follow(latents, tokens)

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """Predict K futures of H steps; this is the exported graph.

        Args:
            history_latents: [1, W, T, D], oldest first.
            actions: [K, H, A] (SI units), the first executed after the newest latent.
            history_actions: [1, W-1, A], between the latents; None if W is 1.

        Returns:
            [K, H, T, D], of unit scale.
        """
        conditions = self.condition(actions, 0)
        past = self.cache(history_latents[:, :-1], self.condition(history_actions, 0))
        latent, futures = history_latents[:, -1:], []
        for step in range(conditions.shape[1]):
            latent, made = self.step(latent, conditions[:, step : step + 1], past)
            for frames, frame in zip(past, made, strict=True):
                frames.append(frame)
            futures.append(latent)
        return torch.cat(futures, dim=1)

    def step(
        self, latent: Tensor, condition: Tensor, past: list[list[Frame]], absent: Tensor | None = None
    ) -> tuple[Tensor, list[Frame]]:
        """Predict what follows ``latent`` [K or 1, 1, T, D] under ``condition`` [K, 1, CONDITION_DIM].

        ``past`` and ``absent``: see :meth:`ParallelBlock.step`.

        Returns:
            The next latent, and the keys and values of this frame in each block.
        """
        tokens, frames = self.embed(latent.flatten(2)), []
        for block, before in zip(self.blocks, past, strict=True):
            assert isinstance(block, ParallelBlock)
            tokens, made = block.step(tokens, condition, before, absent)
            frames.append(made)
        return self._follow(latent, tokens), frames

    def cache(self, latents: Tensor, conditions: Tensor) -> list[list[Frame]]:
        """Return for each block the keys and values of all past frames, shared by all candidates."""
        if latents.shape[1] == 0:
            return [[] for _ in self.blocks]
        tokens, past = self.embed(latents.flatten(2)), []
        for block in self.blocks:
            tokens, made = block(tokens, conditions)
            past.append(made)
        return past

    def condition(self, actions: Tensor | None, frames: int) -> Tensor:
        """Return the conditions [B, n, CONDITION_DIM] of ``actions`` [B, n, A], or of unknown actions."""
        if actions is None:
            return self.no_action.expand(1, frames, CONDITION_DIM)
        condition: Tensor = self.embed_action(actions / self.action_scale)
        return condition

    def _follow(self, latents: Tensor, tokens: Tensor) -> Tensor:
        change = self.out(self.norm(tokens)).unflatten(-1, (self.config.tokens, self.config.dim))
        return unit_scale(latents + change)


class Past(nn.Module):
    """The part of a rollout that all candidates share.

    [1, W, T, D], [1, W-1, A] -> the newest latent [1, 1, T, D], and keys and values of the WINDOW - 1 frames
    before it (for each block, key and value), [1, depth * 2, width] each; zeros for frames before the
    history.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, history_latents: Tensor, history_actions: Tensor | None = None) -> tuple[Tensor, ...]:
        blocks = self.predictor.cache(history_latents[:, :-1], self.predictor.condition(history_actions, 0))
        frames = [pack(list(frame)) for frame in zip(*blocks, strict=True)][1 - WINDOW :]
        config = self.predictor.config
        none = torch.zeros(1, 2 * config.depth, config.width)
        return history_latents[:, -1:], *[none] * (WINDOW - 1 - len(frames)), *frames


class Step(nn.Module):
    """One step of each candidate.

    [K, 1, T, D], [K, 1, A], ``absent`` [1, WINDOW, 1, 1] (see :meth:`ParallelBlock.step`) and WINDOW - 1
    frames as in :class:`Past`, [K, depth * 2, width] each -> the next latent [K, 1, T, D] and the frame to
    cache.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(
        self, latent: Tensor, action: Tensor, absent: Tensor, *frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        unpacked = [unpack(frame) for frame in frames]
        past = [list(block) for block in zip(*unpacked, strict=True)]
        following, made = self.predictor.step(latent, self.predictor.condition(action, 0), past, absent)
        return following, pack(made)


def pack(frames: list[Frame]) -> Tensor:
    """Concatenate the keys and values [K, 1, width] of all blocks."""
    return torch.cat([part for frame in frames for part in frame], dim=1)


def unpack(packed: Tensor) -> list[Frame]:
    """Reverse :func:`pack`."""
    parts = packed.split(1, dim=1)
    return list(zip(parts[::2], parts[1::2], strict=True))
