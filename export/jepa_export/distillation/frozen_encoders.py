"""Frozen encoders that a predictor can be trained on: of a distillation, of a bundle, or a whole teacher."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jepa_export.bundling.teacher_retention import TeacherRetention, read_teacher_retention
from jepa_export.bundling.variants import VARIANTS
from jepa_export.data.file_hash import file_hash
from jepa_export.data.provenance_marks import trained_on
from jepa_export.distillation.teacher_targets import Features
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import parameters
from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD, Encoder
from jepa_export.students.family import create
from jepa_export.students.layers import unit_scale
from jepa_export.targets.onnx import check_size
from jepa_export.teachers.checkpoints.read import Teacher
from jepa_export.teachers.license import forbids_commerce
from jepa_export.training.checkpoint import SETTINGS, load
from jepa_runtime import WorldModel
from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle

# Tokens along an edge of what is made of a whole teacher: a latent has at most 16.
_POOLED_SIDE = 4


@dataclass(frozen=True)
class FrozenConfig:
    """Of an encoder that is not a student's: side of the frame in pixels, and the size of its latent."""

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
        self.config = FrozenConfig(px=features.px, tokens=self._side**2, dim=features.dim)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        image = ((frame - self.mean) / self.std).permute(0, 3, 1, 2)
        clip = image[:, None].expand(-1, self._features.frames, -1, -1, -1)
        square = self._features.side // self._side
        grid = self._features.of(clip).reshape(-1, self._side, square, self._side, square, self.config.dim)
        return unit_scale(grid.mean(dim=(2, 4)).flatten(1, 2))


class BundleEncoder(nn.Module):
    """The fp32 encoder of a bundle, computed by the runtime: uint8 [N, px, px, 3] -> [N, tokens, dim], of
    whatever scale. It has no weights in torch, and runs on the CPU wherever the frames are.

    Raises:
        JepaRuntimeError: the bundle has none that runs here, or it was changed meanwhile.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        # Of the predictor beside it nothing is asked, so it is compiled for as little as can be.
        self._model = WorldModel.open(
            bundle,
            precision="fp32",
            num_samples=1,
            options=BackendOptions(threads=None),
            allow_untrained=True,
        )
        self.identity = self._model.latent_space
        io = bundle.manifest.io
        self.config = FrozenConfig(px=io.frame.height, tokens=io.latent.tokens, dim=io.latent.dim)

    def forward(self, frame: Tensor) -> Tensor:
        latents = [self._model.encode(image) for image in frame.cpu().numpy()]
        return torch.from_numpy(np.stack(latents)).to(frame.device)


FrozenEncoder = Encoder | PooledTeacher | BundleEncoder


@dataclass(frozen=True, kw_only=True)
class Given:
    """An encoder, and what is to be told of it. ``student``: the member of the family whose predictor goes
    with it; ``identity``: changes with its weights; ``bundle``: that it is of, and stays in; ``trained``:
    neither its weights nor those that it was distilled from are random; ``trained_on``: marks of the
    recordings that it learnt from here (None: not known); ``kept``: of its teacher (None: not known)."""

    encoder: FrozenEncoder
    student: str
    identity: str
    name: str
    description: str
    licence: str
    teacher: str | None
    version: str = "1.0.0"
    bundle: Bundle | None = None
    trained: bool = True
    trained_on: frozenset[str] | None = frozenset()
    kept: TeacherRetention | None = None


def of_bundle(folder: Path, *, student: str, untrained: bool, accept_non_commercial: bool) -> Given:
    """The encoder of a bundle, whose predictor is replaced by one of ``student``'s sizes: the next minor
    version of the same model.

    Args:
        untrained: random weights are welcome.
        accept_non_commercial: as are weights that forbid commercial use.

    Raises:
        JepaExportError: it is not fit for that, or these are not.
        JepaRuntimeError: it is not valid, or does not run here.
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    if not (manifest.trained or untrained):
        raise JepaExportError(
            f"{folder}: its encoder has random weights: name a trained one, or say --untrained-teacher"
        )
    if forbids_commerce(manifest.licence) and not accept_non_commercial:
        raise JepaExportError(
            f"{folder}: its licence ({manifest.licence}) forbids commercial use, of what is made of it too: "
            "choose another encoder, or say --accept-non-commercial"
        )
    frame = manifest.io.frame
    if frame.height != frame.width:
        raise JepaExportError(
            f"{folder}: its frames are {frame.width} x {frame.height}, data is read as squares only: choose "
            "another encoder"
        )
    kinds = [(each.target, each.precision) for each in manifest.graphs.encoder]
    if unknown := [kind for kind in kinds if kind not in VARIANTS]:
        raise JepaExportError(
            f"{folder}: has its encoder as {'/'.join(unknown[0])}, and no predictor can be made for that: "
            "build it again without"
        )
    if not {("openvino", "fp32"), ("onnx", "fp32")}.intersection(kinds):
        raise JepaExportError(
            f"{folder}: has no fp32 encoder for OpenVINO or as ONNX, which a predictor is trained on: build "
            "it again with one (--target)"
        )
    encoder = BundleEncoder(bundle)
    major, minor, _ = manifest.version.split(".", 2)
    return Given(
        encoder=encoder,
        student=student,
        identity=encoder.identity,
        name=manifest.model_id,
        description=f"the encoder of {manifest.model_id} {manifest.version} as it is, and a predictor of "
        f"{student}",
        licence=manifest.licence,
        teacher=manifest.provenance.teacher,
        version=f"{major}.{int(minor) + 1}.0",
        bundle=bundle,
        trained=manifest.trained,
        trained_on=trained_on(bundle),
        kept=read_teacher_retention(bundle),
    )


