"""Requests for a distillation and for the training of a predictor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints import Settings
from jepa_runtime.bundle import HORIZON, STEP_S

Precision = Literal["32-true", "bf16-mixed"]
"""Of the training."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """Options of both commands.

    Attributes:
        data: Sources of training data, as the user named them.
        cache: Folder of decoded frames (None: in ``out``).
        rate_hz: Frame rate of the clips: one frame per step.
        watch_every: Steps between two evaluations of held-out clips.
        max_collapses: Consecutive collapses after which training ends (None: never).
        depth: Encoder blocks of a teacher with random weights (None: all).
        int8_cosine: Lowest cosine of INT8 with fp32 that is accepted (0: any).
        targets: Targets of the variants, see :func:`~jepa_export.bundling.variants.select_variants`; empty
            and ``only`` is None: the default variants.
        only: One variant instead, as TARGET/PRECISION.
        settings: Settings of the teacher that its weights do not show.
        command: Command line, for the provenance in the bundle.
    """

    data: tuple[str, ...]
    out: Path
    cache: Path | None
    rate_hz: float
    history: int
    horizon: int
    num_samples: int
    batch: int
    predictor_steps: int
    learning_rate: float
    seed: int
    held_out: float
    skip_bad: bool
    precision: Precision
    checkpoint_every: int
    watch_every: int
    max_collapses: int | None
    tensorboard: bool
    accept_non_commercial: bool
    untrained_teacher: bool
    depth: int | None
    clip: int
    student: str
    int8_cosine: float
    targets: tuple[str, ...]
    only: str | None
    settings: Settings
    command: str

    def check(self) -> None:
        """Check that all numbers are in range.

        Raises:
            JepaExportError: One is not; the message names its option.
        """
        for option, value in {
            "--batch": self.batch,
            "--predictor-steps": self.predictor_steps,
            "--history": self.history,
            "--horizon": self.horizon,
            "--num-samples": self.num_samples,
            "--checkpoint-every": self.checkpoint_every,
            "--watch-every": self.watch_every,
            "--alarms": 1 if self.max_collapses is None else self.max_collapses,
        }.items():
            if value < 1:
                raise JepaExportError(
                    f"{option}: must be at least 1, got {value}", code="export.invalid_option"
                )
        if max(self.history, self.horizon) > HORIZON[1]:
            raise JepaExportError(
                f"--history and --horizon: must be at most {HORIZON[1]}, got {self.history} and "
                f"{self.horizon}",
                code="export.invalid_option",
            )
        slowest, fastest = 1 / STEP_S[1], 1 / STEP_S[0]
        if not slowest <= self.rate_hz <= fastest:
            raise JepaExportError(
                f"--rate: must be between {slowest:.2g} and {fastest:g}, got {self.rate_hz:g}",
                code="export.invalid_option",
            )
        if not 0 <= self.held_out < 1:
            raise JepaExportError(
                f"--held-out: must lie in [0, 1), got {self.held_out:g}", code="export.invalid_option"
            )
        if not 0 < self.learning_rate < math.inf:
            raise JepaExportError(
                f"--learning-rate: must be a positive number, got {self.learning_rate:g}",
                code="export.invalid_option",
            )


@dataclass(frozen=True, kw_only=True)
class DistillationRequest(TrainingRequest):
    """Request to distill a student.

    Attributes:
        teacher: ``NAME`` or ``NAME=CHECKPOINT``.
        px: Side of the student's frame in pixels (None: that of the teacher).
        quantization_aware: Further steps of the encoder with emulated INT8.
    """

    teacher: str
    px: int | None
    steps: int
    quantization_aware: int


@dataclass(frozen=True, kw_only=True)
class PredictorRequest(TrainingRequest):
    """Request to train a predictor on a frozen encoder.

    Attributes:
        encoder: Folder of a distillation or of a bundle, or ``TEACHER[=CHECKPOINT]``.
        action_free: Accept data without actions.
    """

    encoder: str
    action_free: bool
