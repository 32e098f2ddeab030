"""Settings of a model that its weights do not show: attention heads, resolution, length of clips, positions.

They are given, or read from the configuration that the official code writes next to a checkpoint
(params-pretrain.yaml, params-ijepa.yaml) or that a port to Hugging Face has (config.json). What both show,
such as the width, must agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from jepa_export.errors import JepaExportError
from jepa_export.teachers.family import ARCHITECTURES
from jepa_export.teachers.layers import EPS

OFFICIAL_NAMES = ("params-pretrain.yaml", "params-ijepa.yaml")
_PORT_NAME = "config.json"
_PORTS = ("vjepa2", "ijepa")
# Entries of the section `model` that change what a model computes without changing its weights.
_UNSUPPORTED = (
    *("is_causal", "pred_is_causal", "use_area_attention", "use_extrinsics"),
    *("n_registers", "n_registers_predictor", "has_cls_first"),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that are given with a checkpoint; None: not given.

    Attributes:
        heads: Attention heads of the encoder.
        predictor_heads: Attention heads of the predictor.
        frame_size: Height and width of a frame in pixels.
        frames: Frames in the longest clip.
        training_config: Configuration of the training; None: the one next to the checkpoint, if any.
    """

    heads: int | None = None
    predictor_heads: int | None = None
    frame_size: tuple[int, int] | None = None
    frames: int | None = None
    training_config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """Settings from a configuration, completed by those that were given.

    Attributes:
        rotary: Positions are rotary; False: a table.
        stretched: Rows and columns of rotary positions are stretched to those of the pretraining
            (V-JEPA 2.1).
        fps: Frame rate of the clips in Hz.
        stated: Sizes that the weights show as well, by what they are.
        unsupported: Entries that change the model in a way that is not implemented here.
        source: Name of the file, for messages.
    """

    rotary: bool | None = None
    stretched: bool | None = None
    fps: float | None = None
    stated: Mapping[str, int] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    source: str = ""


def find_settings(checkpoint: Path, given: Settings) -> TrainingConfig:
    """Return the settings of a checkpoint.

    A given resolution or length of clips replaces that of the training.

    Args:
        checkpoint: Its file or folder.
        given: Settings that were given.

    Raises:
        JepaExportError: The configuration cannot be read, or contradicts the given number of heads.
    """
    path = given.training_config or _next_to(checkpoint)
    config = TrainingConfig() if path is None else read_config(path)
    for name in ("heads", "predictor_heads"):
        stated, wanted = getattr(config, name), getattr(given, name)
        if None not in (stated, wanted) and stated != wanted:
            raise JepaExportError(
                f"--{name.replace('_', '-')} {wanted}: {config.source} states {stated}; omit the option, or "
                "pass the configuration of this checkpoint with --training-config",
                code="teacher.settings_contradict",
            )
    names = ("heads", "predictor_heads", "frame_size", "frames")
    wanted = {name: getattr(given, name) for name in names}
    return replace(config, **{name: value for name, value in wanted.items() if value is not None})


def read_config(path: Path) -> TrainingConfig:
    """Read the configuration of a training, or config.json of a port.

    Raises:
        JepaExportError: The file cannot be read, or has none of the known entries.
    """
    content = _content(path)
    # The launcher for clusters writes a list of the configurations that it starts.
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if isinstance(content, dict):
        if content.get("model_type") in _PORTS:
            return _of_port(_Entries(content, path))
        if isinstance(content.get("meta"), dict) and "model_name" in content["meta"]:
            return _of_ijepa(_Entries(content, path))
        if isinstance(content.get("model"), dict) or isinstance(content.get("data"), dict):
            return _of_vjepa(_Entries(content, path))
    raise JepaExportError(
        f"{path}: not the configuration of a training: it has no section model, data or meta, and no "
        "model_type vjepa2 or ijepa; pass the file that the training saved, such as params-pretrain.yaml",
        code="teacher.settings_invalid",
    )


def _next_to(checkpoint: Path) -> Path | None:
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    for name in OFFICIAL_NAMES:
        if (folder / name).is_file():
            return folder / name
    port = folder / _PORT_NAME
    # Other programs have files of this name as well.
    if port.is_file() and isinstance(content := _content(port), dict):
        return port if content.get("model_type") in _PORTS else None
    return None


