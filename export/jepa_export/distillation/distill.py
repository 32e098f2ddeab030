"""A whole run: data, teacher, the stages, and the bundle; or, on a given encoder, its second half."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from jepa_export.bundling.staging import check_output
from jepa_export.bundling.student_bundle import TOLERANCES, write_student_bundle
from jepa_export.bundling.variants import DEFAULT_TARGETS, VariantKey, select_variants
from jepa_export.data.action_statistics import measure as statistics
from jepa_export.data.batches import Batches
from jepa_export.data.clip_windows import Windows, check_alike
from jepa_export.data.frame_store import Store
from jepa_export.data.open_data import Data, open_data
from jepa_export.data.provenance_marks import TRAINED_ON, mark
from jepa_export.distillation import clip_metrics
from jepa_export.distillation.data_split import DataSplit
from jepa_export.distillation.frozen_encoders import Given, of_bundle, of_run, of_teacher
from jepa_export.distillation.requests import Common, Distillation, PostTraining
from jepa_export.distillation.stages import EncoderStage, PredictorStage, QuantizationAwareStage, Stage
from jepa_export.distillation.teacher_targets import Features, open_teacher
from jepa_export.distillation.training_loop import Pace, fabric, train
from jepa_export.errors import JepaExportError
from jepa_export.quantization.accuracy_control import limits_of
from jepa_export.students.family import FAMILY, Student, create
from jepa_export.students.predictor import Predictor, PredictorConfig
from jepa_export.teachers.checkpoints.read import Teacher
from jepa_export.training.checkpoint import alone, claim
from jepa_runtime.bundle import MANIFEST_NAME

_LOG = logging.getLogger(__name__)
_TELL_EVERY_S = 5.0
# At once, in memory: enough for a rank, whatever the batch.
_WATCHED_CLIPS = 32
# A trained encoder is not to forget, only to settle where rounding does no harm.
_INT8_LEARNING_RATE = 0.1

Progress = Callable[[str], None]


def distill(asked: Distillation, progress: Progress) -> Path | None:
    """Train a student of a teacher, and leave the bundle ``out``/bundle; what was done before is not done
    again.

    Returns:
        The bundle; None in all but the first of several processes.

    Raises:
        JepaExportError, JepaRuntimeError: the message says what is wrong, where, and what to do.
    """
    _check_student(asked.student)
    if asked.steps < 1:
        raise JepaExportError(f"--steps must be at least 1, got {asked.steps}")
    if asked.px is not None and not 16 <= asked.px <= 4096:
        raise JepaExportError(f"--size must be between 16 and 4096, got {asked.px}")
    if asked.quantization_aware < 0:
        raise JepaExportError(f"--quantization-aware must be at least 0, got {asked.quantization_aware}")
    spread = _start(asked)
    teacher = _teacher(asked.teacher, asked)
    features = Features(teacher, frames=asked.clip)
    work = _prepare(asked, spread, asked.px or features.px, progress)
    clips = work.windows(features.frames, actions=False)
    frames = work.windows(asked.history + asked.horizon)
    if spread.is_global_zero:
        frames.tell(progress)
    actions = _actions(frames.train)
    if actions is NO_ACTIONS and spread.is_global_zero:
        _LOG.warning(
            "there are no actions in this data, so the model will not tell what they change; of a bag they "
            "must be named (?action=TOPIC:FIELD,…)"
        )
    student = create(asked.student, px=work.px, action_scale=actions.scale, seed=asked.seed)
    work.claim(
        {
            "teacher": teacher.provenance,
            "weights": teacher.fingerprint,
            "licence": teacher.member.licence,
            "steps": asked.steps,
            "clip": asked.clip,
        }
        | ({"untrained_teacher": True} if asked.untrained_teacher else {})
        | ({"quantization_aware": asked.quantization_aware} if asked.quantization_aware else {}),
        clips,
        frames,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.seed)
        encoder = EncoderStage(student.encoder.train(), features)
        aware = QuantizationAwareStage(encoder) if asked.quantization_aware else None
    given = Given(
        encoder=student.encoder,
        student=student.name,
        identity="",
        name=student.name,
        description=f"{student.name} distilled from {teacher.name} ({teacher.weights})",
        licence=teacher.member.licence,
        teacher=teacher.provenance,
        trained=not asked.untrained_teacher,
    )
    work.check(given, actions, frames)
    work.train(encoder, clips, asked.steps)
    if aware is not None:
        work.train(aware, clips, asked.quantization_aware, share=_INT8_LEARNING_RATE)
    report = {}
    if spread.is_global_zero:
        kept = clip_metrics.kept(encoder.eval(), clips, teacher.name)
        kept.tell(progress)
        report = kept.as_report()
    return work.finish(given, student.predictor, actions, frames, progress, report)


def train_predictor(asked: PostTraining, progress: Progress) -> Path | None:
    """Train a predictor of actions on a frozen encoder, and leave the bundle ``out``/bundle.

    Returns, Raises: as :func:`distill`.
    """
    _check_student(asked.student)
    spread = _start(asked)
    given = _given(asked)
    work = _prepare(asked, spread, given.encoder.config.px, progress)
    frames = work.windows(asked.history + asked.horizon)
    if spread.is_global_zero:
        frames.tell(progress)
    if frames.train.action_names is None and not asked.action_free:
        raise JepaExportError(
            f"{', '.join(asked.data)}: there are no actions in this data: name them (?action=TOPIC:FIELD,… "
            "for bags), or train without with --action-free"
        )
    actions = _actions(frames.train)
    if given.bundle:
        actions = select_action_space(actions, given.bundle)
    work.check(given, actions, frames)
    predictor = _predictor(given, actions, frames.train, asked.seed)
    work.claim({"encoder": given.identity}, frames)
    report = {} if given.kept is None else given.kept.as_report()
    return work.finish(given, predictor, actions, frames, progress, report)


@dataclass(frozen=True)
class _Work:
    """A run under way."""

    asked: Common
    spread: Fabric
    data: Data
    px: int

    def windows(self, frames: int, *, actions: bool = True) -> DataSplit:
        """Clips of so many frames, enough for a batch: no stage is to find that out after hours of another.

        Raises:
            JepaExportError: there are too few on a side, or the sides do not go together.
        """
        asked, data = self.asked, self.data
        check_alike([*data.train, *data.held_out])
        of = partial(Windows, frames=frames, rate_hz=asked.rate_hz, actions=actions)
        train = of(data.train)
        Batches(train, size=asked.batch, seed=asked.seed)
        try:
            held = of(data.held_out) if data.held_out else train
        except JepaExportError as error:
            raise JepaExportError(f"held out (--held-out {asked.held_out:g}): {error}") from error
        return DataSplit(train, held)

    def claim(self, settings: dict[str, Any], *pairs: DataSplit) -> None:
        """Take the folder for these settings, and those in common that losses, and which weights are kept,
        follow from."""
        asked = self.asked
        names = ("student", "rate_hz", "history", "horizon", "batch", "predictor_steps", "learning_rate")
        common = {name: getattr(asked, name) for name in (*names, "seed", "precision", "watch_every")}
        found = {"data": [f"{pair} ({pair.digest})" for pair in pairs], "size": self.px}
        claim(asked.out, settings | common | found, write=self.spread.is_global_zero)
        if self.spread.is_global_zero:
            alone(asked.out)
        self.spread.barrier()

    def train(self, stage: Stage, pair: DataSplit, steps: int, *, share: float = 1.0) -> None:
        """Train a stage at this share of the learning rate."""
        asked = self.asked
        pace = Pace(
            steps=steps,
            batch=asked.batch,
            learning_rate=share * asked.learning_rate,
            seed=asked.seed,
            checkpoint_every=asked.checkpoint_every,
            watch_every=asked.watch_every,
            alarms=asked.alarms,
        )
        held_out = clip_metrics.some_clips(pair.held_out, _WATCHED_CLIPS)
        seen = not self.data.held_out
        train(self.spread, stage, pair.train, held_out, asked.out, pace, seen=seen, board=asked.board)

    def check(self, given: Given, actions: ActionSpace, pair: DataSplit) -> None:
        """Refuse before the training what no bundle can be made of."""
        settings, about = self._told(given, actions, pair)
        config = given.encoder.config
        validate_manifest(
            create_manifest(
                about,
                settings,
                MeasuredErrors.zero(settings.horizon),
                px=config.px,
                latent=(config.tokens, config.dim),
                roles=("encoder", "predictor", "step"),
                tolerances=TOLERANCES,
            )
        )

    def _told(
        self, given: Given, actions: ActionSpace, pair: DataSplit
    ) -> tuple[BundleSettings, ModelIdentity]:
        """What the bundle's manifest says besides what is measured."""
        asked = self.asked
        settings = BundleSettings(
            actions=actions,
            history_size=asked.history,
            horizon=asked.horizon,
            num_samples=asked.num_samples,
            step_s=1 / asked.rate_hz,
            rate_hz=pair.train.camera_hz,
            variants=self._kinds(given),
            command=asked.command,
        )
        about = ModelIdentity(
            model_id=given.name,
            version=given.version,
            trained=given.trained,
            description=given.description,
            licence=given.licence,
            data=f"{pair}: {', '.join(asked.data)}",
            teacher=given.teacher,
        )
        return settings, about

    def _kinds(self, given: Given) -> tuple[VariantKey, ...]:
        asked = self.asked
        if given.bundle is None:
            return select_variants(asked.targets or DEFAULT_TARGETS, asked.only)
        if asked.targets or asked.only:
            raise JepaExportError(
                f"{given.bundle.path}: the predictor gets the variants that its encoder has: leave --target "
                "and --only out; jepa-export add-variant adds further ones afterwards"
            )
        return encoder_variants(given.bundle)

    def finish(
        self,
        given: Given,
        network: Predictor,
        actions: ActionSpace,
        pair: DataSplit,
        progress: Progress,
        report: dict[str, Any],
    ) -> Path | None:
        """Train the predictor, and write the bundle, with what is to be in its ``report`` besides."""
        asked, folder = self.asked, self.asked.out / "bundle"
        if pair.train.action_names is None:
            # Whatever it is told, the prediction is the same.
            nn.init.zeros_(network.embed_action[0].weight)
        predictor = PredictorStage(network.train(), given.encoder, history=asked.history)
        self.train(predictor, pair, asked.predictor_steps)
        if not self.spread.is_global_zero:
            return None
        found = clip_metrics.measure(predictor.eval(), pair.held_out)
        found.tell("held out" if self.data.held_out else "trained on", progress)
        settings, about = self._told(given, actions, pair)
        measured = MeasuredErrors(
            error_bounds=tuple(found.error_bounds),
            surprise_threshold=found.surprise_threshold,
            goal_threshold=found.goal_threshold,
        )
        clips = clip_metrics.calibration_clips(pair.train)
        of = {
            "held_out": bool(self.data.held_out),
            "recordings": [recording.name for recording in pair.held_out.used],
        }
        report = report | {"open_loop": report_fields(found) | of}
        if given.trained_on is not None:
            report[TRAINED_ON] = sorted(given.trained_on.union(map(mark, self.data.train)))
        told: dict[str, Any] = {"seed": asked.seed, "progress": progress, "report": report}
        if asked.int8_cosine:
            told["limits"] = limits_of(asked.int8_cosine)
            told["held_out"] = clip_metrics.calibration_clips(pair.held_out)
            told["seen"] = not self.data.held_out
        if given.bundle:
            write_predictor_bundle(
                given.bundle, given.encoder, network.cpu(), clips, folder, settings, about, measured, **told
            )
        else:
            student = Student(given.name, given.encoder.cpu(), network.cpu())
            write_student_bundle(student, clips, folder, settings, about, measured, **told)
        return folder


