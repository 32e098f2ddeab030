"""What distillation and post-training are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jepa_export.errors import JepaExportError
from jepa_runtime.bundle.manifest import HORIZON, STEP_S


@dataclass(frozen=True, kw_only=True)
class Common:
    """What both commands are asked for. ``rate_hz``: of the clips, one frame a step; ``cache``: where decoded
    frames are kept (None: in ``out``); ``int8_cosine``: of INT8 with fp32, at least (0: whatever it is);
    ``targets`` and ``only``: see :func:`~jepa_export.bundling.variants.select_variants` (empty and None: as
    usual); ``command``: for the bundle's provenance."""

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
    precision: str
    checkpoint_every: int
    watch_every: int
    alarms: int | None
    board: bool
    accept_non_commercial: bool
    untrained_teacher: bool
    depth: int | None
    clip: int
    student: str
    int8_cosine: float
    targets: tuple[str, ...]
    only: str | None
    command: str

    def check(self) -> None:
        """Refuse numbers of which nothing can be made.

        Raises:
            JepaExportError: one is out of range; the message names its option.
        """
        for option, value in {
            "--batch": self.batch,
            "--predictor-steps": self.predictor_steps,
            "--history": self.history,
            "--horizon": self.horizon,
            "--num-samples": self.num_samples,
            "--checkpoint-every": self.checkpoint_every,
            "--watch-every": self.watch_every,
            "--alarms": 1 if self.alarms is None else self.alarms,
        }.items():
            if value < 1:
                raise JepaExportError(f"{option} must be at least 1, got {value}")
        if max(self.history, self.horizon) > HORIZON[1]:
            raise JepaExportError(
                f"--history and --horizon must be at most {HORIZON[1]}, got {self.history} and {self.horizon}"
            )
        slowest, fastest = 1 / STEP_S[1], 1 / STEP_S[0]
        if not slowest <= self.rate_hz <= fastest:
            raise JepaExportError(
                f"--rate must be between {slowest:.2g} and {fastest:g}, got {self.rate_hz:g}"
            )
        if not 0 <= self.held_out < 1:
            raise JepaExportError(f"--held-out must lie in [0, 1), got {self.held_out:g}")
        if not 0 < self.learning_rate < math.inf:
            raise JepaExportError(f"--learning-rate must be a positive number, got {self.learning_rate:g}")


@dataclass(frozen=True, kw_only=True)
class Distillation(Common):
    """``px``: side of the student's frame (None: the teacher's); ``quantization_aware``: further steps of the
    encoder, as in INT8."""

    teacher: str
    px: int | None
    steps: int
    quantization_aware: int


@dataclass(frozen=True, kw_only=True)
class PostTraining(Common):
    """``encoder``: the folder of a distillation or of a bundle, or ``TEACHER[=CHECKPOINT]``; ``action_free``:
    the data may be without actions."""

    encoder: str
    action_free: bool
