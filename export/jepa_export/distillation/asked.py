"""What distillation and post-training are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Common:
    """What both commands are asked for. ``rate_hz``: of the clips, one frame a step; ``cache``: where decoded
    frames are kept (None: in ``out``); ``int8_cosine``: of INT8 with fp32, at least (0: whatever it is);
    ``command``: for the bundle's provenance."""

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
    command: str


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
