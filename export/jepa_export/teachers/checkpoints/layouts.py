"""Recognition of a checkpoint by its weight names, and conversion to the names of this package.

Supported are Meta's files (networks by name, whose weights may have the prefix `module.backbone.`), the ports
to Hugging Face (separate queries, keys and values), and LeWM's state dicts (its encoder is a port, with the
names of transformers before or after version 5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from jepa_export.errors import JepaExportError
from jepa_export.teachers.family import Family

Tensors = dict[str, Tensor]
# Patterns at the beginning of a name, and their replacements; None: the weight is not used.
Rules = Sequence[tuple[str, str | None]]
Origin = Literal["Meta", "Hugging Face", "LeWM"]

_VJEPA2_ENCODER: Rules = [
    (r"norm\.", "norms.0."),
]
_VJEPA2_PREDICTOR: Rules = [
    (r"predictor_proj_context\.", None),
    (r"extrinsics_encoder\.", None),
    (r"predictor_", ""),
]
_PORTED_VJEPA2_ENCODER: Rules = [
    (r"embeddings\.patch_embeddings\.", "patch_embed."),
    (r"layer\.(\d+)\.attention\.", r"blocks.\1.attn."),
    (r"layer\.", "blocks."),
    (r"layernorm\.", "norms.0."),
]
_PORTED_VJEPA2_PREDICTOR: Rules = [
    (r"embeddings\.predictor_embeddings\.", "embed."),
    (r"embeddings\.", ""),
    (r"layer\.(\d+)\.attention\.", r"blocks.\1.attn."),
    (r"layer\.", "blocks."),
    (r"layernorm\.", "norm."),
]
_LAYER = r"(?:encoder\.layer|layers)\.(\d+)\."
_PORTED_VIT: Rules = [
    (r"pooler\.", None),
    (r"embeddings\.mask_token$", None),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (_LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
    (_LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
    (_LAYER + r"attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"attention\.(?:attention\.)?(query|key|value)\.", r"blocks.\1.attn.\2."),
    (_LAYER + r"attention\.q_proj\.", r"blocks.\1.attn.query."),
    (_LAYER + r"attention\.k_proj\.", r"blocks.\1.attn.key."),
    (_LAYER + r"attention\.v_proj\.", r"blocks.\1.attn.value."),
    (_LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
    (r"layernorm\.", "norm."),
]
_LEWM_BLOCK = r"predictor\.transformer\.layers\.(\d+)\."
_LEWM: Rules = [
    (r"predictor\.pos_embedding$", "pos_embed"),
    (r"predictor\.transformer\.norm\.", "norm."),
    (_LEWM_BLOCK + r"adaLN_modulation\.", r"blocks.\1.modulation."),
    (_LEWM_BLOCK + r"attn\.to_qkv\.", r"blocks.\1.attn.qkv."),
    (_LEWM_BLOCK + r"attn\.to_out\.0\.", r"blocks.\1.attn.proj."),
    # The index skips a dropout layer.
    (_LEWM_BLOCK + r"mlp\.net\.4\.", r"blocks.\1.mlp.3."),
    (_LEWM_BLOCK + r"mlp\.net\.", r"blocks.\1.mlp."),
    (_LEWM_BLOCK, r"blocks.\1."),
    (r"action_encoder\.patch_embed\.", "mix."),
    (r"action_encoder\.embed\.", "action_encoder."),
]


@dataclass(frozen=True)
class Checkpoint:
    """A recognized checkpoint: its family, its format, and its contents."""

    family: Family
    origin: Origin
    content: Mapping[str, Any]
    where: str

    @property
    def encoders(self) -> list[str]:
        """Return the names of the encoders in an official file; other files have one without a name."""
        if self.origin != "Meta":
            return []
        return [name for name in _networks(self.content) if name != "predictor"]

    @property
    def levels(self) -> int:
        """Return the number of outputs of the encoder that the predictor reads (V-JEPA 2.1: 1 or 4)."""
        first = _networks(self.content).get("predictor", {}).get("predictor_embed.0.weight")
        return 1 if first is None else int(first.shape[1] // first.shape[0])

    def patch_shape(self, encoder: str) -> tuple[int, ...]:
        """Return the shape of the patch convolution: [width, colors, (frames,) rows, columns].

        Raises:
            JepaExportError: The file has no such encoder, or the encoder no patch convolution.
        """
        network = _flat(self.content) if self.origin != "Meta" else self._network(encoder)
        for name, tensor in network.items():
            if re.search(r"(^|\.)(patch_embed|patch_embeddings)\.(proj|projection)\.weight$", name):
                return tuple(tensor.shape)
        raise JepaExportError(
            f"{self.where}: encoder {encoder}: weight patch_embed.proj.weight missing; use the file as the "
            "training saved it",
            code="teacher.weights_mismatch",
        )

    def weights(self, encoder: str, *, levels: int, tables: bool = False) -> Tensors:
        """Return all weights of the model, under the names of this package.

        Args:
            encoder: Name of the encoder in an official file.
            levels: Number of normalized outputs of the model's encoder (V-JEPA 2.1).
            tables: Include the position tables of V-JEPA 2. They are left in files from before rotary
                positions, and unused since.

        Raises:
            JepaExportError: The file has no such encoder.
        """
        weights = self._weights(encoder, levels)
        if self.family.startswith("V-JEPA") and not tables:
            for name in ("encoder.pos_embed", "predictor.pos_embed"):
                weights.pop(name, None)
        return weights

    def _weights(self, encoder: str, levels: int) -> Tensors:
        if self.origin == "LeWM":
            flat = _flat(self.content)
            rest = {name: tensor for name, tensor in flat.items() if not name.startswith("encoder.")}
            return _joined(encoder=_renamed(_under(flat, "encoder."), _PORTED_VIT)) | _renamed(rest, _LEWM)
        if self.origin == "Hugging Face":
            flat = _flat(self.content)
            if self.family == "I-JEPA":
                return _joined(encoder=_renamed(flat, _PORTED_VIT))
            return _joined(
                encoder=_renamed(_under(flat, "encoder."), _PORTED_VJEPA2_ENCODER),
                predictor=_renamed(_under(flat, "predictor."), _PORTED_VJEPA2_PREDICTOR),
            )
        if self.family == "I-JEPA":
            rules: tuple[Rules, Rules] = [], [(r"predictor_", "")]
        elif self.family == "V-JEPA 2.1":
            rules = _levels(levels), _VJEPA2_PREDICTOR
        else:
            rules = _VJEPA2_ENCODER, _VJEPA2_PREDICTOR
        return _joined(
            encoder=_renamed(self._network(encoder), rules[0]),
            predictor=_renamed(self._network("predictor"), rules[1]),
        )

    def _network(self, name: str) -> Tensors:
        networks = _networks(self.content)
        if name not in networks:
            raise JepaExportError(
                f"{self.where}: no encoder {name}; choose one of {', '.join(self.encoders)}",
                code="teacher.unknown_encoder",
            )
        return networks[name]


def recognize(content: Mapping[str, Any], where: str) -> Checkpoint:
    """Recognize the checkpoint with this ``content``.

    Raises:
        JepaExportError: It is of no known teacher.
    """
    found: tuple[Family, Origin] | None = None
    networks, flat = _networks(content), _flat(content)
    if predictor := networks.get("predictor"):
        if "action_encoder.weight" in predictor:
            found = "V-JEPA 2-AC", "Meta"
        elif any("norms_block.0.weight" in network for network in networks.values()):
            found = "V-JEPA 2.1", "Meta"
        elif "mask_token" in predictor:
            found = "I-JEPA", "Meta"
        elif "mask_tokens.0" in predictor:
            found = "V-JEPA 2", "Meta"
    elif "encoder.embeddings.patch_embeddings.proj.weight" in flat:
        found = "V-JEPA 2", "Hugging Face"
    elif "action_encoder.patch_embed.weight" in flat:
        found = "LeWM", "LeWM"
    elif "embeddings.patch_embeddings.projection.weight" in flat and "embeddings.cls_token" not in flat:
        found = "I-JEPA", "Hugging Face"
    if found is None:
        names = list(networks or flat or content)
        raise JepaExportError(
            f"{where}: not the checkpoint of a known teacher; it contains "
            f"{', '.join(map(str, names[:3])) or 'nothing'}{', …' if len(names) > 3 else ''}; use an "
            "official "
            "checkpoint",
            code="teacher.checkpoint_unknown",
        )
    return Checkpoint(*found, content, where)


def _levels(levels: int) -> Rules:
    """Return the rules for V-JEPA 2.1's four normalizations; a model with one level uses the last."""
    if levels == 1:
        return [(r"norms_block\.[0-2]\.", None), (r"norms_block\.3\.", "norms.0.")]
    return [(r"norms_block\.", "norms.")]


