"""Configuration of a model of any size, from the shapes of its weights and the settings that go with them.

The weights show width, depth, patch size, tubelet, the size of the MLPs, and which optional parts exist. The
other settings come from :mod:`settings`; without them, and without an official architecture of this width and
depth, a checkpoint is rejected: a wrong guess would give wrong outputs without an error.
"""

from __future__ import annotations

import re
from math import isqrt
from typing import Any

from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints.layouts import Checkpoint, Tensors
from jepa_export.teachers.checkpoints.settings import TrainingConfig
from jepa_export.teachers.family import ARCHITECTURES, Config, Family
from jepa_export.teachers.ijepa import IJEPAConfig
from jepa_export.teachers.layers import Sizes
from jepa_export.teachers.vit import ViTConfig
from jepa_export.teachers.vjepa2 import EncoderConfig, PredictorConfig, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import STATE_DIM, VJEPA2ACConfig

# Blocks of V-JEPA 2.1 whose outputs its predictor reads, by depth; the official code knows no other depth.
_TAPS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 40: (9, 19, 29, 39), 48: (11, 23, 37, 47)}
# Side of the grid to which V-JEPA 2.1 stretches positions, by patch size; the official code knows no other.
_SPANS = {16: 16, 14: 18}
# Architectures of the code of V-JEPA 2 that the code of I-JEPA lacks.
_NOT_IJEPA = ("vit_giant_xformers", "vit_gigantic", "vit_gigantic_xformers")


def derive_config(checkpoint: Checkpoint, encoder: str, settings: TrainingConfig) -> Config:
    """Return the configuration of the model in a checkpoint.

    Args:
        checkpoint: A checkpoint of V-JEPA 2, V-JEPA 2.1, V-JEPA 2-AC or I-JEPA.
        encoder: Name of the encoder in an official file.
        settings: Settings that the weights do not show.

    Raises:
        JepaExportError: Weights or settings are missing, contradict each other, or are of a model that is not
            implemented here.
    """
    derived = _Derivation(checkpoint, encoder, settings)
    if checkpoint.family == "I-JEPA":
        return derived.ijepa()
    if checkpoint.family == "V-JEPA 2-AC":
        return derived.vjepa2_ac()
    return derived.vjepa2()


def describe_config(config: Config) -> str:
    """Return the sizes of a model in one line."""
    encoder = config.encoder
    height, width = encoder.frame_size if isinstance(encoder, EncoderConfig) else (encoder.px, encoder.px)
    parts = [
        f"width {encoder.width}, depth {encoder.depth}, {encoder.heads} heads",
        f"{height}x{width} px in patches of {encoder.patch} px",
    ]
    if isinstance(encoder, EncoderConfig):
        frames = config.frames if isinstance(config, VJEPA2ACConfig) else encoder.frames
        parts.append(f"clips of up to {frames} frames in tubelets of {encoder.tubelet}")
        parts.append("a table of positions" if encoder.table else "rotary positions")
    if isinstance(config, VJEPA2Config | VJEPA2ACConfig | IJEPAConfig) and (own := config.predictor):
        parts.append(f"predictor of width {own.width}, depth {own.depth}, {own.heads} heads")
    return "; ".join(parts)


