"""Teachers as givers of targets: what one sees in a frame, from it and from what came before."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from jepa_export.errors import JepaExportError
from jepa_export.students.layers import unit_scale
from jepa_export.teachers.checkpoints.read import Teacher, read
from jepa_export.teachers.family import find, shallow
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.normalization import normalised
from jepa_export.teachers.vjepa2 import VJEPA2, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import VJEPA2AC


def open_teacher(
    spec: str, *, untrained: bool, depth: int | None, seed: int, accept_non_commercial: bool
) -> Teacher:
    """The teacher ``NAME`` or ``NAME=CHECKPOINT``: without a checkpoint, the first of its published ones that
    the Hugging Face Hub has.

    Args:
        untrained: random weights instead; ``depth``: then, how many blocks (None: all).
        seed: of those weights.
        accept_non_commercial: take weights too that forbid commercial use of what is learnt from them.

    Raises:
        JepaExportError: there is no such teacher, its checkpoint cannot be read, its licence is not accepted,
            or the arguments contradict each other.
    """
    name, _, source = spec.partition("=")
    member = find(name)
    if untrained:
        if source:
            raise JepaExportError(f"--untrained-teacher and a checkpoint ({source}) exclude each other")
        return _random(name, depth, seed)
    if depth is not None:
        raise JepaExportError("--depth goes with --untrained-teacher only: published weights have their own")
    if not (member.commercial or accept_non_commercial):
        raise JepaExportError(
            f"the weights of {name} are for non-commercial use only ({member.licence}), and so is what is "
            "learnt from them: choose another teacher, or give --accept-non-commercial"
        )
    on_hub = [place for place in member.published if "." not in place.rsplit("/", 1)[-1]]
    if not source and not on_hub:
        raise JepaExportError(
            f"{name} is not on the Hugging Face Hub: fetch {', '.join(member.published)} from "
            f"dl.fbaipublicfiles.com and give --teacher {name}=FILE"
        )
    return read(name, source or on_hub[0])


def _random(name: str, depth: int | None, seed: int) -> Teacher:
    member = find(name)
    config = member.config if depth is None else shallow(member.config, depth)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.build()
    blocks = f"{config.encoder.depth} of {member.config.encoder.depth} blocks"
    return Teacher(
        name=name,
        member=replace(member, licence="Apache-2.0"),
        model=model.eval().requires_grad_(False),
        weights="random weights",
        source=f"seed {seed}, {blocks}: not the published model",
    )


class Features:
    """What a teacher sees in the last frame of a clip: tokens [B, side * side, dim], each of unit scale, and
    so is each level of V-JEPA 2.1 in them.

    V-JEPA 2 looks both ways over its clip: the clip ends with the frame (with the ``tubelet`` that it
    closes), so that nothing of a target comes from the future. The others look at the frame alone.

    Args:
        frames: of a clip, for V-JEPA 2; else 1 is taken.

    Raises:
        JepaExportError: the teacher reads no clips of that length.
    """

    def __init__(self, teacher: Teacher, *, frames: int) -> None:
        model, config = teacher.model, teacher.model.config
        self.model = model
        self.px, self.frames = config.encoder.px, 1
        self.side = 1 if isinstance(model, LeWM) else self.px // config.encoder.patch
        self.dim = getattr(config.encoder, "output_dim", config.encoder.width)
        if isinstance(config, VJEPA2Config):
            encoder, self.frames = config.encoder, frames
            single = frames == 1 and encoder.images
            if not single and (frames % encoder.tubelet or not 0 < frames <= encoder.frames):
                raise JepaExportError(
                    f"--clip must be a multiple of {encoder.tubelet} up to {encoder.frames} for "
                    f"{teacher.name}, got {frames}"
                )

    def to(self, device: torch.device) -> Features:
        self.model.to(device)
        return self

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 [B, T, h, w, 3], T at least ``frames``; scaled where the teacher reads another size."""
        clips = normalised(frames[:, -self.frames :])
        if clips.shape[-1] != self.px:
            scaled = functional.interpolate(
                clips.flatten(0, 1), size=(self.px, self.px), mode="bilinear", antialias=True
            )
            clips = scaled.unflatten(0, clips.shape[:2])
        return self.of(clips)

    def of(self, clips: Tensor) -> Tensor:
        """The same of clips [B, ``frames``, 3, px, px] that are normalised already."""
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
