"""The published models by name: sizes, inputs, the weights that are used, and their licenses.

A family by name (:data:`FAMILY_NAMES`) stands for a model of any size: its checkpoint determines the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, overload

from jepa_export.errors import JepaExportError
from jepa_export.teachers.ijepa import IJEPA, IJEPAConfig
from jepa_export.teachers.layers import Sizes
from jepa_export.teachers.lewm import LeWM, LeWMConfig
from jepa_export.teachers.license import forbids_commercial_use
from jepa_export.teachers.vit import ViTConfig
from jepa_export.teachers.vjepa2 import VJEPA2, EncoderConfig, PredictorConfig, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import VJEPA2AC, VJEPA2ACConfig

Family = Literal["V-JEPA 2", "V-JEPA 2.1", "V-JEPA 2-AC", "LeWM", "I-JEPA"]
Config = VJEPA2Config | VJEPA2ACConfig | LeWMConfig | IJEPAConfig
Model = VJEPA2 | VJEPA2AC | LeWM | IJEPA


@dataclass(frozen=True, kw_only=True)
class Member:
    """One published model.

    Attributes:
        weights: Encoder in the official file that its authors evaluate.
        published: Locations of the file (below dl.fbaipublicfiles.com, or a name on the Hugging Face Hub).
    """

    family: Family
    config: Config
    weights: str
    published: tuple[str, ...]
    license: str = "MIT"

    @property
    def commercial(self) -> bool:
        """Return whether models made from the weights may be used commercially."""
        return not forbids_commercial_use(self.license)


def _sizes(width: int, depth: int, heads: int, hidden: int | None = None) -> dict[str, Any]:
    return {"width": width, "depth": depth, "heads": heads, "hidden": hidden or 4 * width}


# The encoders that the official code can train, by their names there.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit_tiny": _sizes(192, 12, 3),
    "vit_small": _sizes(384, 12, 6),
    "vit_base": _sizes(768, 12, 12),
    "vit_large": _sizes(1024, 24, 16),
    "vit_huge": _sizes(1280, 32, 16),
    "vit_giant": _sizes(1408, 40, 16, 6144),
    "vit_giant_xformers": _sizes(1408, 40, 22, 6144),
    "vit_gigantic": _sizes(1664, 48, 16, 8192),
    "vit_gigantic_xformers": _sizes(1664, 48, 26, 8192),
}
_BASE, _LARGE, _HUGE = (ARCHITECTURES[name] for name in ("vit_base", "vit_large", "vit_huge"))
_GIANT, _GIGANTIC = ARCHITECTURES["vit_giant_xformers"], ARCHITECTURES["vit_gigantic_xformers"]


def _vjepa2(name: str, sizes: dict[str, Any], px: int) -> Member:
    return Member(
        family="V-JEPA 2",
        config=VJEPA2Config(
            encoder=EncoderConfig(**sizes, px=px, taps=(sizes["depth"] - 1,)),
            predictor=PredictorConfig(**_sizes(384, 12, 12), mask_tokens=10),
        ),
        weights="target_encoder",
        published=(
            f"vjepa2/vit{name}{'' if px == 256 else f'-{px}'}.pt",
            f"facebook/vjepa2-vit{name}-fpc64-{px}",
        ),
    )


def _vjepa2_1(name: str, sizes: dict[str, Any], taps: tuple[int, ...] | None = None) -> Member:
    """Return a V-JEPA 2.1 model; without ``taps`` it was distilled from ViT-G and predicts in its space."""
    last = sizes["depth"] - 1
    return Member(
        family="V-JEPA 2.1",
        config=VJEPA2Config(
            encoder=EncoderConfig(
                **sizes,
                px=384,
                pairing="interleaved",
                span=16,
                images=True,
                modalities=True,
                taps=taps or (last,),
            ),
            predictor=PredictorConfig(
                **_sizes(384, 24 if taps else 12, 12),
                mask_tokens=8,
                teacher_width=None if taps else _GIGANTIC["width"],
            ),
        ),
        weights="target_encoder" if taps else "ema_encoder",
        published=(f"vjepa2/vjepa2_1_vit{name}{'' if taps else '_dist_vitG'}_384.pt",),
    )


def _ijepa(sizes: dict[str, Any], px: int, patch: int, depth: int, *published: str) -> Member:
    return Member(
        family="I-JEPA",
        config=IJEPAConfig(
            encoder=ViTConfig(**sizes, px=px, patch=patch), predictor=Sizes(**_sizes(384, depth, 16))
        ),
        weights="target_encoder",
        published=published,
        license="CC-BY-NC-4.0",
    )


FAMILY: dict[str, Member] = {
    "vjepa2_vitl_256": _vjepa2("l", _LARGE, 256),
    "vjepa2_vith_256": _vjepa2("h", _HUGE, 256),
    "vjepa2_vitg_256": _vjepa2("g", _GIANT, 256),
    "vjepa2_vitg_384": _vjepa2("g", _GIANT, 384),
    "vjepa2_1_vitb_384": _vjepa2_1("b", _BASE),
    "vjepa2_1_vitl_384": _vjepa2_1("l", _LARGE),
    "vjepa2_1_vitg_384": _vjepa2_1("g", _GIANT, (9, 19, 29, 39)),
    "vjepa2_1_vitG_384": _vjepa2_1("G", _GIGANTIC, (11, 23, 37, 47)),
    "vjepa2_ac_vitg_256": Member(
        family="V-JEPA 2-AC",
        config=VJEPA2ACConfig(
            encoder=EncoderConfig(**_GIANT, px=256, taps=(39,), frames=2), predictor=Sizes(**_LARGE)
        ),
        weights="encoder",
        published=("vjepa2/vjepa2-ac-vitg.pt",),
    ),
    "lewm": Member(
        family="LeWM",
        config=LeWMConfig(
            encoder=ViTConfig(**_sizes(192, 12, 3), px=224, patch=14, class_token=True, eps=1e-12),
            depth=6,
            heads=16,
            head_dim=64,
            hidden=2048,
            projector=2048,
            history=3,
            # Push-T: 5 actions of 2 numbers. For other checkpoints the size is read from the file.
            action_dim=10,
        ),
        weights="encoder",
        published=("quentinll/lewm-pusht", "quentinll/lewm-cube", "quentinll/lewm-tworooms"),
    ),
    "ijepa_vith14_224": _ijepa(
        _HUGE, 224, 14, 12, "ijepa/IN1K-vit.h.14-300e.pth.tar", "facebook/ijepa_vith14_1k"
    ),
    "ijepa_vith16_448": _ijepa(
        _HUGE, 448, 16, 12, "ijepa/IN1K-vit.h.16-448px-300e.pth.tar", "facebook/ijepa_vith16_1k"
    ),
    "ijepa_vitg16_224": _ijepa(
        ARCHITECTURES["vit_giant"],
        224,
        16,
        16,
        "ijepa/IN22K-vit.g.16-600e.pth.tar",
        "facebook/ijepa_vitg16_22k",
    ),
}


FAMILY_NAMES: dict[str, Family] = {
    "vjepa2": "V-JEPA 2",
    "vjepa2_1": "V-JEPA 2.1",
    "vjepa2_ac": "V-JEPA 2-AC",
    "ijepa": "I-JEPA",
}
# Of weights that are not one of the published models. I-JEPA's code is for non-commercial use only.
_LICENSES: dict[Family, str] = {"I-JEPA": "CC-BY-NC-4.0"}


def is_family(name: str) -> bool:
    """Return whether ``name`` is a family, whose sizes are read from the checkpoint.

    Raises:
        JepaExportError: It is neither a family nor a model.
    """
    if name in FAMILY:
        return False
    if name not in FAMILY_NAMES:
        raise JepaExportError(
            f"teacher {name!r}: unknown; choose one of {', '.join(FAMILY)}, or for a checkpoint of any size "
            f"{', '.join(FAMILY_NAMES)}",
            code="teacher.unknown",
        )
    return True


def find_teacher(name: str) -> Member:
    """Return the model with this name.

    Raises:
        JepaExportError: There is none, or the name is that of a family.
    """
    if is_family(name):
        models = [other for other, member in FAMILY.items() if member.family == FAMILY_NAMES[name]]
        raise JepaExportError(
            f"teacher {name}: the sizes of this family are read from a checkpoint, and none was given; pass "
            f"the checkpoint, or choose one of {', '.join(models)}",
            code="teacher.checkpoint_required",
        )
    return FAMILY[name]


def family_license(name: str) -> str:
    """Return the license of weights in this family that are not one of the published models."""
    return _LICENSES.get(FAMILY_NAMES[name], "not recorded in the checkpoint")


@overload
def shallow(config: VJEPA2Config, depth: int) -> VJEPA2Config: ...
@overload
def shallow(config: Config, depth: int) -> Config: ...
def shallow(config: Config, depth: int) -> Config:
    """Return the same model with ``depth`` encoder blocks and at most as many predictor blocks.

    Raises:
        JepaExportError: The model has fewer.
    """
    if not 1 <= depth <= config.encoder.depth:
        raise JepaExportError(
            f"--depth: must be between 1 and {config.encoder.depth}, got {depth}",
            code="export.invalid_option",
        )
    if isinstance(config, LeWMConfig):
        return replace(config, encoder=replace(config.encoder, depth=depth), depth=min(config.depth, depth))
    if isinstance(config, IJEPAConfig):
        return replace(config, encoder=replace(config.encoder, depth=depth), predictor=None)
    encoder = replace(config.encoder, depth=depth, taps=(depth - 1,))
    predictor_depth = min(config.predictor.depth, depth)
    if isinstance(config, VJEPA2Config):
        return replace(config, encoder=encoder, predictor=replace(config.predictor, depth=predictor_depth))
    return replace(config, encoder=encoder, predictor=replace(config.predictor, depth=predictor_depth))
