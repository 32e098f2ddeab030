"""A direct implementation of the V-JEPA family, and weights of any size in the official format.

It computes token by token from the official names and shapes, without the classes of the package. Its tests
compare it with the golden outputs of the official code.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, gelu, layer_norm, linear, silu

from tests.export.teachers.tiny import seeded

Weights = Mapping[str, Tensor]
Shapes = dict[str, list[int]]


def encode(
    weights: Weights,
    clips: Tensor,
    *,
    heads: int,
    interleaved: bool = False,
    span: int | None = None,
    taps: tuple[int, ...] | None = None,
) -> Tensor:
    """Encode clips [batch, T, 3, height, width]; ``taps`` are V-JEPA 2.1's blocks with an output."""
    is_image = clips.shape[1] == 1 and "patch_embed_img.proj.weight" in weights
    embedding = "patch_embed_img" if is_image else "patch_embed"
    kernel, bias = weights[f"{embedding}.proj.weight"], weights[f"{embedding}.proj.bias"]
    if kernel.ndim == 4:
        grid = conv2d(clips[:, 0], kernel, bias, stride=kernel.shape[2:])[:, :, None]
    else:
        grid = conv3d(clips.transpose(1, 2), kernel, bias, stride=kernel.shape[2:])
    tokens = grid.flatten(2).transpose(1, 2)
    modality = "img_mod_embed" if is_image else "video_mod_embed"
    if modality in weights:
        tokens = tokens + weights[modality]
    steps, rows, columns = grid.shape[2:]
    positions: list[tuple[float, ...]] | None = [
        (step, stretch(row, rows, span), stretch(column, columns, span))
        for step in range(steps)
        for row in range(rows)
        for column in range(columns)
    ]
    if "pos_embed" in weights:
        tokens, positions = tokens + weights["pos_embed"][:, : tokens.shape[1]], None
    outputs = []
    for index in range(depth_of(weights, "blocks")):
        tokens = block(weights, f"blocks.{index}.", tokens, heads, positions, interleaved)
        if taps is not None and index in taps:
            norm = len(outputs) if len(taps) > 1 else 3
            outputs.append(normed(weights, f"norms_block.{norm}.", tokens))
    return torch.cat(outputs, dim=-1) if outputs else normed(weights, "norm.", tokens)