def _content(path: Path) -> Any:
    try:
        # JSON is YAML.
        return YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except (OSError, YAMLError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise JepaExportError(
            f"{path}: cannot be read as YAML: {reason}; pass the file that the training saved",
            code="teacher.settings_invalid",
        ) from error


class _Entries:
    """The entries of a configuration, by section and key (``data.crop_size``)."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        self.content, self.path = content, path

    def get(self, name: str) -> Any:
        section, _, key = name.rpartition(".")
        content = self.content.get(section) if section else self.content
        return content.get(key) if isinstance(content, dict) else None

    def count(self, name: str) -> int | None:
        value = self.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        raise self._invalid(name, "a positive integer")

    def counts(self, *names: str) -> dict[str, int]:
        """Return the entries that exist, by the first words of ``names`` ("WHAT: NAME")."""
        pairs = (name.split(": ") for name in names)
        found = {what: self.count(name) for what, name in pairs}
        return {what: value for what, value in found.items() if value is not None}

    def flag(self, name: str) -> bool | None:
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self._invalid(name, "true or false")

    def rate(self, name: str) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if type(value) in (int, float) and 0 < value < inf:
            return float(value)
        raise self._invalid(name, "a positive number")

    def size(self, name: str) -> tuple[int, int] | None:
        value = self.get(name)
        if isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value):
            return value[0], value[1]
        side = self.count(name)
        return None if side is None else (side, side)

    def longest(self, name: str) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, list) and value and all(type(count) is int and count > 0 for count in value):
            return int(max(value))
        raise self._invalid(name, "a list of positive integers")

    def _invalid(self, name: str, expected: str) -> JepaExportError:
        return JepaExportError(
            f"{self.path}: {name}: must be {expected}, got {self.get(name)!r}; pass the file that the "
            "training saved",
            code="teacher.settings_invalid",
        )


def _architecture(name: object) -> Mapping[str, int]:
    """Return the sizes of an official architecture, or nothing if ``name`` is none."""
    return ARCHITECTURES.get(str(name).removesuffix("_rope"), {})


def _of_vjepa(entries: _Entries) -> TrainingConfig:
    sizes = _architecture(entries.get("model.model_name"))
    complete = entries.get("model.model_name") is not None
    heads = sizes.get("heads")
    stated = entries.counts(
        "patch size: data.patch_size",
        "tubelet: data.tubelet_size",
        "depth of the predictor: model.pred_depth",
        "width of the predictor: model.pred_embed_dim",
    )
    unsupported = [f"model.{key}" for key in _UNSUPPORTED if entries.get(f"model.{key}")]
    if entries.get("model.pred_is_frame_causal") is False:
        unsupported.append("model.pred_is_frame_causal: false")
    if entries.get("loss.shift_by_n"):
        unsupported.append("loss.shift_by_n")
    # The official code uses neither unless the configuration has the entry.
    rotary, stretched = entries.flag("model.use_rope"), entries.flag("model.interpolate_rope")
    return TrainingConfig(
        heads=heads,
        # By default, the predictor has as many heads as the encoder.
        predictor_heads=entries.count("model.pred_num_heads") or heads,
        frame_size=entries.size("data.crop_size"),
        frames=entries.longest("data.dataset_fpcs"),
        rotary=False if complete and rotary is None else rotary,
        stretched=False if complete and stretched is None else stretched,
        fps=entries.rate("data.fps"),
        stated={what: sizes[what] for what in ("width", "depth") if sizes} | stated,
        unsupported=tuple(unsupported),
        source=entries.path.name,
    )


def _of_ijepa(entries: _Entries) -> TrainingConfig:
    sizes = _architecture(entries.get("meta.model_name"))
    stated = entries.counts(
        "patch size: mask.patch_size",
        "depth of the predictor: meta.pred_depth",
        "width of the predictor: meta.pred_emb_dim",
    )
    return TrainingConfig(
        heads=sizes.get("heads"),
        frame_size=entries.size("data.crop_size"),
        stated={what: sizes[what] for what in ("width", "depth") if sizes} | stated,
        source=entries.path.name,
    )


def _of_port(entries: _Entries) -> TrainingConfig:
    eps, activation = entries.get("layer_norm_eps"), entries.get("hidden_act")
    unsupported = [f"layer_norm_eps: {eps}"] if eps not in (None, EPS) else []
    if activation not in (None, "gelu"):
        unsupported.append(f"hidden_act: {activation}")
    return TrainingConfig(
        heads=entries.count("num_attention_heads"),
        predictor_heads=entries.count("pred_num_attention_heads"),
        frame_size=entries.size("crop_size") or entries.size("image_size"),
        frames=entries.count("frames_per_clip"),
        rotary=entries.get("model_type") == "vjepa2",
        stated=entries.counts(
            "width: hidden_size",
            "depth: num_hidden_layers",
            "patch size: patch_size",
            "tubelet: tubelet_size",
            "depth of the predictor: pred_num_hidden_layers",
            "width of the predictor: pred_hidden_size",
        ),
        unsupported=tuple(unsupported),
        source=entries.path.name,
    )
