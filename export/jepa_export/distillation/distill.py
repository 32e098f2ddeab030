"""Complete runs: distill a student and write its bundle, or train a predictor on a source encoder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from jepa_export.bundling.manifest_fields import (
    NO_ACTIONS,
    ActionSpace,
    BundleSettings,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    create_manifest,
    report_fields,
    validate_manifest,
)
from jepa_export.bundling.predictor_bundle import (
    check_latent_size,
    create_predictor,
    encoder_variants,
    select_action_space,
    write_predictor_bundle,
)
from jepa_export.bundling.staging import check_output, remove_unfinished
from jepa_export.bundling.student_bundle import TOLERANCES, write_student_bundle
from jepa_export.bundling.teacher_retention import TeacherRetention
from jepa_export.bundling.variants import DEFAULT_TARGETS, VariantKey, select_variants
from jepa_export.data.action_statistics import measure as statistics
from jepa_export.data.batches import Batches
from jepa_export.data.clip_windows import Windows, check_compatible
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import TrainingData, open_data
from jepa_export.data.provenance_marks import TRAINED_ON, mark
from jepa_export.distillation import clip_metrics
from jepa_export.distillation.data_split import DataSplit
from jepa_export.distillation.frozen_encoders import (
    BundleEncoder,
    FrozenEncoderSource,
    from_bundle,
    from_distillation,
    from_teacher,
)
from jepa_export.distillation.requests import DistillationRequest, PredictorRequest, TrainingRequest
from jepa_export.distillation.stage_training import StageSettings, start_fabric, train_stage
from jepa_export.distillation.stages import (
    DistillationStage,
    EncoderStage,
    PredictorStage,
    QuantizationAwareStage,
)
from jepa_export.distillation.teacher_targets import TeacherFeatures, open_teacher
from jepa_export.errors import JepaExportError
from jepa_export.quantization.accuracy_control import limits_of
from jepa_export.students.encoder import Encoder
from jepa_export.students.family import FAMILY, Student, create
from jepa_export.students.predictor import Predictor, PredictorConfig
from jepa_export.teachers.checkpoints.read import Teacher
from jepa_export.training.checkpoint import claim_folder, lock_folder
from jepa_export.training.step_results import FOLDER, StepResults, network_hash
from jepa_runtime.bundle import MANIFEST_NAME

_LOG = logging.getLogger(__name__)
_PROGRESS_INTERVAL_S = 5.0
# Held-out clips per evaluation, all in memory: enough for a rank estimate, for any batch size.
_WATCHED_CLIPS = 32
# Quantization-aware training must not change the encoder much, only settle it where rounding does no harm.
_INT8_LEARNING_RATE = 0.1

Progress = Callable[[str], None]


def distill(request: DistillationRequest, progress: Progress) -> Path | None:
    """Train a student of a teacher and write the bundle ``out``/bundle; completed work is not repeated.

    Returns:
        The bundle; None in all but the first of several processes.

    Raises:
        JepaExportError: The request, the data, the teacher or a folder is not usable, or training failed.
        JepaRuntimeError: The data cannot be read, or the finished bundle is not valid.
    """
    _check_student(request.student)
    if request.steps < 1:
        raise JepaExportError(
            f"--steps: must be at least 1, got {request.steps}", code="export.invalid_option"
        )
    if request.px is not None and not 16 <= request.px <= 4096:
        raise JepaExportError(
            f"--size: must be between 16 and 4096, got {request.px}", code="export.invalid_option"
        )
    if request.quantization_aware < 0:
        raise JepaExportError(
            f"--quantization-aware: must be at least 0, got {request.quantization_aware}",
            code="export.invalid_option",
        )
    fabric = _start(request)
    teacher = _teacher(request.teacher, request)
    features = TeacherFeatures(teacher, frames=request.clip)
    run = _prepare(request, fabric, request.px or features.px, progress)
    clips = run.windows(features.frames, actions=False)
    frames = run.windows(request.history + request.horizon)
    if fabric.is_global_zero:
        frames.report(progress)
    actions = _actions(frames.train)
    if actions is NO_ACTIONS and fabric.is_global_zero:
        _LOG.warning(
            "the data has no actions, so the model will not predict their effects; select the actions of a "
            "bag "
            "with ?action=TOPIC:FIELD,…"
        )
    student = create(request.student, px=run.px, action_scale=actions.scale, seed=request.seed)
    run.claim(
        {
            "teacher": teacher.provenance,
            "weights": teacher.fingerprint,
            "licence": teacher.member.license,
            "steps": request.steps,
            "clip": request.clip,
        }
        | ({"untrained_teacher": True} if request.untrained_teacher else {})
        | ({"quantization_aware": request.quantization_aware} if request.quantization_aware else {}),
        clips,
        frames,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        assert isinstance(student.encoder, Encoder)
        encoder = EncoderStage(student.encoder.train(), features)
        aware = QuantizationAwareStage(encoder) if request.quantization_aware else None
    source = FrozenEncoderSource(
        encoder=student.encoder,
        student=student.name,
        identity="",
        name=student.name,
        description=f"{student.name} distilled from {teacher.name} ({teacher.weights})",
        license=teacher.member.license,
        teacher=teacher.provenance,
        trained=not request.untrained_teacher,
    )
    run.check(source, actions, frames)
    run.train(encoder, clips, request.steps)
    if aware is not None:
        run.train(aware, clips, request.quantization_aware, rate_factor=_INT8_LEARNING_RATE)
    report = {}
    if fabric.is_global_zero:
        retention = run.measure_retention(encoder.eval(), clips, teacher, progress)
        retention.report(progress)
        report = retention.as_report()
    return run.finish(source, student.predictor, actions, frames, progress, report)


def train_predictor(request: PredictorRequest, progress: Progress) -> Path | None:
    """Train an action-conditioned predictor on a frozen encoder and write the bundle ``out``/bundle.

    Returns:
        The bundle; None in all but the first of several processes.

    Raises:
        JepaExportError: The request, the data, the encoder or a folder is not usable, or training failed.
        JepaRuntimeError: The data or a bundle cannot be read, or the finished bundle is not valid.
    """
    _check_student(request.student)
    fabric = _start(request)
    source = _encoder_source(request)
    run = _prepare(request, fabric, source.encoder.config.px, progress)
    frames = run.windows(request.history + request.horizon)
    if fabric.is_global_zero:
        frames.report(progress)
    if frames.train.action_names is None and not request.action_free:
        raise JepaExportError(
            f"{', '.join(request.data)}: the data has no actions; select them (bags: "
            "?action=TOPIC:FIELD,…), or "
            "train without actions with --action-free",
            code="data.no_actions",
        )
    actions = _actions(frames.train)
    if source.bundle:
        actions = select_action_space(actions, source.bundle)
    run.check(source, actions, frames)
    predictor = _predictor(source, actions, frames.train, request.seed)
    run.claim({"encoder": source.identity}, frames)
    report = {} if source.retention is None else source.retention.as_report()
    return run.finish(source, predictor, actions, frames, progress, report)


@dataclass(frozen=True)
class _Run:
    """A run in progress."""

    request: TrainingRequest
    fabric: Fabric
    data: TrainingData
    px: int

    def windows(self, frames: int, *, actions: bool = True) -> DataSplit:
        """Return clips of ``frames`` frames.

        Checks early, not after hours of training, that there are enough for a batch.

        Raises:
            JepaExportError: A side of the split has too few, or the recordings are incompatible.
        """
        request, data = self.request, self.data
        check_compatible([*data.train, *data.held_out])
        make_windows = partial(Windows, frames=frames, rate_hz=request.rate_hz, actions=actions)
        train = make_windows(data.train)
        Batches(train, size=request.batch, seed=request.seed)
        try:
            held_out = make_windows(data.held_out) if data.held_out else train
        except JepaExportError as error:
            raise JepaExportError(
                f"held-out recordings (--held-out {request.held_out:g}): {error}", code=error.code
            ) from error
        return DataSplit(train, held_out)

    def claim(self, settings: dict[str, Any], *splits: DataSplit) -> None:
        """Reserve the output folder for the settings that losses and selected weights depend on."""
        request = self.request
        names = ("student", "rate_hz", "history", "horizon", "batch", "predictor_steps", "learning_rate")
        common = {name: getattr(request, name) for name in (*names, "seed", "precision", "watch_every")}
        found = {"data": [f"{split} ({split.digest})" for split in splits], "size": self.px}
        claim_folder(request.out, settings | common | found, write=self.fabric.is_global_zero)
        if self.fabric.is_global_zero:
            lock_folder(request.out)
        self.fabric.barrier()

    def train(
        self, stage: DistillationStage, split: DataSplit, steps: int, *, rate_factor: float = 1.0
    ) -> None:
        """Train a stage with the learning rate multiplied by ``rate_factor``."""
        request = self.request
        settings = StageSettings(
            steps=steps,
            batch=request.batch,
            learning_rate=rate_factor * request.learning_rate,
            seed=request.seed,
            checkpoint_every=request.checkpoint_every,
            watch_every=request.watch_every,
            max_collapses=request.max_collapses,
        )
        held_out = clip_metrics.some_clips(split.held_out, _WATCHED_CLIPS)
        trained_on = not self.data.held_out
        train_stage(
            self.fabric,
            stage,
            split.train,
            held_out,
            request.out,
            settings,
            trained_on=trained_on,
            tensorboard=request.tensorboard,
        )

    def results(self, progress: Progress) -> StepResults:
        """Return the results of the steps after training that an earlier process finished."""
        return StepResults(self.request.out / FOLDER, progress)

    def measure_retention(
        self, stage: EncoderStage, split: DataSplit, teacher: Teacher, progress: Progress
    ) -> TeacherRetention:
        """Return how well ``stage`` reproduces ``teacher``; see :func:`clip_metrics.measure_retention`."""
        inputs = {
            "teacher": f"{teacher.provenance} {teacher.fingerprint}",
            "clip": self.request.clip,
            "student": network_hash(stage),
            "data": split.digest,
        }
        result = self.results(progress).run(
            "agreement with the teacher",
            inputs,
            lambda _: asdict(clip_metrics.measure_retention(stage, split, teacher.name)),
        )
        return TeacherRetention(**result.values)

    def _measure(
        self, stage: PredictorStage, source: FrozenEncoderSource, windows: Windows, results: StepResults
    ) -> clip_metrics.ClipMetrics:
        inputs = {
            "networks": f"{source.identity} {network_hash(source.encoder, stage.predictor)}",
            "history": self.request.history,
            "data": windows.digest,
        }
        result = results.run(
            "prediction error", inputs, lambda _: asdict(clip_metrics.measure(stage, windows))
        )
        return clip_metrics.ClipMetrics(**result.values)

    def check(self, source: FrozenEncoderSource, actions: ActionSpace, split: DataSplit) -> None:
        """Check before training that a valid bundle can be made."""
        settings, identity = self._manifest_fields(source, actions, split)
        config = source.encoder.config
        validate_manifest(
            create_manifest(
                identity,
                settings,
                MeasuredErrors.zero(settings.horizon),
                frame=FrameFormat(config.px, config.px),
                latent=(config.tokens, config.dim),
                roles=("encoder", "predictor", "step"),
                tolerances=TOLERANCES,
            )
        )

    def _manifest_fields(
        self, source: FrozenEncoderSource, actions: ActionSpace, split: DataSplit
    ) -> tuple[BundleSettings, ModelIdentity]:
        """Return the fields of the manifest that are known before training."""
        request = self.request
        settings = BundleSettings(
            actions=actions,
            history_size=request.history,
            horizon=request.horizon,
            num_samples=request.num_samples,
            step_s=1 / request.rate_hz,
            rate_hz=split.train.camera_hz,
            variants=self._variants(source),
            command=request.command,
        )
        identity = ModelIdentity(
            model_id=source.name,
            version=source.version,
            trained=source.trained,
            description=source.description,
            licence=source.license,
            data=f"{split}: {', '.join(request.data)}",
            teacher=source.teacher,
        )
        return settings, identity

    def _variants(self, source: FrozenEncoderSource) -> tuple[VariantKey, ...]:
        request = self.request
        if source.bundle is None:
            return select_variants(request.targets or DEFAULT_TARGETS, request.only)
        if request.targets or request.only:
            raise JepaExportError(
                f"{source.bundle.path}: the predictor gets the variants of its encoder; omit --target and "
                "--only, and add further variants afterwards with jepa-export add-variant",
                code="export.option_not_applicable",
            )
        return encoder_variants(source.bundle)

    def finish(
        self,
        source: FrozenEncoderSource,
        network: Predictor,
        actions: ActionSpace,
        split: DataSplit,
        progress: Progress,
        report: dict[str, Any],
    ) -> Path | None:
        """Train the predictor and write the bundle; ``report`` is added to its report."""
        request, folder = self.request, self.request.out / "bundle"
        if split.train.action_names is None:
            # The prediction does not depend on the action.
            first = network.embed_action[0]
            assert isinstance(first, nn.Linear)
            nn.init.zeros_(first.weight)
        predictor = PredictorStage(network.train(), source.encoder, history=request.history)
        self.train(predictor, split, request.predictor_steps)
        if not self.fabric.is_global_zero:
            return None
        results = self.results(progress)
        metrics = self._measure(predictor.eval(), source, split.held_out, results)
        metrics.report("held-out" if self.data.held_out else "training", progress)
        settings, identity = self._manifest_fields(source, actions, split)
        measured = MeasuredErrors(
            error_bounds=tuple(metrics.error_bounds),
            surprise_threshold=metrics.surprise_threshold,
            goal_threshold=metrics.goal_threshold,
        )
        clips = clip_metrics.calibration_clips(split.train)
        clip_source = {
            "held_out": bool(self.data.held_out),
            "recordings": [recording.name for recording in split.held_out.used],
        }
        report = report | {"open_loop": report_fields(metrics) | clip_source}
        if source.trained_on is not None:
            report[TRAINED_ON] = sorted(source.trained_on.union(map(mark, self.data.train)))
        options: dict[str, Any] = {
            "seed": request.seed,
            "progress": progress,
            "report": report,
            "results": results,
        }
        if request.int8_cosine:
            options["limits"] = limits_of(request.int8_cosine)
            options["held_out"] = clip_metrics.calibration_clips(split.held_out)
            options["seen"] = not self.data.held_out
        remove_unfinished(folder)
        if source.bundle:
            assert isinstance(source.encoder, BundleEncoder)
            write_predictor_bundle(
                source.bundle,
                source.encoder,
                network.cpu(),
                clips,
                folder,
                settings,
                identity,
                measured,
                **options,
            )
        else:
            student = Student(source.name, source.encoder.cpu(), network.cpu())
            write_student_bundle(student, clips, folder, settings, identity, measured, **options)
        results.remove()
        return folder


def _start(request: TrainingRequest) -> Fabric:
    request.check()
    if request.int8_cosine:
        limits_of(request.int8_cosine)
    check_output(request.out / "bundle")
    return start_fabric(request.precision)


def _prepare(request: TrainingRequest, fabric: Fabric, px: int, progress: Progress) -> _Run:
    reported_s = -math.inf

    def report_throttled(what: str) -> None:
        nonlocal reported_s
        if fabric.is_global_zero and time.monotonic() - reported_s > _PROGRESS_INTERVAL_S:
            reported_s = time.monotonic()
            progress(what)

    store = FrameStore(request.cache or request.out / "frames", height=px, width=px)
    data = open_data(
        request.data,
        store,
        held_out=request.held_out,
        skip_bad=request.skip_bad,
        progress=report_throttled,
    )
    return _Run(request, fabric, data, px)


def _check_student(name: str) -> None:
    if name not in FAMILY:
        raise JepaExportError(
            f"student {name!r}: unknown; choose one of {', '.join(FAMILY)}", code="student.unknown"
        )


def _encoder_source(request: PredictorRequest) -> FrozenEncoderSource:
    path = Path(request.encoder).expanduser()
    if (path / MANIFEST_NAME).is_file():
        source = from_bundle(
            path,
            student=request.student,
            untrained=request.untrained_teacher,
            accept_non_commercial=request.accept_non_commercial,
        )
        assert source.bundle is not None
        check_latent_size(
            source.bundle, history=request.history, horizon=request.horizon, num_samples=request.num_samples
        )
        return source
    if path.is_dir():
        return from_distillation(path)
    teacher = _teacher(request.encoder, request)
    return from_teacher(
        teacher, clip=request.clip, student=request.student, trained=not request.untrained_teacher
    )


def _teacher(spec: str, request: TrainingRequest) -> Teacher:
    return open_teacher(
        spec,
        untrained=request.untrained_teacher,
        depth=request.depth,
        seed=request.seed,
        accept_non_commercial=request.accept_non_commercial,
        settings=request.settings,
    )


def _actions(windows: Windows) -> ActionSpace:
    """Return the range of the actions in the data, or ``NO_ACTIONS`` if it has none."""
    found = statistics(windows)
    if found is None:
        return NO_ACTIONS
    if found.constant:
        raise JepaExportError(
            f"the action {found.constant[0]}: constant in this data, so its effect cannot be learned; leave "
            "it out",
            code="data.constant_action",
        )
    return ActionSpace(names=found.names, units=found.units, low=found.low, high=found.high, max_norm=None)


def _predictor(source: FrozenEncoderSource, actions: ActionSpace, windows: Windows, seed: int) -> Predictor:
    width, depth, heads = FAMILY[source.student].predictor
    config = PredictorConfig(
        width=width,
        depth=depth,
        heads=heads,
        tokens=source.encoder.config.tokens,
        dim=source.encoder.config.dim,
        action_scale=actions.scale,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if source.bundle is None:
            return Predictor(config)
        frames = clip_metrics.some_clips(windows, _WATCHED_CLIPS).frames
        return create_predictor(config, source.encoder(torch.from_numpy(frames).flatten(0, 1)))
