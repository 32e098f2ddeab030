"""The networks: a frame encoder, a head that reads the relative pose of two frames, and a predictor.

A frame becomes :data:`TOKENS` tokens, one for each region of 12 x 8 pixels. How many numbers a token has, and
how deep the networks are, is their :class:`~jepa_recipes.first_person.sizes.NetworkSize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_recipes.first_person.rigid_motion import fit_rigid_motion
from jepa_recipes.first_person.sizes import STUDENT, NetworkSize
from jepa_sim.worlds.first_person.rendering import CAMERA_AHEAD_M, FIELD_OF_VIEW

ROWS, COLUMNS = 6, 12
TOKENS = ROWS * COLUMNS
# Half the width of the image at a depth of 1.
HALF_WIDTH = math.tan(FIELD_OF_VIEW / 2)
PIXEL_MEAN, PIXEL_STD = 127.5, 63.75
# Outputs of RelativePoseHead.
DIRECTION, LOG_DISTANCE, HEADING, LOG_SCALES = slice(0, 2), 2, slice(3, 5), slice(5, 8)
_OUTPUTS = 8
# Added to the distance before its logarithm is learned.
DISTANCE_OFFSET_M = 0.15
# Numbers that describe a motion which was fitted to matches.
_MOTION_FEATURES = 7
# Logarithms of distances of what a token shows, in m: at first, and limits.
_LOG_RANGE, _LOG_RANGES = 0.7, (-2.0, 3.0)
_LEAST_MASS = 1e-4
# Actions, speed and turning rate, are normalized by these.
_ACTION_MEAN, _ACTION_STD = (0.3, 0.0), (0.35, 0.8)


def token_positions() -> Tensor:
    """Return the centers of the tokens in the image [TOKENS, 2]: right and down, from -1 to 1."""
    down = (torch.arange(ROWS) + 0.5) / ROWS * 2 - 1
    right = (torch.arange(COLUMNS) + 0.5) / COLUMNS * 2 - 1
    return torch.stack([right.repeat(ROWS), down.repeat_interleave(COLUMNS)], dim=-1)


def normalized_pixels(frame: Tensor) -> Tensor:
    """Return the pixels of uint8 frames [N, 72, 96, 3] as numbers around 0 [N, 3, 72, 96]."""
    pixels = frame.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return (pixels.float() - PIXEL_MEAN) / PIXEL_STD


_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_fp32(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function of tensors to be computed in fp32 even if autocast is enabled."""

    @wraps(function)
    def computed(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not torch.is_autocast_enabled("cpu"):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            values = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
            return function(*values, **kwargs)  # type: ignore[arg-type]

    return computed


class Attention(nn.Module):
    """Self-attention of tokens [N, T, dim]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query(tokens), key, value)
        )
        if torch.is_autocast_enabled("cpu"):
            # Faster: on CPUs, the backward pass of the fused operation takes longer in bf16 than in fp32.
            mixed = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


def _mlp(dim: int, ratio: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


class Block(nn.Module):
    """Transformer block.

    Args:
        scale: Factor of what attention and MLP add to the tokens.
    """

    def __init__(self, dim: int, heads: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.mlp = Attention(dim, heads), _mlp(dim)
        self.scale = scale

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the tokens [N, T, dim]; ``positions`` are added to the attention's input."""
        normalized = self.attention_norm(tokens)
        if positions is not None:
            normalized = normalized + positions
        tokens = tokens + self.scale * self.attention(normalized)
        out: Tensor = tokens + self.scale * self.mlp(self.mlp_norm(tokens))
        return out


class FrameEncoder(nn.Module):
    """Encoder of uint8 frames [N, 72, 96, 3] (RGB) to latents [N, TOKENS, dim].

    Positions are added to the input of each attention, never to the tokens themselves: they steer where the
    tokens look, and two views of one thing remain comparable wherever they are in the image.
    """

    def __init__(self, size: NetworkSize = STUDENT) -> None:
        super().__init__()
        self.dim = dim = size.dim
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 4, 4),
            nn.GELU(),
            nn.Conv2d(32, 48, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(48, 48, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(48, dim, 3, (3, 2), (0, 1)),
        )
        self.positions = nn.Parameter(torch.randn(1, TOKENS, dim))
        self.blocks = nn.ModuleList(
            Block(dim, size.encoder_heads, scale=0.5) for _ in range(size.encoder_depth)
        )
        self.norm = nn.LayerNorm(dim)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return the tokens [N, TOKENS, dim] of normalized pixels [N, 3, 72, 96]."""
        # In fp32, to which the blocks then add, in every precision.
        features: Tensor = self.convolutions(pixels).float()
        return features.flatten(2).transpose(1, 2)

    def mix(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the latents of embedded tokens, both [N, T, dim].

        Args:
            tokens: The tokens.
            positions: Their positions [N, T, dim]; None: those of the tokens of one frame.
        """
        positions = self.positions if positions is None else positions
        for block in self.blocks:
            tokens = block(tokens, positions)
        out: Tensor = self.norm(tokens)
        return out

    def forward(self, frame: Tensor) -> Tensor:
        return self.mix(self.embed(normalized_pixels(frame)))


class PairHead(nn.Module):
    """Computes outputs [N, outputs] from two latents.

    Each token of the first latent is searched in the second, by several heads. Where it is found, how far it
    has moved in the image, and what it looks like there, is enough to compute the relative pose.

    That is also computed in closed form. The head reads how far away the thing is that each token shows, so
    that matches are pairs of points, and one rigid motion fits them best. A network need not learn this
    geometry then.

    Args:
        size: Size of the networks.
        outputs: Number of outputs.
        heads: Number of searches.
        key_dim: Numbers that a search compares.
        value_dim: Numbers that it finds.
    """

    grid: Tensor
    nowhere: Tensor
    places: Tensor
    rays: Tensor
    camera: Tensor

    def __init__(
        self, size: NetworkSize, outputs: int, *, heads: int = 4, key_dim: int = 24, value_dim: int = 8
    ) -> None:
        super().__init__()
        dim = size.dim
        grid = token_positions()
        right, down = grid[:, :1], grid[:, 1:]
        waves = [torch.sin(grid * math.pi), torch.cos(grid * math.pi)]
        code = torch.cat([grid, grid * grid, right * down, *waves], dim=-1)
        bearing = torch.atan(-right * HALF_WIDTH)
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("rays", torch.cat([bearing.cos(), bearing.sin()], dim=-1), persistent=False)
        self.register_buffer("camera", torch.tensor([CAMERA_AHEAD_M, 0.0]), persistent=False)
        nowhere = torch.zeros(TOKENS + 1, key_dim + 1)
        nowhere[-1, -1] = 1.0
        self.register_buffer("nowhere", nowhere, persistent=False)
        self.heads = heads
        # Lengths of the parts of what a search finds: appearance, point, position, 1; and of the rest, which
        # makes a value as long as a key.
        self._parts = [value_dim, 2, code.shape[1], 1]
        self._parts.append(key_dim + 1 - sum(self._parts))
        places = torch.zeros(TOKENS + 1, key_dim + 1)
        places[:-1, value_dim + 2 : -self._parts[-1]] = torch.cat([code, torch.ones(TOKENS, 1)], dim=-1)
        self.register_buffer("places", places, persistent=False)
        self.query, self.key = nn.Linear(dim, heads * key_dim), nn.Linear(dim, heads * key_dim)
        self.log_sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(12.0)))
        self.not_found = nn.Parameter(torch.zeros(heads, 1, 1))
        self.value = nn.Linear(dim, heads * value_dim)
        self.from_token = nn.Linear(dim, dim)
        self.from_match = nn.Linear(heads * (code.shape[1] + value_dim + 2), dim)
        self.positions = nn.Parameter(torch.randn(1, TOKENS, dim) * 0.02)
        self.block, self.norm = Block(dim, heads=2), nn.LayerNorm(dim)
        # Logarithm of the distance in m of what tokens show; those of the first latent have matches.
        self.first_range, self.second_range = _constant(dim, 1, _LOG_RANGE), _constant(dim, 1, _LOG_RANGE)
        self.confidence = _constant(dim, heads, 0.0)
        self.pooling = nn.Linear(dim, 4)
        self.from_motion = _constant(_MOTION_FEATURES, 2 * dim, 0.0)
        self.output = nn.Sequential(nn.Linear(4 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, outputs))

    def match(self, first: Tensor, second: Tensor) -> Tensor:
        """Return logits [N, heads, TOKENS, TOKENS + 1] of where each token of the first latents is found.

        The last column stands for nowhere. One second latent may be given for all N first ones.
        """
        return _similarity(*self._search(first, second))

    def locate(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of :meth:`match`, and where the things are that tokens show [N, TOKENS, 2].

        The latter are in meters in the frame of the robot at the first latents: ahead and to the left.
        """
        query, key = self._search(first, second)
        tokens = self._find(first, second, query, key)[0]
        return _similarity(query, key), self._points(self.first_range, tokens)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        pooled, motion = self.compare(first, second)
        return self.read(pooled, motion)

    def compare(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the matches show [N, 4 dim], and the motion that fits them [N, 7].

        The latter has the outputs :data:`DIRECTION`, :data:`LOG_DISTANCE` and :data:`HEADING`, then how far
        the matches are from it, and how far they are apart.
        """
        tokens, points, mass = self._find(first, second, *self._search(first, second))
        weights = self.pooling(tokens).softmax(1)
        pooled = (weights.transpose(1, 2) @ tokens).flatten(1)
        return pooled, self._motion(tokens, points / (mass + _LEAST_MASS), mass)

    @in_fp32
    def read(self, pooled: Tensor, motion: Tensor) -> Tensor:
        """Return the outputs, given what :meth:`compare` returns."""
        out: Tensor = self.output[1:](self.output[0](pooled) + self.from_motion(motion))
        return out

    def _search(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries [N, heads, TOKENS, K] and keys [N, heads, TOKENS + 1, K], the last for nowhere."""
        queries, keys = self._by_head(self.query(first)).float(), self._by_head(self.key(second)).float()
        query = functional.normalize(queries, dim=-1) * self.log_sharpness.exp()
        key = functional.normalize(keys, dim=-1)
        not_found = self.not_found.expand_as(query[..., :1])
        return torch.cat([query, not_found], dim=-1), functional.pad(key, (0, 1, 0, 1)) + self.nowhere

    def _find(
        self, first: Tensor, second: Tensor, query: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens of the first latents with their matches [N, TOKENS, dim].

        And the sums of the points that they match [N, heads, TOKENS, 2] and of the weights of these [..., 1].
        """
        values = self._values(second, self._points(self.second_range, second))
        found = _attend(query, key, values)
        value, points, code, mass, _ = found.split(self._parts, dim=-1)
        shift = code[..., :2] - self.grid * mass
        matches = torch.cat([code, value, shift], dim=-1).transpose(1, 2).flatten(2)
        tokens = self.from_token(first) + self.from_match(matches) + self.positions
        return self.norm(self.block(tokens)), points, mass

    def _values(self, second: Tensor, points: Tensor) -> Tensor:
        """Return what a search finds, as many numbers as a key has: appearance, point, position, and 1."""
        value = self._by_head(self.value(second))
        values = torch.cat([value, points[:, None].expand_as(value[..., :2])], dim=-1)
        return functional.pad(values, (0, self.places.shape[1] - values.shape[-1], 0, 1)) + self.places

    @in_fp32
    def _motion(self, tokens: Tensor, found: Tensor, mass: Tensor) -> Tensor:
        seen = self._points(self.first_range, tokens)[:, None].expand_as(found)
        confidence = self.confidence(tokens).transpose(1, 2) + (mass[..., 0] + _LEAST_MASS).log()
        motion = fit_rigid_motion(found.flatten(1, 2), seen.flatten(1, 2), confidence.flatten(1).softmax(-1))
        distance = torch.sqrt(motion.translation.pow(2).sum(-1, keepdim=True) + 1e-4)
        return torch.cat(
            [
                motion.translation / distance,
                torch.log(distance + DISTANCE_OFFSET_M),
                motion.rotation,
                torch.log(motion.residual + 1e-3),
                torch.log(motion.spread),
            ],
            dim=-1,
        )

    @in_fp32
    def _points(self, log_range: nn.Linear, tokens: Tensor) -> Tensor:
        """Return where the things are that tokens show, whose distances a layer reads [N, TOKENS, 2]."""
        distance: Tensor = log_range(tokens).clamp(*_LOG_RANGES).exp()
        return distance * self.rays + self.camera

    def _by_head(self, values: Tensor) -> Tensor:
        out: Tensor = values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return out


class RelativePoseHead(PairHead):
    """Reads the pose of the robot at the second of two latents in the frame of the robot at the first.

    The output [N, 8] has the direction to the second pose (:data:`DIRECTION`: cosine and sine), the logarithm
    of its distance in meters plus :data:`DISTANCE_OFFSET_M` (:data:`LOG_DISTANCE`), its heading
    (:data:`HEADING`: cosine and sine), and the logarithms of the expected errors of these three
    (:data:`LOG_SCALES`). The pose is a mean of the motion that fits the matches, and of what a network reads
    from them, weighted by a gate.

    Args:
        size: Size of the networks.
    """

    def __init__(self, size: NetworkSize = STUDENT) -> None:
        super().__init__(size, _OUTPUTS)
        self.gate = _constant(4 * size.dim + _MOTION_FEATURES, 1, 0.0)

    @in_fp32
    def read(self, pooled: Tensor, motion: Tensor) -> Tensor:
        out = super().read(pooled, motion)
        gate = torch.sigmoid(self.gate(torch.cat([pooled, motion], dim=-1)))
        scales = LOG_SCALES.start
        return torch.cat([gate * motion[:, :scales] + (1 - gate) * out[:, :scales], out[:, scales:]], dim=-1)


@in_fp32
def _similarity(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.transpose(-1, -2)


@in_fp32
def _attend(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, values, scale=1.0)


def _constant(inputs: int, outputs: int, value: float) -> nn.Linear:
    """Return a layer that begins as a constant."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


class ConditionedBlock(nn.Module):
    """Transformer block whose normalizations and gates follow from a condition [N, condition_dim].

    Adaptive layer normalization: Peebles and Xie 2023, "Scalable diffusion models with transformers". It
    begins as a block without a condition.
    """

    def __init__(self, dim: int, heads: int, condition_dim: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.attention, self.mlp = Attention(dim, heads), _mlp(dim)
        self.modulation = nn.Linear(condition_dim, 6 * dim)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            gate = torch.tensor([0.0, 0.0, 1.0])  # Of scale, shift and gate.
            self.modulation.bias.copy_(gate.repeat(2).repeat_interleave(dim))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = (
            self.modulation(condition)[:, None].chunk(6, dim=-1)
        )  # fmt: skip
        tokens = tokens + gate * self.attention(self.attention_norm(tokens) * (1 + scale) + shift)
        out: Tensor = tokens + mlp_gate * self.mlp(self.mlp_norm(tokens) * (1 + mlp_scale) + mlp_shift)
        return out


class ActionPredictor(nn.Module):
    """Predictor of the next latent from a latent, the previous action and the action.

    The previous action is needed because the robot lags: at the moment of an image it still has the velocity
    that the previous action gave it, which the image does not show.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, size: NetworkSize = STUDENT, *, heads: int = 4, condition_dim: int = 64) -> None:
        super().__init__()
        dim = size.dim
        self.condition = nn.Sequential(
            nn.Linear(4, condition_dim), nn.GELU(), nn.Linear(condition_dim, condition_dim), nn.GELU()
        )
        self.positions = nn.Parameter(torch.randn(1, TOKENS, dim) * 0.02)
        self.input = nn.Linear(dim, dim)
        self.blocks = nn.ModuleList(
            ConditionedBlock(dim, heads, condition_dim) for _ in range(size.predictor_depth)
        )
        self.norm, self.output = nn.LayerNorm(dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("action_mean", torch.tensor(_ACTION_MEAN * 2), persistent=False)
        self.register_buffer("action_std", torch.tensor(_ACTION_STD * 2), persistent=False)

    def forward(self, latent: Tensor, previous: Tensor, action: Tensor) -> Tensor:
        """Return latents [N, TOKENS, dim] after ``action`` [N, 2], which follows ``previous`` [N, 2]."""
        actions = torch.cat([previous, action], dim=-1)
        condition = self.condition((actions - self.action_mean) / self.action_std)
        tokens = self.input(latent) + self.positions
        for block in self.blocks:
            tokens = block(tokens, condition)
        out: Tensor = latent + self.output(self.norm(tokens))
        return out


@dataclass(frozen=True)
class Networks:
    """The networks of one model."""

    encoder: FrameEncoder
    head: RelativePoseHead
    predictor: ActionPredictor

    def train(self) -> Networks:
        """Return the networks in training mode."""
        return Networks(self.encoder.train(), self.head.train(), self.predictor.train())

    def eval(self) -> Networks:
        """Return the networks in evaluation mode."""
        return Networks(self.encoder.eval(), self.head.eval(), self.predictor.eval())


def create_networks(size: NetworkSize) -> Networks:
    """Return networks with random weights, from torch's global generator."""
    return Networks(FrameEncoder(size), RelativePoseHead(size), ActionPredictor(size))