def _tensors(values: Mapping[str, Any], *prefixes: str) -> Tensors:
    """Return the tensors among ``values``, without the prefixes that wrappers add to their names."""
    strip = re.compile(f"^(?:{'|'.join(map(re.escape, prefixes))})+")
    return {strip.sub("", str(name)): value for name, value in values.items() if isinstance(value, Tensor)}


def _networks(content: Mapping[str, Any]) -> dict[str, Tensors]:
    """Return the networks by name, of a file that contains several."""
    found = {
        str(name): _tensors(values, "module.", "backbone.")
        for name, values in content.items()
        if isinstance(values, Mapping)
    }
    return {name: tensors for name, tensors in found.items() if tensors}


def _flat(content: Mapping[str, Any]) -> Tensors:
    """Return the network of a file that contains one, possibly under ``state_dict``."""
    inner = content.get("state_dict", content)
    return _tensors(inner if isinstance(inner, Mapping) else content, "model.")


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _renamed(tensors: Tensors, rules: Rules) -> Tensors:
    """Return ``tensors`` under the names of this package, and in its shapes."""
    named: Tensors = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            if match := re.match(pattern, name):
                name = "" if replacement is None else match.expand(replacement) + name[match.end() :]
                break
        if name:
            named[name] = _reshaped(name, tensor)
    return _stacked(named)


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    """Return a patch convolution as a matrix: its rows run over frames, then colors, rows and columns."""
    if re.match(r"patch_embed(_img)?\.proj\.weight$", name):
        return (tensor.transpose(1, 2) if tensor.ndim == 5 else tensor).flatten(1)
    # A convolution of kernel size 1.
    return tensor.flatten(1) if name == "mix.weight" else tensor


def _stacked(tensors: Tensors) -> Tensors:
    """Merge what is one weight in this package: queries, keys and values; mask tokens."""
    out: Tensors = {}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*\.attn\.)(query|key|value)(\..*)", name):
            groups.setdefault(match[1] + "qkv" + match[3], {})[match[2]] = tensor
        elif match := re.fullmatch(r"(mask_tokens)(?:\.(\d+))?", name):
            groups.setdefault(match[1], {})[match[2] or "0"] = tensor.flatten(0, -2)
        else:
            out[name] = tensor
    for name, group in groups.items():
        order = ("query", "key", "value") if "qkv" in name else sorted(group, key=int)
        out[name] = torch.cat([group[key] for key in order if key in group])
    return out


def _joined(**networks: Tensors) -> Tensors:
    return {
        f"{part}.{name}": tensor for part, tensors in networks.items() for name, tensor in tensors.items()
    }