def _start(asked: Common) -> Fabric:
    asked.check()
    if asked.int8_cosine:
        limits_of(asked.int8_cosine)
    check_output(asked.out / "bundle")
    return fabric(asked.precision)


def _prepare(asked: Common, spread: Fabric, px: int, progress: Progress) -> _Work:
    told_s = -math.inf

    def now_and_then(what: str) -> None:
        nonlocal told_s
        if spread.is_global_zero and time.monotonic() - told_s > _TELL_EVERY_S:
            told_s = time.monotonic()
            progress(what)

    store = Store(asked.cache or asked.out / "frames", height=px, width=px)
    data = open_data(
        asked.data,
        store,
        held_out=asked.held_out,
        skip_bad=asked.skip_bad,
        progress=now_and_then,
    )
    return _Work(asked, spread, data, px)


def _check_student(name: str) -> None:
    if name not in FAMILY:
        raise JepaExportError(f"no student is called {name!r}; there are: {', '.join(FAMILY)}")


def _given(asked: PostTraining) -> Given:
    path = Path(asked.encoder).expanduser()
    if (path / MANIFEST_NAME).is_file():
        given = of_bundle(
            path,
            student=asked.student,
            untrained=asked.untrained_teacher,
            accept_non_commercial=asked.accept_non_commercial,
        )
        assert given.bundle is not None
        check_latent_size(
            given.bundle, history=asked.history, horizon=asked.horizon, num_samples=asked.num_samples
        )
        return given
    if path.is_dir():
        return of_run(path)
    teacher = _teacher(asked.encoder, asked)
    return of_teacher(teacher, clip=asked.clip, student=asked.student, trained=not asked.untrained_teacher)


