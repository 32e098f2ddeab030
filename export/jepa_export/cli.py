"""Train, export and release world models for jepa-runtime."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa_export.commands import add_variant, atlas, distill, evaluate, number_types, release, train_predictor
from jepa_export.commands.variant_options import add_variant_arguments, targets_of
from jepa_export.errors import JepaExportError
from jepa_runtime.commands.exit_status import status_of
from jepa_runtime.commands.signals import interrupted_by_signals
from jepa_runtime.commands.standard_streams import make_streams_robust

_NEEDED = ("torch", "onnx", "nncf", "scipy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; see :func:`~jepa_runtime.commands.exit_status.status_of`."""
    make_streams_robust()
    arguments = _parser().parse_args(argv)
    missing = [name for name in arguments.needs if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"jepa-export: {', '.join(missing)} not installed: run pip install 'jepa-edge[export]'",
            file=sys.stderr,
        )
        return 1
    with interrupted_by_signals():
        return status_of(
            "jepa-export",
            lambda: int(arguments.run(arguments)),
            stopped=f"interrupted: {arguments.stopped}",
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jepa-export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a model from scratch and write its bundle")
    train.add_argument("world", choices=["two_rooms", "reacher"], help="simulated world to train in")
    train.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints, losses and the bundle"
    )
    train.add_argument("--seed", type=number_types.seed, default=0, help="random seed (default: %(default)s)")
    train.add_argument("--layout", choices=["fixed", "random"], help="layouts of two_rooms (default: random)")
    train.add_argument(
        "--episodes",
        type=number_types.count,
        default=100,
        help="closed-loop episodes for each of three seeds; 0: none (default: %(default)s)",
    )
    train.add_argument(
        "--distil",
        action="store_true",
        help="train a large vision transformer first, and distill it into the model for the robot",
    )
    train.set_defaults(run=_train, needs=_NEEDED, stopped="the same command resumes from the last checkpoint")
    _add_build(commands)
    distill.add_parser(commands)
    train_predictor.add_parser(commands)
    add_variant.add_parsers(commands)
    evaluate.add_parser(commands)
    release.add_parser(commands)
    atlas.add_parser(commands)
    return parser


def _add_build(commands: Any) -> None:
    build = commands.add_parser(
        "build", help="write the bundle of a student with random weights, or of a published teacher"
    )
    model = build.add_mutually_exclusive_group(required=True)
    model.add_argument("--student", help="student: vit_ti, vit_s or vit_m")
    model.add_argument(
        "--teacher", metavar="NAME", help="teacher, such as vjepa2_1_vitb_384 or vjepa2_vitl_256"
    )
    weights = build.add_mutually_exclusive_group(required=True)
    weights.add_argument(
        "--untrained",
        action="store_true",
        help="use random weights, for measuring speed; the runtime serves such a bundle only with "
        "--allow-untrained",
    )
    weights.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="weights of a teacher: the official file, a folder, or a name on the Hugging Face Hub",
    )
    build.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    add_variant_arguments(build)
    build.add_argument(
        "--horizon", type=int, help="predicted steps (default: 8; for a teacher 4, for LeWM 5)"
    )
    build.add_argument("--seed", type=number_types.seed, default=0, help="random seed (default: %(default)s)")
    build.add_argument(
        "--calibration",
        default="two_rooms",
        metavar="SOURCE",
        help="calibration frames: two_rooms, a video, a folder of images or a bag; for LeWM recordings with "
        "actions, as for distill --data (default: %(default)s)",
    )
    student = build.add_argument_group("students")
    student.add_argument("--size", type=int, help="side of the frame in pixels (default: 224)")
    student.add_argument(
        "--actions",
        type=int,
        help="components of an action, each in -1 … 1 (default: the velocities of Two Rooms)",
    )
    student.add_argument("--num-samples", type=int, help="futures predicted at once (default: 64)")
    student.add_argument("--history", type=int, help="frames in the history of the predictor (default: 3)")
    teacher = build.add_argument_group("teachers")
    teacher.add_argument(
        "--frames",
        type=int,
        help="frames in the clip of the predictor, each encoded alone (default: 8)",
    )
    teacher.add_argument("--depth", type=int, help="number of blocks, for random weights only (default: all)")
    teacher.add_argument(
        "--accept-non-commercial",
        action="store_true",
        default=None,
        help="accept weights whose license forbids commercial use",
    )
    build.set_defaults(run=_build, needs=_NEEDED, stopped="nothing was written")


def _train(arguments: argparse.Namespace) -> int:
    from jepa_export.commands.train import train_and_bundle
    from jepa_export.data.reacher_recordings import ReacherCourse
    from jepa_export.data.training_world import TrainingWorld
    from jepa_export.data.two_rooms_recordings import TwoRoomsCourse

    course: TrainingWorld
    if arguments.world == "reacher":
        if arguments.layout or arguments.distil:
            raise JepaExportError(
                "--layout and --distil apply to two_rooms only: leave them out",
                code="export.option_not_applicable",
            )
        course, layout = ReacherCourse(), ""
    else:
        course = TwoRoomsCourse(arguments.layout or "random")
        layout = f" --layout {course.kind}"
    return train_and_bundle(
        arguments.out,
        course,
        command=f"jepa-export train {arguments.world}{layout} --seed {arguments.seed}"
        + " --distil" * arguments.distil,
        seed=arguments.seed,
        episodes=arguments.episodes,
        distilled=arguments.distil,
    )


def _build(arguments: argparse.Namespace) -> int:
    from jepa_export.bundling.variants import DEFAULT_TARGETS
    from jepa_export.commands.build import StudentRequest, build
    from jepa_export.commands.build_teacher import build_teacher
    from jepa_export.commands.teacher_request import TeacherRequest

    common = {
        "out": arguments.out,
        "seed": arguments.seed,
        "calibration": arguments.calibration,
        "targets": targets_of(arguments) or DEFAULT_TARGETS,
        "only": arguments.only,
    }
    if arguments.teacher is not None:
        _reject_options(arguments, "a student", "size", "actions", "num_samples", "history")
        return build_teacher(
            TeacherRequest(
                teacher=arguments.teacher,
                checkpoint=arguments.checkpoint,
                depth=arguments.depth,
                frames=arguments.frames,
                horizon=arguments.horizon,
                accept_non_commercial=bool(arguments.accept_non_commercial),
                **common,
            )
        )
    _reject_options(arguments, "a teacher", "checkpoint", "frames", "depth", "accept_non_commercial")
    return build(
        StudentRequest(
            student=arguments.student,
            px=_or(arguments.size, 224),
            actions=arguments.actions,
            horizon=_or(arguments.horizon, 8),
            num_samples=_or(arguments.num_samples, 64),
            history_size=_or(arguments.history, 3),
            **common,
        )
    )


def _reject_options(arguments: argparse.Namespace, model: str, *options: str) -> None:
    """Reject options that would be ignored."""
    for option in options:
        if getattr(arguments, option) is not None:
            raise JepaExportError(
                f"--{option.replace('_', '-')} applies to {model} only: leave it out",
                code="export.option_not_applicable",
            )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
