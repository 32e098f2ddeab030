"""Frozen encoders that a predictor can be trained on: of a distillation, of a bundle, or a whole teacher."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa_export.bundling.teacher_retention import TeacherRetention, read_teacher_retention
from jepa_export.bundling.variants import VARIANTS
from jepa_export.data.file_hash import file_hash
from jepa_export.data.provenance_marks import trained_on
from jepa_export.distillation.teacher_targets import TeacherFeatures
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import parameters
from jepa_export.students.encoder import FrameEncoder
from jepa_export.students.family import create
from jepa_export.students.layers import unit_scale
from jepa_export.targets.onnx import check_size
from jepa_export.teachers.checkpoints.read import Teacher
from jepa_export.teachers.license import forbids_commercial_use
from jepa_export.teachers.normalization import PixelNormalization
from jepa_export.training.checkpoint import SETTINGS, load
from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle

# Tokens along an edge of the pooled grid of a teacher: a latent has at most 16 tokens.
_POOLED_SIDE = 4


@dataclass(frozen=True)
class FrozenConfig:
    """Frame side in pixels and latent size of an encoder that is not a student's."""

    px: int
    tokens: int
    dim: int


class PooledTeacher(FrameEncoder):
    """A whole teacher as an encoder of single frames: uint8 [N, px, px, 3] -> [N, tokens, dim].

    Its tokens are averaged over squares of its grid and normalized to unit scale. For a teacher that reads
    clips, the frame is repeated.
    """

    def __init__(self, features: TeacherFeatures) -> None:
        super().__init__()
        self.model, self._features = features.model, features
        self._side = max(side for side in range(1, _POOLED_SIDE + 1) if features.side % side == 0)
        self.config = FrozenConfig(px=features.px, tokens=self._side**2, dim=features.dim)
        self.normalize = PixelNormalization()

    def forward(self, frame: Tensor) -> Tensor:
        clip = self.normalize(frame)[:, None].expand(-1, self._features.frames, -1, -1, -1)
        square = self._features.side // self._side
        grid = self._features.of(clip).reshape(-1, self._side, square, self._side, square, self.config.dim)
        return unit_scale(grid.mean(dim=(2, 4)).flatten(1, 2))


class BundleEncoder(FrameEncoder):
    """The fp32 encoder of a bundle, run by the runtime: uint8 [N, px, px, 3] -> [N, tokens, dim].

    It has no torch weights and runs on the CPU, on whichever device the frames are.

    Raises:
        JepaExportError: The encoder reads clips.
        JepaRuntimeError: The bundle has no encoder that runs here, or it changed after it was opened.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        # The predictor of the bundle is not used, so it is compiled for a single candidate.
        self._model = WorldModel.open(
            bundle,
            precision="fp32",
            num_samples=1,
            options=BackendOptions(threads=None),
            allow_untrained=True,
        )
        self.identity = self._model.latent_space
        io = bundle.manifest.io
        if io.clip is not None:
            raise JepaExportError(
                f"{bundle.path}: its encoder reads clips of {io.clip.frames} images, and a predictor is "
                "trained on frames that are encoded alone: build it with --time still",
                code="distillation.clip_encoder",
            )
        self.config = FrozenConfig(px=io.frame.height, tokens=io.latent.tokens, dim=io.latent.dim)

    def forward(self, frame: Tensor) -> Tensor:
        latents = [self._model.encode(image) for image in frame.cpu().numpy()]
        return torch.from_numpy(np.stack(latents)).to(frame.device)


@dataclass(frozen=True, kw_only=True)
class FrozenEncoderSource:
    """An encoder and its origin.

    Attributes:
        student: Member of the family whose predictor sizes are used.
        identity: String that changes with the weights.
        bundle: Bundle that the encoder belongs to and stays in.
        trained: Neither its weights nor those of its teacher are random.
        trained_on: Marks of the recordings that it was trained on here (None: unknown).
        retention: What the encoder retained of its teacher (None: unknown).
    """

    encoder: FrameEncoder
    student: str
    identity: str
    name: str
    description: str
    license: str
    teacher: str | None
    version: str = "1.0.0"
    bundle: Bundle | None = None
    trained: bool = True
    trained_on: frozenset[str] | None = frozenset()
    retention: TeacherRetention | None = None


def from_bundle(
    folder: Path, *, student: str, untrained: bool, accept_non_commercial: bool
) -> FrozenEncoderSource:
    """Return the encoder of a bundle, whose predictor is replaced: the next minor version of the same model.

    Args:
        folder: The bundle.
        student: Member of the family whose predictor sizes are used.
        untrained: Accept random weights.
        accept_non_commercial: Accept weights whose license forbids commercial use.

    Raises:
        JepaExportError: The encoder does not meet these conditions, or no predictor can be trained on it.
        JepaRuntimeError: The bundle is not valid, or does not run here.
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    if not (manifest.trained or untrained):
        raise JepaExportError(
            f"{folder}: the encoder has random weights; choose a trained one, or accept it with "
            "--untrained-teacher",
            code="teacher.untrained",
        )
    if forbids_commercial_use(manifest.licence) and not accept_non_commercial:
        raise JepaExportError(
            f"{folder}: the license {manifest.licence} forbids commercial use, also of models made from it; "
            "choose another encoder, or accept it with --accept-non-commercial",
            code="export.non_commercial",
        )
    frame = manifest.io.frame
    if frame.height != frame.width:
        raise JepaExportError(
            f"{folder}: frames are {frame.width} x {frame.height}, but training data is read as squares; "
            "choose "
            "another encoder",
            code="bundle.frame_not_square",
        )
    kinds = [(each.target, each.precision) for each in manifest.graphs.encoder]
    if unknown := [kind for kind in kinds if kind not in VARIANTS]:
        raise JepaExportError(
            f"{folder}: no predictor can be made for its encoder variant {'/'.join(unknown[0])}; rebuild the "
            "bundle without it",
            code="bundle.unsupported_variant",
        )
    if not {("openvino", "fp32"), ("onnx", "fp32")}.intersection(kinds):
        raise JepaExportError(
            f"{folder}: no fp32 encoder for OpenVINO or ONNX Runtime, which training needs; rebuild the "
            "bundle "
            "with one (--target)",
            code="bundle.no_fp32_encoder",
        )
    encoder = BundleEncoder(bundle)
    major, minor, _ = manifest.version.split(".", 2)
    return FrozenEncoderSource(
        encoder=encoder,
        student=student,
        identity=encoder.identity,
        name=manifest.model_id,
        description=f"the encoder of {manifest.model_id} {manifest.version} as it is, and a predictor of "
        f"{student}",
        license=manifest.licence,
        teacher=manifest.provenance.teacher,
        version=f"{major}.{int(minor) + 1}.0",
        bundle=bundle,
        trained=manifest.trained,
        trained_on=trained_on(bundle),
        retention=read_teacher_retention(bundle),
    )


