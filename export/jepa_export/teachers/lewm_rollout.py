"""LeWM's rollout of many candidates as one flat graph that computes nothing twice.

LeWM looks through a window of ``history`` frames, and where a frame stands in it counts: once the window has
moved on, what was computed of a frame at its old place is of no use at its new one. So a rollout consists of
pairs of a frame and a place. Each is computed once, all places of a frame in one go as soon as it is known:
from one frame, five steps take 9 pairs; the published loop, which computes every window whole, takes 12.

What nothing reads is left out: queries at place 0, from where a frame sees itself alone; and in the last
block, all but keys and values of pairs that nothing is predicted from. Normalisations with weights of their
own are folded into the products that follow or precede them. The results are those of
:meth:`LeWM.rollout`, to rounding."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.nn.utils.fusion import fuse_linear_bn_eval

from jepa_export.teachers.lewm import LeWM, ModulatedBlock, Projection

# Keys and values [1, K or 1, heads * head_dim] of a pair, by its frame and its place.
Memory = dict[tuple[int, int], tuple[Tensor, Tensor]]


class Rollout(nn.Module):
    """What the runtime asks of a predictor; tensors of candidates have K rows, what they share has one.

    Args:
        model: in evaluation mode; it is left as it is.
    """

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.window = model.config.history
        self.mix, self.action_encoder = model.mix, model.action_encoder
        self.pos_embed, self.norm = model.pos_embed, model.norm
        self.blocks = nn.ModuleList(Block(block) for block in model.blocks)
        self.pred_proj = _folded(model.pred_proj)

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """K futures of H steps.

        Args:
            history_latents: [1, W, 1, D], oldest first; those beyond the model's own history are not read.
            actions: [K, H, A], the first executed after the newest latent.
            history_actions: [1, W-1, A] between the latents; None where W is 1.

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
                wanted = places[-1:] if memory is memories[-1] else places
                tokens = block(tokens, condition, memory, frame, places, wanted)
            if frame >= known - 1:
                latents.append(self.pred_proj(self.norm(tokens[-1])))
        return torch.stack(latents[known:], dim=1)[:, :, None]

    def _condition(self, actions: Tensor) -> tuple[Tensor, ...]:
        """Step by step what ``actions`` [batch, n, A] tell the blocks, [batch, D] each."""
        return silu(self.action_encoder(self.mix(actions))).unbind(1)


class Block(nn.Module):
    """One block, for one frame at several places."""

    def __init__(self, block: ModulatedBlock) -> None:
        super().__init__()
        attn = block.attn
        self.heads, self.norm = attn.heads, block.norm
        self.modulation = block.modulation[1]
        self.attn_norm = nn.LayerNorm(attn.norm.normalized_shape, attn.norm.eps, elementwise_affine=False)
        # Three products: splitting what one gives would be a copy.
        weights = attn.qkv.weight.chunk(3)
        self.query, self.key, self.value = (_after(attn.norm, weight) for weight in weights)
        self.proj, self.mlp = attn.proj, block.mlp

    def forward(
        self, tokens: Tensor, condition: Tensor, memory: Memory, frame: int, places: range, wanted: range
    ) -> Tensor:
        """Tokens [places, K or 1, D] of ``frame`` -> those at the ``wanted`` of them, the last ones."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition).chunk(6, dim=-1)
        normed = self.attn_norm(self.norm(tokens) * (1 + scale) + shift)
        keys, values = _apart(self.key(normed)), _apart(self.value(normed))
        for place, key, value in zip(places, keys, values, strict=True):
            memory[frame, place] = key, value
        tokens = tokens[-len(wanted) :]
        looking = [place for place in wanted if place]
        queries = _apart(self.query(normed[-len(looking) :])) if looking else ()
        attended = [values[0]] if wanted[0] == 0 else []
        for place, query in zip(looking, queries, strict=True):
            seen = [memory[frame - place + earlier, earlier] for earlier in range(place + 1)]
            attended.append(self._attend(query, seen))
        tokens = tokens + gate * self.proj(torch.cat(attended))
        out: Tensor = tokens + mlp_gate * self.mlp(self.norm(tokens) * (1 + mlp_scale) + mlp_shift)
        return out

    def _attend(self, query: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
        """[1, K or 1, heads * head_dim] -> the same. One query looks at a handful of keys: sums and products
        of vectors do that in a fraction of the time of matrix products and a softmax of that shape (OpenVINO
        2026.4)."""

        def heads(part: Tensor) -> Tensor:
            return part.unflatten(-1, (self.heads, -1))

        scale = (query.shape[-1] // self.heads) ** -0.5
        scores = [(heads(query) * heads(key)).sum(-1, keepdim=True) * scale for key, _ in seen]
        largest = scores[0]
        for score in scores[1:]:
            largest = torch.maximum(largest, score)
        weights = [(score - largest).exp() for score in scores]
        total, attended = weights[0], weights[0] * heads(seen[0][1])
        for weight, (_, value) in zip(weights[1:], seen[1:], strict=True):
            total, attended = total + weight, attended + weight * heads(value)
        return (attended / total).flatten(-2)


def _after(norm: nn.LayerNorm, weight: Tensor) -> nn.Linear:
    """The product with ``weight`` of what ``norm`` would give, from what it gives without its own weights."""
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight * norm.weight, requires_grad=False)
    linear.bias = nn.Parameter(weight @ norm.bias, requires_grad=False)
    return linear


def _folded(projection: Projection) -> nn.Sequential:
    """The same without the batch normalisation."""
    first, norm, activation, second = copy.deepcopy(projection.net)
    return nn.Sequential(fuse_linear_bn_eval(first, norm), activation, second)


def _apart(tokens: Tensor) -> tuple[Tensor, ...]:
    """[places, …] -> [1, …] of each place. Where there is but one, to split would be a copy."""
    return tokens.split(1) if len(tokens) > 1 else (tokens,)
