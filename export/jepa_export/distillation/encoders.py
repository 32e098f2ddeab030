"""Frozen encoders that a predictor can be trained on: of a distillation, or a whole teacher."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from jepa_export.checkpoint import SETTINGS, load
from jepa_export.data.files import file_hash
from jepa_export.distillation.teacher import Features
from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD, Encoder
from jepa_export.students.family import create
from jepa_export.students.layers import unit_scale
from jepa_export.teachers.checkpoints.read import Teacher

# Tokens along an edge of what is made of a whole teacher: a latent has at most 16.
_POOLED_SIDE = 4


@dataclass(frozen=True)
class PooledConfig:
    """Of a :class:`PooledTeacher`: side of the frame in pixels, and the size of its latent."""

    px: int
    tokens: int
    dim: int


class PooledTeacher(nn.Module):
    """A whole teacher as an encoder of single frames, its tokens averaged over squares of its grid: uint8 [N,
    px, px, 3] -> [N, tokens, dim], each token of unit scale. Where the teacher reads clips, a frame is shown
    as often as they are long."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.model, self._features = features.model, features
        self._side = max(side for side in range(1, _POOLED_SIDE + 1) if features.side % side == 0)
        self.config = PooledConfig(px=features.px, tokens=self._side**2, dim=features.dim)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        image = ((frame - self.mean) / self.std).permute(0, 3, 1, 2)
        clip = image[:, None].expand(-1, self._features.frames, -1, -1, -1)
        square = self._features.side // self._side
        grid = self._features.of(clip).reshape(-1, self._side, square, self._side, square, self.config.dim)
        return unit_scale(grid.mean(dim=(2, 4)).flatten(1, 2))


FrozenEncoder = Encoder | PooledTeacher


@dataclass(frozen=True, kw_only=True)
class Given:
    """An encoder, and what is to be told of it. ``student``: the member of the family whose predictor goes
    with it; ``identity``: changes with its weights."""

    encoder: FrozenEncoder
    student: str
    identity: str
    name: str
    description: str
    licence: str
    teacher: str | None


def of_teacher(teacher: Teacher, *, clip: int, student: str) -> Given:
    """A whole teacher, whose predictor has the sizes of ``student``'s.

    Raises:
        JepaExportError: the teacher reads no clips of ``clip`` frames.
    """
    return Given(
        encoder=PooledTeacher(Features(teacher, frames=clip)),
        student=student,
        identity=f"{teacher.provenance}, clips of {clip}",
        name=teacher.name.lower(),
        description=f"{teacher.name} as it is, its tokens averaged, and a predictor of {student}",
        licence=teacher.member.licence,
        teacher=teacher.provenance,
    )


def of_run(folder: Path) -> Given:
    """The encoder that a distillation left in ``folder``.

    Raises:
        JepaExportError: there is none, or it is not finished.
    """
    saved, note = folder / "encoder.pt", folder / SETTINGS
    try:
        settings = json.loads(note.read_text())
        name, steps, px = str(settings["student"]), int(settings["steps"]), int(settings["size"])
        licence, teacher = str(settings["licence"]), str(settings["teacher"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JepaExportError(
            f"{folder} is not the folder of a distillation ({SETTINGS} is missing or damaged): --encoder "
            "takes the --out of jepa-export distill, or a teacher's name"
        ) from error
    state = load(saved)
    if state.get("step") != steps:
        raise JepaExportError(
            f"{saved}: trained for {state.get('step')} of {steps} steps: let jepa-export distill finish first"
        )
    encoder = create(name, px=px, action_scale=(1.0,), seed=0).encoder
    prefix = "encoder."
    weights = {
        key.removeprefix(prefix): value for key, value in state["network"].items() if key.startswith(prefix)
    }
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise JepaExportError(f"{saved} does not fit {name}: distil it again") from error
    return Given(
        encoder=encoder,
        student=name,
        identity=file_hash(saved),
        name=name,
        description=f"{name} distilled from {teacher.split(' ')[0]}",
        licence=licence,
        teacher=teacher,
    )
