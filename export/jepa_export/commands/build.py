"""jepa-export build: the bundle of a student with random weights, or of a published teacher."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types
from jepa_export.commands.options import (
    NOTHING_WRITTEN,
    REQUIRED,
    add_output_argument,
    add_settings_arguments,
    add_variant_arguments,
    settings_of,
    targets_of,
)
from jepa_runtime.commands import UsageError

if TYPE_CHECKING:
    from jepa_export.commands.teacher_request import EncoderTime


def add_parser(subparsers: Any) -> None:
    """Add ``build`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "build",
        description="Write the bundle of a student with random weights, for measuring speed, or of a "
        "published teacher with its weights.",
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--student", metavar="NAME", help="student: vit_ti, vit_s or vit_m")
    model.add_argument(
        "--teacher",
        metavar="NAME",
        help="published teacher, such as vjepa2_1_vitb_384 or vjepa2_vitl_256; or vjepa2, vjepa2_1 or "
        "vjepa2_ac for a checkpoint of any size",
    )
    weights = parser.add_mutually_exclusive_group(required=True)
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
    add_output_argument(parser, "folder of the bundle")
    add_variant_arguments(parser)
    parser.add_argument(
        "--horizon",
        type=int,
        metavar="N",
        help="predicted steps (default: 8; for a teacher 4, for LeWM 5, for V-JEPA 2-AC 2)",
    )
    parser.add_argument(
        "--seed", type=number_types.seed, default=0, help="random seed (default: %(default)s)"
    )
    parser.add_argument(
        "--calibration",
        default="two_rooms",
        metavar="SOURCE",
        help="calibration frames: two_rooms, a video, a folder of images or a bag; for V-JEPA 2-AC a bag "
        "with poses (BAG.mcap?state=TOPIC:FIELD,FIELD;TOPIC:FIELD); for LeWM recordings with actions, as for "
        "distill --data (default: %(default)s)",
    )
    student = parser.add_argument_group("options for students")
    student.add_argument("--size", type=int, metavar="PX", help="side of the frame in pixels (default: 224)")
    student.add_argument(
        "--actions",
        type=int,
        metavar="N",
        help="components of an action, each in -1 … 1 (default: the velocities of Two Rooms)",
    )
    student.add_argument(
        "--num-samples", type=int, metavar="K", help="futures predicted at once (default: 64)"
    )
    student.add_argument(
        "--history", type=int, metavar="N", help="frames in the history of the predictor (default: 3)"
    )
    teacher = parser.add_argument_group("options for teachers")
    teacher.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="frames in the clip of the predictor (default: 8)",
    )
    teacher.add_argument(
        "--time",
        type=_time,
        metavar="still|clip:N|causal[:N]",
        help="what the encoder reads: each frame alone, as a still, or once per step the last N frames as a "
        "clip, whose latents also depend on motion; causal: only the frames of the step, with a cache of the "
        "others (N: as --frames); clip and causal are for V-JEPA 2 and 2.1 (default: still)",
    )
    teacher.add_argument(
        "--causal-encoder",
        type=Path,
        metavar="FILE",
        help="weights of the encoder for --time causal: causal.pt of "
        "jepa_export.distillation.causal_encoder (default: those of the teacher)",
    )
    teacher.add_argument(
        "--depth", type=int, metavar="N", help="number of blocks, for random weights only (default: all)"
    )
    teacher.add_argument(
        "--accept-non-commercial",
        action="store_true",
        default=None,
        help="accept weights whose license forbids commercial use",
    )
    add_settings_arguments(parser)
    parser.set_defaults(run=_run, needs=REQUIRED, stopped=NOTHING_WRITTEN)


def _run(arguments: argparse.Namespace) -> int:
    from jepa_export.bundling.variants import DEFAULT_TARGETS
    from jepa_export.commands.build_student import StudentRequest, build_student
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
        _reject(arguments, "a student", "size", "actions", "num_samples", "history")
        return build_teacher(
            TeacherRequest(
                teacher=arguments.teacher,
                checkpoint=arguments.checkpoint,
                depth=arguments.depth,
                frames=arguments.frames,
                horizon=arguments.horizon,
                accept_non_commercial=bool(arguments.accept_non_commercial),
                settings=settings_of(arguments),
                **({} if arguments.time is None else {"time": arguments.time}),
                causal_encoder=arguments.causal_encoder,
                **common,
            )
        )
    _reject(arguments, "a teacher", "checkpoint", "frames", "time", "causal_encoder", "depth")
    _reject(arguments, "a teacher", "accept_non_commercial")
    _reject(
        arguments,
        "a teacher of any size",
        *("training_config", "heads", "predictor_heads", "resolution", "max_frames"),
    )
    return build_student(
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


def _time(text: str) -> EncoderTime:
    """Return the value of ``--time``."""
    from jepa_export.commands.teacher_request import EncoderTime

    try:
        return EncoderTime.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _reject(arguments: argparse.Namespace, model: str, *options: str) -> None:
    """Reject options that would be ignored."""
    for option in options:
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} applies to {model} only")


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
