"""LeWM's rollout of many candidates as one flat graph that computes nothing twice.

LeWM attends over a window of ``history`` frames, and the position of a frame in it matters: once the window
has moved, what was computed for a frame at its old position cannot be reused. So a rollout consists of pairs
of a frame and a position. Each is computed once, all positions of a frame together as soon as it is known:
from one frame, five steps take 9 pairs; the published loop, which computes each window whole, takes 12.

Unused values are omitted: queries at position 0, where a frame attends only to itself; and in the last block,
everything but keys and values of pairs that nothing is predicted from. Affine normalizations are folded into
the adjacent matrix products. The results equal those of :meth:`LeWM.rollout` up to rounding.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.nn.utils.fusion import fuse_linear_bn_eval

from jepa_export.teachers.lewm import LeWM, ModulatedBlock, Projection

# Keys and values [1, K or 1, heads * head_dim] of a pair, by its frame and its position.
Memory = dict[tuple[int, int], tuple[Tensor, Tensor]]


class Rollout(nn.Module):
    """The predictor graph that the runtime expects.

    Tensors that differ between candidates have K rows, shared ones have one.

    Args:
        model: A model in evaluation mode; it is not modified.
    """

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.window = model.config.history
        self.mix, self.action_encoder = model.mix, model.action_encoder
        self.pos_embed, self.norm = model.pos_embed, model.norm
        self.blocks = nn.ModuleList(
            Block(block) for block in model.blocks if isinstance(block, ModulatedBlock)
        )
        self.pred_proj = _folded(model.pred_proj)

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """Predict K futures of H steps.

        Args:
            history_latents: [1, W, 1, D], oldest first; latents beyond the model's own history are not read.
            actions: [K, H, A], the first executed after the newest latent.
            history_actions: [1, W-1, A], between the latents; None if W is 1.

        Returns:
            [K, H, 1, D].
        """
        latents = list(history_latents[0, -self.window :].unbind(0))
        known = len(latents)
        conditions = list(self._condition(actions))
        if history_actions is not None and known > 1:
            conditions = [*self._condition(history_actions[:, 1 - known :]), *conditions]
        last_window = max(0, len(conditions) - self.window)
        memories: list[Memory] = [{} for _ in self.blocks]
        for frame, condition in enumerate(conditions):
            places = range(max(0, frame - last_window), min(frame, self.window - 1) + 1)
            tokens = latents[frame] + self.pos_embed[0, places.start : places.stop, None]
            for block, memory in zip(self.blocks, memories, strict=True):
                needed = places[-1:] if memory is memories[-1] else places
                tokens = block(tokens, condition, memory, frame, places, needed)
            if frame >= known - 1:
                latents.append(self.pred_proj(self.norm(tokens[-1])))
        return torch.stack(latents[known:], dim=1)[:, :, None]

    def _condition(self, actions: Tensor) -> tuple[Tensor, ...]:
        """Return the condition [batch, D] of each step of ``actions`` [batch, n, A]."""
        return silu(self.action_encoder(self.mix(actions))).unbind(1)


class Block(nn.Module):
    """One block, for one frame at several positions."""

    def __init__(self, block: ModulatedBlock) -> None:
        super().__init__()
        attn = block.attn
        self.heads, self.norm = attn.heads, block.norm
        self.modulation = block.modulation[1]
        self.attn_norm = nn.LayerNorm(attn.norm.normalized_shape, attn.norm.eps, elementwise_affine=False)
        # Three products: splitting the output of one product would be a copy.
        weights = attn.qkv.weight.chunk(3)
        self.query, self.key, self.value = (_fold_norm(attn.norm, weight) for weight in weights)
        self.proj, self.mlp = attn.proj, block.mlp

    def forward(
        self, tokens: Tensor, condition: Tensor, memory: Memory, frame: int, places: range, needed: range
    ) -> Tensor:
        """Compute tokens [positions, K or 1, D] of ``frame``; return those at ``needed``, the last ones."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition).chunk(6, dim=-1)
        normed = self.attn_norm(self.norm(tokens) * (1 + scale) + shift)
        keys, values = _split_positions(self.key(normed)), _split_positions(self.value(normed))
        for place, key, value in zip(places, keys, values, strict=True):
            memory[frame, place] = key, value
        tokens = tokens[-len(needed) :]
        attending = [place for place in needed if place]
        queries = _split_positions(self.query(normed[-len(attending) :])) if attending else ()
        attended = [values[0]] if needed[0] == 0 else []
        for place, query in zip(attending, queries, strict=True):
            seen = [memory[frame - place + earlier, earlier] for earlier in range(place + 1)]
            attended.append(self._attend(query, seen))
        tokens = tokens + gate * self.proj(torch.cat(attended))
        out: Tensor = tokens + mlp_gate * self.mlp(self.norm(tokens) * (1 + mlp_scale) + mlp_shift)
        return out

    def _attend(self, query: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attend with one query [1, K or 1, heads * head_dim] to a few keys.

        Sums and products of vectors take a fraction of the time of matrix products and a softmax of that
        shape (OpenVINO 2026.4).
        """

        def heads(part: Tensor) -> Tensor:
            by_head: Tensor = part.unflatten(-1, (self.heads, -1))
            return by_head

        scale = (query.shape[-1] // self.heads) ** -0.5
        scores = [(heads(query) * heads(key)).sum(-1, keepdim=True) * scale for key, _ in seen]
        largest = scores[0]
        for score in scores[1:]:
            largest = torch.maximum(largest, score)
        weights = [(score - largest).exp() for score in scores]
        total, attended = weights[0], weights[0] * heads(seen[0][1])
        for weight, (_, value) in zip(weights[1:], seen[1:], strict=True):
            total, attended = total + weight, attended + weight * heads(value)
        mean: Tensor = attended / total
        return mean.flatten(-2)


def _fold_norm(norm: nn.LayerNorm, weight: Tensor) -> nn.Linear:
    """Return the product with ``weight`` after ``norm``, with the affine part of ``norm`` folded into it."""
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight * norm.weight, requires_grad=False)
    linear.bias = nn.Parameter(weight @ norm.bias, requires_grad=False)
    return linear


def _folded(projection: Projection) -> nn.Sequential:
    """Return the projection with its batch normalization folded into the first layer."""
    first, norm, activation, second = copy.deepcopy(projection.net)
    assert isinstance(first, nn.Linear) and isinstance(norm, nn.BatchNorm1d)
    return nn.Sequential(fuse_linear_bn_eval(first, norm), activation, second)


def _split_positions(tokens: Tensor) -> tuple[Tensor, ...]:
    """Split [positions, …] into [1, …] each; a single position is not split, which would be a copy."""
    return tokens.split(1) if len(tokens) > 1 else (tokens,)
