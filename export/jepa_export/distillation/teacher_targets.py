"""Teachers as sources of distillation targets."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.errors import JepaExportError
from jepa_export.students.layers import unit_scale
from jepa_export.teachers.checkpoints import Settings, Teacher, read
from jepa_export.teachers.family import family_license, find_teacher, is_family, shallow
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.license import forbids_commercial_use
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2, EncoderConfig, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import VJEPA2AC


def open_teacher(
    spec: str,
    *,
    untrained: bool,
    depth: int | None,
    seed: int,
    accept_non_commercial: bool,
    settings: Settings | None = None,
) -> Teacher:
    """Return the teacher ``NAME`` or ``NAME=CHECKPOINT``.

    Without a checkpoint, the first of its published ones on the Hugging Face Hub is used.

    Args:
        spec: ``NAME`` or ``NAME=CHECKPOINT``.
        untrained: Use random weights instead.
        depth: Encoder blocks of a teacher with random weights (None: all).
        seed: Seed of random weights.
        accept_non_commercial: Accept weights whose license forbids commercial use.
        settings: Settings of a checkpoint of any size that its weights do not show.

    Raises:
        JepaExportError: The teacher is unknown, its checkpoint cannot be read, its license is not accepted,
            or the arguments contradict each other.
    """
    name, _, source = spec.partition("=")
    license = family_license(name) if source and is_family(name) else find_teacher(name).license
    if untrained:
        if settings not in (None, Settings()):
            raise JepaExportError(
                "--untrained-teacher: cannot be combined with --training-config, --heads, --predictor-heads, "
                "--resolution and --max-frames, which are for checkpoints of any size",
                code="export.option_not_applicable",
            )
        if source:
            raise JepaExportError(
                f"--untrained-teacher: cannot be combined with a checkpoint ({source})",
                code="export.option_not_applicable",
            )
        return _random(name, depth, seed)
    if depth is not None:
        raise JepaExportError(
            "--depth: requires --untrained-teacher, as published weights have a fixed depth",
            code="export.option_not_applicable",
        )
    if forbids_commercial_use(license) and not accept_non_commercial:
        raise JepaExportError(
            f"teacher {name}: its license {license} forbids commercial use of the weights and of "
            "models "
            "trained from them; choose another teacher, or accept it with --accept-non-commercial",
            code="export.non_commercial",
        )
    return read(name, source or _on_hub(name), settings=settings)


def _on_hub(name: str) -> str:
    """Return the name of the first published checkpoint of a model on the Hugging Face Hub."""
    published = find_teacher(name).published
    on_hub = [place for place in published if "." not in place.rsplit("/", 1)[-1]]
    if not on_hub:
        raise JepaExportError(
            f"teacher {name}: not on the Hugging Face Hub; download {', '.join(published)} from "
            f"dl.fbaipublicfiles.com and pass --teacher {name}=FILE",
            code="teacher.no_checkpoint",
        )
    return on_hub[0]


def _random(name: str, depth: int | None, seed: int) -> Teacher:
    member = find_teacher(name)
    config = member.config if depth is None else shallow(member.config, depth)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.build()
    blocks = f"{config.encoder.depth} of {member.config.encoder.depth} blocks"
    return Teacher(
        name=name,
        member=replace(member, license="Apache-2.0"),
        model=model.eval().requires_grad_(False),
        weights="random weights",
        source=f"seed {seed}, {blocks}: not the published model",
    )


class TeacherFeatures:
    """The teacher's representation of the last frame of a clip: tokens [B, side * side, dim] of unit scale.

    For V-JEPA 2.1, each level in a token has unit scale. V-JEPA 2 attends in both directions over its clip:
    the clip ends with the frame (with the ``tubelet`` that it completes), so that targets contain nothing of
    the future. The other teachers read the frame alone.

    Args:
        frames: Length of a clip for V-JEPA 2; the others use 1.

    Raises:
        JepaExportError: The teacher reads no clips of that length, or no square frames.
    """

    def __init__(self, teacher: Teacher, *, frames: int) -> None:
        model, config = teacher.model, teacher.model.config
        self.model = model
        if isinstance(config.encoder, EncoderConfig) and len(set(config.encoder.frame_size)) > 1:
            height, width = config.encoder.frame_size
            raise JepaExportError(
                f"teacher {teacher.name}: reads frames of {height}x{width} px, and students read square "
                "ones; pass the side of a square with --resolution",
                code="export.teacher_unsupported",
            )
        self.px, self.frames = config.encoder.px, 1
        self.side = 1 if isinstance(model, LeWM) else self.px // config.encoder.patch
        self.dim = getattr(config.encoder, "output_dim", config.encoder.width)
        if isinstance(config, VJEPA2Config):
            encoder, self.frames = config.encoder, frames
            single = frames == 1 and encoder.images
            if not single and (frames % encoder.tubelet or not 0 < frames <= encoder.frames):
                raise JepaExportError(
                    f"--clip: must be a multiple of {encoder.tubelet} up to {encoder.frames} for "
                    f"{teacher.name}, got {frames}",
                    code="export.invalid_option",
                )

    def to(self, device: torch.device) -> TeacherFeatures:
        """Move the teacher to ``device``."""
        self.model.to(device)
        return self

    def __call__(self, frames: Tensor) -> Tensor:
        """Return the tokens of frames uint8 [B, T, h, w, 3], T at least ``frames``, resized if necessary."""
        clips = normalize(frames[:, -self.frames :])
        if clips.shape[-1] != self.px:
            scaled = functional.interpolate(
                clips.flatten(0, 1), size=(self.px, self.px), mode="bilinear", antialias=True
            )
            clips = scaled.unflatten(0, clips.shape[:2])
        return self.of(clips)

    def of(self, clips: Tensor) -> Tensor:
        """Return the tokens of normalized clips [B, ``frames``, 3, px, px]."""
        if isinstance(self.model, VJEPA2):
            levels = self.model(clips)[:, -(self.side**2) :].split(self.model.config.encoder.width, dim=-1)
            return torch.cat([unit_scale(level) for level in levels], dim=-1)
        if isinstance(self.model, VJEPA2AC):
            tokens: Tensor = self.model(clips)[:, -1]
        elif isinstance(self.model, LeWM):
            tokens = self.model(clips)
        else:
            tokens = self.model(clips[:, -1])
        return unit_scale(tokens)