def _teacher(spec: str, asked: Common) -> Teacher:
    return open_teacher(
        spec,
        untrained=asked.untrained_teacher,
        depth=asked.depth,
        seed=asked.seed,
        accept_non_commercial=asked.accept_non_commercial,
    )


def _actions(windows: Windows) -> ActionSpace:
    """The range of the actions in the data; :data:`~jepa_export.bundling.manifest_fields.NO_ACTIONS` where
    there are none."""
    found = statistics(windows)
    if found is None:
        return NO_ACTIONS
    if found.still:
        raise JepaExportError(
            f"the action {found.still[0]} never changes in this data, nothing can be learnt of it: leave it "
            "out"
        )
    return ActionSpace(names=found.names, units=found.units, low=found.low, high=found.high, max_norm=None)


def _predictor(given: Given, actions: ActionSpace, windows: Windows, seed: int) -> Predictor:
    width, depth, heads = FAMILY[given.student].predictor
    config = PredictorConfig(
        width=width,
        depth=depth,
        heads=heads,
        tokens=given.encoder.config.tokens,
        dim=given.encoder.config.dim,
        action_scale=actions.scale,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if given.bundle is None:
            return Predictor(config)
        frames = clip_metrics.some_clips(windows, _WATCHED_CLIPS).frames
        return create_predictor(config, given.encoder(torch.from_numpy(frames).flatten(0, 1)))