class _Derivation:
    """The shapes of one model, and what is missing to build it."""

    def __init__(self, checkpoint: Checkpoint, encoder: str, settings: TrainingConfig) -> None:
        self.family: Family = checkpoint.family
        self.where, self.settings, self.encoders = checkpoint.where, settings, checkpoint.encoders
        self.levels = checkpoint.levels
        self.weights: Tensors = checkpoint.weights(encoder, levels=self.levels, tables=True)
        self.unknown: list[str] = []
        if settings.unsupported:
            raise self._unsupported(f"{settings.source} has {', '.join(settings.unsupported)}")
        kernel = checkpoint.patch_shape(encoder)
        if len(kernel) not in (4, 5) or kernel[1] != 3 or kernel[-1] != kernel[-2]:
            raise self._unsupported(f"the patch convolution has the shape {list(kernel)}")
        self.patch, self.tubelet = kernel[-1], kernel[2] if len(kernel) == 5 else 1
        # The official code builds an encoder without an axis of time for clips of one frame.
        self.single_frame = len(kernel) == 4
        if self.single_frame and self.family != "V-JEPA 2-AC" and settings.frames not in (None, 1):
            raise self._contradiction("the longest clip", "1 frame", settings.frames, "the settings state")

    def vjepa2(self) -> VJEPA2Config:
        """Return the configuration of a V-JEPA 2 or 2.1."""
        settings, is_2_1 = self.settings, self.family == "V-JEPA 2.1"
        sizes = self._sizes("encoder", self._heads())
        own = self._sizes("predictor", self._predictor_heads())
        frame_size, frames = settings.frame_size, 1 if self.single_frame else settings.frames
        table = self._table()
        if table:
            frame_size, frames = self._size_of_table(frame_size, frames)
        if frame_size is None:
            self.unknown.append("the resolution (--resolution)")
        if frames is None:
            self.unknown.append("the number of frames in the longest clip (--max-frames)")
        span = self._span(frame_size) if is_2_1 else None
        self._check_known()
        assert frame_size is not None and frames is not None
        self._check_frames(frame_size, frames)
        depth, width = sizes["depth"], sizes["width"]
        taps: tuple[int, ...] = (depth - 1,)
        teacher_width = None
        if is_2_1:
            if depth not in _TAPS or self.levels not in (1, len(_TAPS[depth])):
                raise self._unsupported(
                    f"its encoder has {depth} blocks and its predictor reads {self.levels} outputs of it"
                )
            taps = _TAPS[depth] if self.levels > 1 else taps
            out = self._shape("predictor.proj.weight")[0]
            # Distilled models have this encoder, and a predictor that reads one output.
            distilled = self.levels == 1 and "ema_encoder" in self.encoders
            teacher_width = out if distilled or out != len(taps) * width else None
        height, across = frame_size
        encoder = EncoderConfig(
            **sizes,
            px=height,
            px_across=None if across == height else across,
            taps=taps,
            frames=frames,
            patch=self.patch,
            tubelet=self.tubelet,
            table=table,
            pairing="interleaved" if is_2_1 else "tiled",
            span=span,
            images="encoder.patch_embed_img.proj.weight" in self.weights,
            modalities="encoder.video_mod_embed" in self.weights,
        )
        mask_tokens = self._shape("predictor.mask_tokens")[0]
        predictor = PredictorConfig(**own, mask_tokens=mask_tokens, teacher_width=teacher_width, span=span)
        return VJEPA2Config(encoder=encoder, predictor=predictor, fps=settings.fps or VJEPA2Config.fps)

    def vjepa2_ac(self) -> VJEPA2ACConfig:
        """Return the configuration of a V-JEPA 2-AC."""
        sizes = self._sizes("encoder", self._heads())
        own = self._sizes("predictor", self._predictor_heads())
        frame_size, frames = self.settings.frame_size, self.settings.frames
        self._table()
        if frame_size is None:
            self.unknown.append("the resolution (--resolution)")
        if frames is None:
            self.unknown.append("the number of frames in the longest sequence (--max-frames)")
        self._check_known()
        assert frame_size is not None and frames is not None
        self._check_frames(frame_size, self.tubelet)
        actions = self._shape("predictor.action_encoder.weight")[-1]
        if actions != STATE_DIM:
            raise self._unsupported(f"its actions have {actions} numbers instead of {STATE_DIM}")
        height, across = frame_size
        encoder = EncoderConfig(
            **sizes,
            px=height,
            px_across=None if across == height else across,
            taps=(sizes["depth"] - 1,),
            # Each frame is encoded alone.
            frames=self.tubelet,
            patch=self.patch,
            tubelet=self.tubelet,
        )
        return VJEPA2ACConfig(encoder=encoder, predictor=Sizes(**own), frames=frames)

    def ijepa(self) -> IJEPAConfig:
        """Return the configuration of an I-JEPA."""
        heads = self._heads()
        sizes = self._sizes("encoder", heads)
        self._check_known()
        patches = self._shape("encoder.pos_embed")[1]
        side = isqrt(patches)
        px = side * self.patch
        if side**2 != patches:
            raise self._unsupported(f"its {patches} positions are not those of a square image")
        if self.settings.frame_size is not None and self.settings.frame_size != (px, px):
            given = "{}x{}".format(*self.settings.frame_size)
            raise self._contradiction("the resolution", f"{px}x{px}", given, "the settings state")
        predictor = None
        if any(name.startswith("predictor.") for name in self.weights):
            # The official code gives the predictor the heads of the encoder.
            predictor = Sizes(**self._sizes("predictor", self.settings.predictor_heads or heads))
        return IJEPAConfig(encoder=ViTConfig(**sizes, px=px, patch=self.patch), predictor=predictor)

    def _heads(self) -> int:
        """Return the heads of the encoder; if they are unknown, note that and return 1."""
        if self.settings.heads is not None:
            return self.settings.heads
        width, depth = self._width("encoder"), self._depth("encoder")
        known = {
            name: sizes["heads"]
            for name, sizes in ARCHITECTURES.items()
            if (sizes["width"], sizes["depth"]) == (width, depth)
            and not (self.family == "I-JEPA" and name in _NOT_IJEPA)
        }
        if len(known) == 1:
            return int(next(iter(known.values())))
        options = " or ".join(f"{heads} in {name}" for name, heads in known.items())
        of = f"{options} of the official code" if known else "no official architecture has these sizes"
        self.unknown.append(
            f"the attention heads of the encoder of width {width} and depth {depth} ({of}; --heads)"
        )
        return 1

    def _predictor_heads(self) -> int:
        if self.settings.predictor_heads is None:
            self.unknown.append("the attention heads of the predictor (--predictor-heads)")
        return self.settings.predictor_heads or 1

    def _sizes(self, network: str, heads: int) -> dict[str, Any]:
        """Return the sizes of the blocks of a network."""
        first = f"{network}.blocks.0."
        width, depth = self._width(network), self._depth(network)
        actual = {"width": width, "depth": depth}
        if network == "predictor":
            actual = {f"{what} of the predictor": value for what, value in actual.items()}
        else:
            actual |= {"patch size": self.patch} | ({} if self.single_frame else {"tubelet": self.tubelet})
        for what, value in actual.items():
            stated = self.settings.stated.get(what, value)
            if stated != value:
                raise self._contradiction(what, value, stated, f"{self.settings.source} states")
        if width % (2 * heads):
            raise JepaExportError(
                f"{self.where}: the {network} has width {width}, which {heads} heads do not divide into "
                "parts of even width; pass the number of heads that it was trained with",
                code="teacher.settings_contradict",
            )
        return {
            "width": width,
            "depth": depth,
            "heads": heads,
            "hidden": self._shape(first + "mlp.fc1.weight")[0],
            "qkv_bias": first + "attn.qkv.bias" in self.weights,
            "gated": first + "mlp.fc3.weight" in self.weights,
        }

    def _width(self, network: str) -> int:
        return self._shape(f"{network}.blocks.0.norm1.weight")[0]

    def _depth(self, network: str) -> int:
        found = (re.match(rf"{network}\.blocks\.(\d+)\.", name) for name in self.weights)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def _table(self) -> bool:
        """Return whether positions are a table."""
        exists, rotary = "encoder.pos_embed" in self.weights, self.settings.rotary
        if rotary is False and self.family != "V-JEPA 2":
            raise self._unsupported("it was trained without rotary positions (model.use_rope is not true)")
        if rotary is False and not exists:
            raise JepaExportError(
                f"{self.where}: has no table of positions, but according to {self.settings.source} it was "
                "trained with one (model.use_rope is not true); pass the configuration of this checkpoint "
                "with --training-config",
                code="teacher.settings_contradict",
            )
        if exists and rotary is None:
            self.unknown.append(
                "whether its table of positions is used, or left over from before rotary positions "
                "(model.use_rope)"
            )
        return exists and rotary is False

    def _size_of_table(
        self, frame_size: tuple[int, int] | None, frames: int | None
    ) -> tuple[tuple[int, int] | None, int | None]:
        """Return the resolution and the length of clips for which there are positions; one may be unknown."""
        places = self._shape("encoder.pos_embed")[1]
        if frame_size is None and frames is not None and frames >= self.tubelet:
            side = isqrt(places // (frames // self.tubelet)) * self.patch
            frame_size = side, side
        elif frames is None and frame_size is not None:
            patches = (frame_size[0] // self.patch) * (frame_size[1] // self.patch)
            frames = places // max(patches, 1) * self.tubelet
        if frame_size is not None and frames is not None:
            height, width = (side // self.patch for side in frame_size)
            if frames // self.tubelet * height * width != places:
                raise JepaExportError(
                    f"{self.where}: has {places} positions, but {frames} frames of "
                    f"{frame_size[0]}x{frame_size[1]} px have {frames // self.tubelet * height * width} "
                    "tokens; pass the resolution and the length of clips that it was trained with",
                    code="teacher.settings_contradict",
                )
        return frame_size, frames

    def _span(self, frame_size: tuple[int, int] | None) -> int | None:
        """Return the side of the grid that positions of V-JEPA 2.1 are stretched to."""
        span, stretched = _SPANS.get(self.patch), self.settings.stretched
        if stretched:
            if span is None:
                raise self._unsupported(f"it stretches positions and has patches of {self.patch} px")
            if frame_size is not None and min(frame_size) < 2 * self.patch:
                raise self._unsupported(f"it stretches positions of frames of {frame_size} px")
            return span
        if stretched is None and frame_size is not None:
            grid = {side // self.patch for side in frame_size}
            if grid != {span}:
                self.unknown.append(
                    "whether positions are stretched at this resolution (model.interpolate_rope)"
                )
        return None

    def _check_frames(self, frame_size: tuple[int, int], frames: int) -> None:
        if any(side < 1 or side % self.patch for side in frame_size):
            raise JepaExportError(
                f"{self.where}: has patches of {self.patch} px, of which {frame_size[0]}x{frame_size[1]} px "
                "is not a multiple; pass another resolution with --resolution",
                code="teacher.settings_contradict",
            )
        if frames < self.tubelet:
            raise JepaExportError(
                f"{self.where}: reads tubelets of {self.tubelet} frames, but its longest clip has {frames}; "
                "pass another length with --max-frames",
                code="teacher.settings_contradict",
            )

    def _check_known(self) -> None:
        if self.unknown:
            raise JepaExportError(
                f"{self.where}: the weights do not show {'; '.join(self.unknown)}; pass the options, or the "
                "configuration of the training (params-pretrain.yaml, config.json) with --training-config or "
                "next to the checkpoint",
                code="teacher.settings_unknown",
            )

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.weights:
            raise JepaExportError(
                f"{self.where}: not a complete {self.family}: weight {name} missing; use the file as the "
                "training saved it",
                code="teacher.weights_mismatch",
            )
        return tuple(self.weights[name].shape)

    def _contradiction(self, what: str, actual: object, stated: object, source: str) -> JepaExportError:
        return JepaExportError(
            f"{self.where}: {what} is {actual} by the weights, but {source} {stated}; pass the "
            "checkpoint and the configuration of the same training",
            code="teacher.settings_contradict",
        )

    def _unsupported(self, reason: str) -> JepaExportError:
        return JepaExportError(
            f"{self.where}: this {self.family} cannot be read: {reason}, which is not implemented; use "
            "another checkpoint",
            code="teacher.architecture_unsupported",
        )