def from_teacher(teacher: Teacher, *, clip: int, student: str, trained: bool) -> FrozenEncoderSource:
    """Return a whole teacher as an encoder, for a predictor of ``student``'s sizes.

    Raises:
        JepaExportError: The teacher reads no clips of ``clip`` frames, or is too large for a bundle.
    """
    features = TeacherFeatures(teacher, frames=clip)
    check_size(teacher.name, parameters(getattr(features.model, "encoder", features.model)))
    return FrozenEncoderSource(
        encoder=PooledTeacher(features),
        student=student,
        identity=f"{teacher.provenance}, clips of {clip}, {teacher.fingerprint}",
        name=teacher.name.lower(),
        description=f"{teacher.name} unchanged, its tokens averaged, and a predictor of {student}",
        license=teacher.member.license,
        teacher=teacher.provenance,
        trained=trained,
    )


def from_distillation(folder: Path) -> FrozenEncoderSource:
    """Return the encoder that a distillation left in ``folder``.

    Raises:
        JepaExportError: There is none, or its training is not finished.
        JepaRuntimeError: The bundle of the distillation is damaged.
    """
    note = folder / SETTINGS
    try:
        settings = json.loads(note.read_text())
        name, steps, px = str(settings["student"]), int(settings["steps"]), int(settings["size"])
        license, teacher = str(settings["licence"]), str(settings["teacher"])
        saved = folder / "encoder.pt"
        if aware := int(settings.get("quantization_aware", 0)):
            saved, steps = folder / "encoder_int8.pt", aware
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JepaExportError(
            f"{folder}: not the folder of a distillation ({SETTINGS} is missing or damaged); --encoder "
            "takes the "
            "--output of jepa-export distill, a bundle, or the name of a teacher",
            code="distillation.not_a_run",
        ) from error
    state = load(saved)
    if state.get("step") != steps:
        raise JepaExportError(
            f"{saved}: trained for {state.get('step')} of {steps} steps; finish jepa-export distill first",
            code="distillation.unfinished",
        )
    encoder = create(name, px=px, action_scale=(1.0,), seed=0).encoder
    network = state.get("best", {}).get("network") or state["network"]
    prefix = "encoder."
    weights = {key.removeprefix(prefix): value for key, value in network.items() if key.startswith(prefix)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise JepaExportError(
            f"{saved}: the weights do not fit {name}; distill it again", code="distillation.weights_mismatch"
        ) from error
    finished = Bundle.open(folder / "bundle") if (folder / "bundle").exists() else None
    return FrozenEncoderSource(
        encoder=encoder,
        student=name,
        identity=file_hash(saved),
        name=name,
        description=f"{name} distilled from {teacher.split(' ')[0]}",
        license=license,
        teacher=teacher,
        trained=not settings.get("untrained_teacher"),
        trained_on=None if finished is None else trained_on(finished),
        retention=None if finished is None else read_teacher_retention(finished),
    )
