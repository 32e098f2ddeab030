"""The action-conditioned predictor: from the latents of a few frames and K action sequences to K futures.

Every frame is one token of a causal transformer: its latent tokens side by side, projected to ``width``. The
action that follows a frame modulates every block (AdaLN-zero, Peebles and Xie 2023, as in LeWM); the output
is what must be added to the frame's latent to get the next. Attention and MLP of a block run in parallel on
one normalisation (as in ViT-22B, Dehghani et al. 2023), which halves the modulations and shortens the graph.

A rollout computes the frames of the history once for all candidates, and every predicted frame once:
keys and values are kept, so K candidates of H steps cost K * H frames whatever the history. Exported is
either the whole rollout as one flat graph (:class:`Predictor`), or its two halves (:class:`Past` and
:class:`Step`), from which a graph with a loop is made: it holds weights and code of one step, not of H."""

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
    """Sizes. A latent is ``tokens`` x ``dim``; ``width``, ``depth`` and ``heads`` are those of the
    transformer. ``action_scale``: the largest magnitude of each component of an action (SI units), which the
    predictor divides by.

    Raises:
        ValueError: sizes that do not fit each other, or an action without components or scale.
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
    """Windowed attention and MLP side by side on one modulated normalisation, a token a frame.

    ``lag_bias`` [WINDOW, heads] is what the scores gain for looking 0, 1, … frames back: the only thing that
    tells frames apart, so what was computed for a frame stays valid however long the rollout gets."""

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
        """A sequence of frames at once: [batch, n, width], conditions [batch or 1, n, CONDITION_DIM]. Also
        returns the keys and values of each frame."""
        normed, gate, (query, key, value) = self._project(tokens, condition)
        bias = self._sequence_bias(tokens.shape[1])
        attended = merge_heads(attend(*(split_heads(part, self.heads) for part in (query, key, value)), bias))
        made = list(zip(key.split(1, dim=1), value.split(1, dim=1), strict=True))
        return self._add(tokens, gate, attended, normed), made

    def step(
        self, tokens: Tensor, condition: Tensor, past: list[Frame], absent: Tensor | None = None
    ) -> tuple[Tensor, Frame]:
        """One more frame of every candidate: [K or 1, 1, width], [K, 1, CONDITION_DIM]. ``past`` holds the
        keys and values of the frames before, newest last, of batch 1 where candidates share them. ``absent``
        [1, frames, 1, 1] is added to the scores of ``past`` and of the frame itself.

        One query looks at a handful of keys: products and sums of vectors do that in an eighth of the time
        of matrix products of that shape (OpenVINO 2026.4, 64 candidates)."""
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
        return tokens + gate * change

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1))

    def _sequence_bias(self, frames: int) -> Tensor:
        """[heads, frames, frames]: the bias by lag; minus infinity beyond the window and for the future."""
        places = torch.arange(frames, device=self.lag_bias.device)
        lag = places[:, None] - places
        bias = self.lag_bias[lag.clamp(0, WINDOW - 1)].permute(2, 0, 1)
        return bias.masked_fill((lag < 0) | (lag >= WINDOW), -torch.inf)


class Predictor(nn.Module):
    """See the module. T, D: ``tokens`` and ``dim`` of a latent; A: components of an action."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.tokens * config.dim, config.width)
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
        """For training: what follows each frame of a sequence, from it and those before it.

        Args:
            latents: [B, L, T, D].
            actions: [B, L, A], each executed after its frame; None: not known (the action-free mode).

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
        """The graph that is exported: K futures of H steps.

        Args:
            history_latents: [1, W, T, D], oldest first.
            actions: [K, H, A] (SI units), the first executed after the newest latent.
            history_actions: [1, W-1, A] between the latents; None where W is 1.

        Returns:
            [K, H, T, D], of unit scale.
        """
        conditions = self.condition(actions, 0)
        past = self.remember(history_latents[:, :-1], self.condition(history_actions, 0))
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
        """What follows ``latent`` [K or 1, 1, T, D] under ``condition`` [K, 1, CONDITION_DIM], and its keys
        and values block by block; ``past`` and ``absent`` as for a block."""
        tokens, frames = self.embed(latent.flatten(2)), []
        for block, before in zip(self.blocks, past, strict=True):
            tokens, made = block.step(tokens, condition, before, absent)
            frames.append(made)
        return self._follow(latent, tokens), frames

    def remember(self, latents: Tensor, conditions: Tensor) -> list[list[Frame]]:
        """Block by block the keys and values of the history but for its newest frame: common to all
        candidates."""
        if latents.shape[1] == 0:
            return [[] for _ in self.blocks]
        tokens, past = self.embed(latents.flatten(2)), []
        for block in self.blocks:
            tokens, made = block(tokens, conditions)
            past.append(made)
        return past

    def condition(self, actions: Tensor | None, frames: int) -> Tensor:
        """What ``actions`` [B, n, A] tell the blocks: [B, n, CONDITION_DIM]; None: ``frames`` times that
        none is known."""
        if actions is None:
            return self.no_action.expand(1, frames, CONDITION_DIM)
        condition: Tensor = self.embed_action(actions / self.action_scale)
        return condition

    def _follow(self, latents: Tensor, tokens: Tensor) -> Tensor:
        change = self.out(self.norm(tokens)).unflatten(-1, (self.config.tokens, self.config.dim))
        return unit_scale(latents + change)


class Past(nn.Module):
    """What all candidates share: [1, W, T, D], [1, W-1, A] -> the newest latent [1, 1, T, D], and keys and
    values of the WINDOW - 1 frames before it, frame by frame (block by block, key and value): [1, depth * 2,
    width] each; zeros for frames that the history does not have."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, history_latents: Tensor, history_actions: Tensor | None = None) -> tuple[Tensor, ...]:
        blocks = self.predictor.remember(
            history_latents[:, :-1], self.predictor.condition(history_actions, 0)
        )
        frames = [pack(list(frame)) for frame in zip(*blocks, strict=True)][1 - WINDOW :]
        config = self.predictor.config
        none = torch.zeros(1, 2 * config.depth, config.width)
        return history_latents[:, -1:], *[none] * (WINDOW - 1 - len(frames)), *frames


class Step(nn.Module):
    """One step of every candidate: [K, 1, T, D], [K, 1, A], ``absent`` [1, WINDOW, 1, 1] (see
    :meth:`ParallelBlock.step`) and WINDOW - 1 frames as of :class:`Past`, [K, depth * 2, width] each -> the
    next latent [K, 1, T, D] and the frame to remember."""

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
    """Keys and values [K, 1, width] of each block, side by side."""
    return torch.cat([part for frame in frames for part in frame], dim=1)


def unpack(packed: Tensor) -> list[Frame]:
    """The reverse of :func:`pack`."""
    parts = packed.split(1, dim=1)
    return list(zip(parts[::2], parts[1::2], strict=True))
