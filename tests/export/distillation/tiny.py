"""Run jepa-export with a teacher and a student that train in seconds, in a separate process.

    python -m tests.export.distillation.tiny [--die STAGE STEP] [--die-in MODULE:FUNCTION N] [--no-bundle] …

SIGKILL prevents all cleanup, as a power cut does.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from jepa_export.distillation import distill
from jepa_export.students import family as students
from jepa_export.students.family import Sizes
from jepa_export.teachers import family as teachers
from jepa_export.training.stage import TrainingStage
from tests.export.teachers.tiny import TINY as TEACHERS

STUDENT = Sizes(encoder=(32, 1, 2), predictor=(16, 1, 2), tokens=2, dim=8)
# Two Rooms for a tiny V-JEPA 2; both stages.
DATA = ["--data", "two_rooms?trajectories=12&frames=10"]
SHAPE = ["--clip", "2", "--history", "2", "--horizon", "2", "--num-samples", "16", "--batch", "4"]
PACE = ["--steps", "6", "--predictor-steps", "6", "--checkpoint-every", "2", "--watch-every", "2"]
TEACHER = ["--teacher", "tiny_vjepa2", "--untrained-teacher"]
DISTILL = ["distill", *TEACHER, "--student", "tiny", *DATA, *SHAPE, *PACE, "--allow-collapse"]


@contextmanager
def families() -> Iterator[None]:
    """Register the tiny models in their families."""
    named = {f"tiny_{name}": member for name, member in TEACHERS.items()}
    with mock.patch.dict(students.FAMILY, {"tiny": STUDENT}), mock.patch.dict(teachers.FAMILY, named):
        yield


def die_at(stage: str, step: int) -> None:
    """Kill this process at ``step`` of ``stage``."""
    train_step = TrainingStage.train_step

    def killing_train_step(self: TrainingStage, at: int) -> dict[str, float]:
        if (self.name, at) == (stage, step):
            os.kill(os.getpid(), signal.SIGKILL)
        return train_step(self, at)

    TrainingStage.train_step = killing_train_step


def die_in(function: str, call: int) -> None:
    """Kill this process at a call of a function, counted from 1, as in ``package.module:Class.function``."""
    owner, _, name = function.replace(":", ".").rpartition(".")
    whole, calls = pkgutil.resolve_name(function), 0

    def killing(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **named)

    setattr(pkgutil.resolve_name(owner), name, killing)


def _end(*_: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    from jepa_export.cli import main

    arguments = sys.argv[1:]
    while arguments[0] in ("--die", "--die-in"):
        (die_at if arguments[0] == "--die" else die_in)(arguments[1], int(arguments[2]))
        arguments = arguments[3:]
    if arguments[0] == "--no-bundle":
        distill.clip_metrics.measure = _end
        arguments = arguments[1:]
    with families():
        sys.exit(main(arguments))