def predict(
    weights: Weights,
    context: Tensor,
    context_ids: list[int],
    target_ids: list[int],
    *,
    heads: int,
    rows: int,
    mask: int = 1,
    interleaved: bool = False,
    span: int | None = None,
) -> Tensor:
    """Predict the tokens at ``target_ids``; positions are counted in frames of ``rows`` x ``rows``."""
    if "predictor_embed.0.weight" in weights:
        tokens = affine(weights, "predictor_embed.0.", context)
        activation = silu if "predictor_blocks.0.mlp.fc3.weight" in weights else gelu
        tokens = affine(weights, "predictor_embed.2.", activation(tokens))
    else:
        tokens = affine(weights, "predictor_embed.", context)
    token = weights[f"mask_tokens.{mask}"]
    tokens = torch.cat([tokens, token.expand(len(tokens), len(target_ids), -1)], dim=1)
    if "video_mod_embed" in weights:
        tokens = tokens + weights["video_mod_embed"]
    ids, square = [*context_ids, *target_ids], rows * rows
    positions: list[tuple[float, ...]] | None = [
        (
            place // square,
            stretch(place % square // rows, rows, span),
            stretch(place % square % rows, rows, span),
        )
        for place in ids
    ]
    if "predictor_pos_embed" in weights:
        tokens, positions = tokens + weights["predictor_pos_embed"][:, ids], None
    for index in range(depth_of(weights, "predictor_blocks")):
        tokens = block(weights, f"predictor_blocks.{index}.", tokens, heads, positions, interleaved)
    tokens = normed(weights, "predictor_norm.", tokens[:, len(context_ids) :])
    return affine(weights, "predictor_proj.", tokens)


def predict_actions(
    weights: Weights, latents: Tensor, actions: Tensor, states: Tensor, *, heads: int, grid: tuple[int, int]
) -> Tensor:
    """Predict V-JEPA 2-AC's tokens [batch, T, patches, dim] of the next frame of each."""
    frames, (rows, columns) = latents.shape[1], grid
    leading = torch.stack(
        [affine(weights, "action_encoder.", actions), affine(weights, "state_encoder.", states)], 2
    )
    tokens = torch.cat([leading, affine(weights, "predictor_embed.", latents)], 2).flatten(1, 2)
    positions: list[tuple[float, ...]] = []
    for frame in range(frames):
        positions += [(frame, 0, 0)] * 2
        # Columns are scaled to the range of the rows.
        positions += [
            (frame, row, column * rows / columns) for row in range(rows) for column in range(columns)
        ]
    frame_of = torch.tensor([position[0] for position in positions])
    seen = frame_of[:, None] >= frame_of
    for index in range(depth_of(weights, "predictor_blocks")):
        tokens = block(weights, f"predictor_blocks.{index}.", tokens, heads, positions, False, seen)
    tokens = tokens.unflatten(1, (frames, -1))[:, :, 2:]
    return affine(weights, "predictor_proj.", normed(weights, "predictor_norm.", tokens))


def block(
    weights: Weights,
    name: str,
    tokens: Tensor,
    heads: int,
    positions: list[tuple[float, ...]] | None,
    interleaved: bool,
    seen: Tensor | None = None,
) -> Tensor:
    """Return the output of a transformer block."""
    qkv = affine(weights, f"{name}attn.qkv.", normed(weights, f"{name}norm1.", tokens))
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    if positions is not None:
        query, key = (rotated(part, positions, interleaved) for part in (query, key))
    scores = query @ key.transpose(-1, -2) / sqrt(query.shape[-1])
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    tokens = tokens + affine(weights, f"{name}attn.proj.", attended)
    hidden = normed(weights, f"{name}norm2.", tokens)
    if f"{name}mlp.fc3.weight" in weights:
        gate = silu(affine(weights, f"{name}mlp.fc1.", hidden))
        return tokens + affine(weights, f"{name}mlp.fc3.", gate * affine(weights, f"{name}mlp.fc2.", hidden))
    return tokens + affine(weights, f"{name}mlp.fc2.", gelu(affine(weights, f"{name}mlp.fc1.", hidden)))


def rotated(heads: Tensor, positions: list[tuple[float, ...]], interleaved: bool) -> Tensor:
    """Rotate each pair of dimensions of queries or keys [batch, heads, n, dim], a third for each axis."""
    out = heads.clone()
    part = 2 * (heads.shape[-1] // 3 // 2)
    for axis in range(3):
        along = torch.tensor([float(position[axis]) for position in positions])
        for pair in range(part // 2):
            angles = []
            for place in (2 * pair, 2 * pair + 1):
                frequency = pair if interleaved else place % (part // 2)
                angles.append(along * 10_000.0 ** -(frequency / (part / 2)))
            first, second = axis * part + 2 * pair, axis * part + 2 * pair + 1
            out[..., first] = heads[..., first] * angles[0].cos() - heads[..., second] * angles[0].sin()
            out[..., second] = heads[..., second] * angles[1].cos() + heads[..., first] * angles[1].sin()
    return out


def stretch(position: float, count: int, span: int | None) -> float:
    return position if span is None else position * (span - 1) / (count - 1)


def affine(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    return linear(tokens, weights[name + "weight"], weights.get(name + "bias"))


def normed(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    return layer_norm(tokens, tokens.shape[-1:], weights[name + "weight"], weights[name + "bias"], 1e-6)


def depth_of(weights: Weights, blocks: str) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith(blocks + ".")})


def block_shapes(
    name: str, width: int, depth: int, *, hidden: int | None = None, bias: bool = True, gated: bool = False
) -> Shapes:
    """Return the shapes of the blocks of a network."""
    hidden, shapes = hidden or 4 * width, {}
    for index in range(depth):
        sizes = {
            "norm1": [width],
            "norm2": [width],
            "attn.qkv": [3 * width, width],
            "attn.proj": [width, width],
        }
        sizes |= {"mlp.fc1": [hidden, width], "mlp.fc2": [width, hidden]}
        if gated:
            sizes |= {"mlp.fc2": [hidden, width], "mlp.fc3": [width, hidden]}
        for layer, shape in sizes.items():
            shapes[f"{name}.{index}.{layer}.weight"] = shape
            shapes[f"{name}.{index}.{layer}.bias"] = shape[:1]
        if not bias:
            del shapes[f"{name}.{index}.attn.qkv.bias"]
    return shapes


def encoder_shapes(
    width: int,
    depth: int,
    *,
    patch: int = 16,
    tubelet: int | None = 2,
    places: int | None = None,
    **more: Any,
) -> Shapes:
    """Return the shapes of a V-JEPA 2 encoder; without a tubelet, one of images; ``places`` of a table."""
    kernel = [patch, patch] if tubelet is None else [tubelet, patch, patch]
    shapes = {"patch_embed.proj.weight": [width, 3, *kernel], "patch_embed.proj.bias": [width]}
    shapes |= {"norm.weight": [width], "norm.bias": [width]}
    if places is not None:
        shapes["pos_embed"] = [1, places, width]
    return shapes | block_shapes("blocks", width, depth, **more)


def encoder_2_1_shapes(
    width: int, depth: int, *, patch: int = 16, images: bool = True, modalities: bool = True, **more: Any
) -> Shapes:
    """Return the shapes of a V-JEPA 2.1 encoder."""
    shapes = encoder_shapes(width, depth, patch=patch, **more)
    for kind in ("weight", "bias"):
        norm = shapes.pop(f"norm.{kind}")
        shapes |= {f"norms_block.{index}.{kind}": norm for index in range(4)}
    if images:
        shapes |= {"patch_embed_img.proj.weight": [width, 3, 1, patch, patch]}
        shapes |= {"patch_embed_img.proj.bias": [width]}
    if modalities:
        shapes |= {"img_mod_embed": [1, 1, width], "video_mod_embed": [1, 1, width]}
    return shapes


def predictor_shapes(
    width: int,
    depth: int,
    encoder: int,
    *,
    masks: int = 2,
    places: int | None = None,
    levels: int = 1,
    out: int | None = None,
    modalities: bool = False,
    **more: Any,
) -> Shapes:
    """Return the shapes of a predictor of V-JEPA 2 or 2.1."""
    out = out or levels * encoder
    shapes = {f"mask_tokens.{index}": [1, 1, width] for index in range(masks)}
    shapes |= {"predictor_norm.weight": [width], "predictor_norm.bias": [width]}
    shapes |= {"predictor_proj.weight": [out, width], "predictor_proj.bias": [out]}
    if levels > 1:
        shapes |= {
            "predictor_embed.0.weight": [encoder, levels * encoder],
            "predictor_embed.0.bias": [encoder],
        }
        shapes |= {"predictor_embed.2.weight": [width, encoder], "predictor_embed.2.bias": [width]}
    else:
        shapes |= {"predictor_embed.weight": [width, encoder], "predictor_embed.bias": [width]}
    if places is not None:
        shapes["predictor_pos_embed"] = [1, places, width]
    if modalities:
        shapes |= {"img_mod_embed": [1, 1, width], "video_mod_embed": [1, 1, width]}
    return shapes | block_shapes("predictor_blocks", width, depth, **more)


def predictor_ac_shapes(width: int, depth: int, encoder: int, *, actions: int = 7) -> Shapes:
    """Return the shapes of a predictor of V-JEPA 2-AC."""
    shapes = {
        name: shape
        for name, shape in predictor_shapes(width, depth, encoder).items()
        if "mask_tokens" not in name
    }
    for name, size in {"action": actions, "state": actions, "extrinsics": actions - 1}.items():
        shapes |= {f"{name}_encoder.weight": [width, size], f"{name}_encoder.bias": [width]}
    return shapes


def checkpoint(encoder: Shapes, predictor: Shapes, *, key: str = "target_encoder") -> dict[str, Any]:
    """Return a checkpoint as the official training saves it, with seeded weights."""
    networks = {"encoder": seeded(encoder, 5), key: seeded(encoder), "predictor": seeded(predictor, 1)}
    return {
        name: {f"module.backbone.{weight}": tensor for weight, tensor in weights.items()}
        for name, weights in networks.items()
    } | {"opt": {"param_groups": [{"lr": 0.1}]}, "epoch": 3}