def of_teacher(teacher: Teacher, *, clip: int, student: str, trained: bool) -> Given:
    """A whole teacher, whose predictor has the sizes of ``student``'s.

    Raises:
        JepaExportError: the teacher reads no clips of ``clip`` frames, or is too large for a bundle.
    """
    features = Features(teacher, frames=clip)
    check_size(teacher.name, parameters(getattr(features.model, "encoder", features.model)))
    return Given(
        encoder=PooledTeacher(features),
        student=student,
        identity=f"{teacher.provenance}, clips of {clip}, {teacher.fingerprint}",
        name=teacher.name.lower(),
        description=f"{teacher.name} as it is, its tokens averaged, and a predictor of {student}",
        licence=teacher.member.licence,
        teacher=teacher.provenance,
        trained=trained,
    )


def of_run(folder: Path) -> Given:
    """The encoder that a distillation left in ``folder``.

    Raises:
        JepaExportError: there is none, or it is not finished.
        JepaRuntimeError: its bundle is damaged.
    """
    note = folder / SETTINGS
    try:
        settings = json.loads(note.read_text())
        name, steps, px = str(settings["student"]), int(settings["steps"]), int(settings["size"])
        licence, teacher = str(settings["licence"]), str(settings["teacher"])
        saved = folder / "encoder.pt"
        if aware := int(settings.get("quantization_aware", 0)):
            saved, steps = folder / "encoder_int8.pt", aware
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JepaExportError(
            f"{folder} is not the folder of a distillation ({SETTINGS} is missing or damaged): --encoder "
            "takes the --out of jepa-export distill, a bundle, or a teacher's name"
        ) from error
    state = load(saved)
    if state.get("step") != steps:
        raise JepaExportError(
            f"{saved}: trained for {state.get('step')} of {steps} steps: let jepa-export distill finish first"
        )
    encoder = create(name, px=px, action_scale=(1.0,), seed=0).encoder
    network = state.get("best", {}).get("network") or state["network"]
    prefix = "encoder."
    weights = {key.removeprefix(prefix): value for key, value in network.items() if key.startswith(prefix)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise JepaExportError(f"{saved} does not fit {name}: distil it again") from error
    finished = Bundle.open(folder / "bundle") if (folder / "bundle").exists() else None
    return Given(
        encoder=encoder,
        student=name,
        identity=file_hash(saved),
        name=name,
        description=f"{name} distilled from {teacher.split(' ')[0]}",
        licence=licence,
        teacher=teacher,
        trained=not settings.get("untrained_teacher"),
        trained_on=None if finished is None else trained_on(finished),
        kept=None if finished is None else read_teacher_retention(finished),
    )
