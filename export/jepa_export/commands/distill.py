"""jepa-export distill: train a student of a published teacher. Shares options with train-predictor."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types
from jepa_export.commands.options import (
    REQUIRED,
    RESUMES,
    add_output_argument,
    add_settings_arguments,
    add_variant_arguments,
    settings_of,
    targets_of,
)

if TYPE_CHECKING:
    from jepa_export.distillation.distill import Progress

# Arguments that do not affect the result, and are not part of the recorded command.
_NOT_RECORDED = (
    *("out", "cache", "tensorboard", "run", "needs", "stopped"),
    *("parser", "program", "downloaded", "verbose", "quiet", "log_level"),
)


def add_parser(subparsers: Any) -> None:
    """Add ``distill`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "distill",
        description="Train the student's encoder to reproduce the teacher's features from single frames; "
        "then train a predictor on frames and actions, or on frames alone if the data has no actions. The "
        "same command resumes from the last checkpoint and does not repeat finished measurements and graphs. "
        "On several GPUs: torchrun --no-python --nproc-per-node=N jepa-export distill …",
    )
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="NAME[=CHECKPOINT]",
        help="published teacher, such as vjepa2_vitl_256, or vjepa2, vjepa2_1, vjepa2_ac or ijepa for a "
        "checkpoint of any size; its checkpoint is a file, a folder or a name on the Hugging Face Hub",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side of the student's frame in pixels; the teacher sees the same frame, scaled up (default: "
        "size of the teacher's frame)",
    )
    parser.add_argument(
        "--steps", type=int, default=20_000, help="training steps of the encoder (default: %(default)s)"
    )
    parser.add_argument(
        "--quantization-aware",
        type=int,
        default=0,
        metavar="STEPS",
        help="additional quantization-aware training steps of the encoder; use them only if INT8 costs more "
        "than one percentage point of success rate in closed loop (default: %(default)s)",
    )
    parser.add_argument("--student", default="vit_s", help="vit_ti, vit_s or vit_m (default: %(default)s)")
    add_common_arguments(parser)
    parser.set_defaults(run=_run)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that distill and train-predictor share."""

    def option(name: str, default: float, text: str) -> None:
        parser.add_argument(name, type=type(default), default=default, help=f"{text} (default: %(default)s)")

    def flag(name: str, text: str) -> None:
        parser.add_argument(name, action="store_true", help=text)

    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="DATA",
        help="a video, a bag, a folder of them, a LeRobot data set, or two_rooms; for a bag or a folder of "
        "bags, with the topic and fields of the actions: BAG?action=/cmd_vel:linear.x,angular.z; repeatable",
    )
    add_output_argument(parser, "folder for checkpoints, losses and the bundle")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="cache of decoded frames (default: OUTPUT/frames)"
    )
    flag("--untrained-teacher", "use a teacher with random weights, for a trial run")
    parser.add_argument("--depth", type=int, help="blocks of an untrained teacher (default: all)")
    flag(
        "--accept-non-commercial",
        "accept weights whose license forbids commercial use, and record it in the bundle",
    )
    option("--clip", 4, "frames in the clip of a V-JEPA 2 teacher, of which the student sees the last")
    option("--rate", 5.0, "rate of clips and actions in Hz: a step of the predictor takes 1 / RATE s")
    option("--history", 3, "frames in the history of the predictor")
    option("--horizon", 8, "predicted steps")
    option("--num-samples", 64, "futures predicted at once")
    option("--batch", 64, "batch size in clips, over all processes")
    option("--predictor-steps", 20_000, "training steps of the predictor")
    option("--learning-rate", 5e-4, "learning rate after the warm-up")
    parser.add_argument(
        "--seed",
        type=number_types.seed,
        default=0,
        help="random seed of weights and of the order of clips (default: %(default)s)",
    )
    option(
        "--held-out",
        0.1,
        "proportion of the recordings held out for validation, each as a whole; the weights with the lowest "
        "validation loss are selected; 0: none, and the last weights are used",
    )
    option(
        "--int8-cosine",
        0.99,
        "minimum of the mean cosine between INT8 and fp32 on held-out recordings (without any, on "
        "calibration frames); the smallest cosine may be five times as far from 1; layers that lose most "
        "stay in fp32 until the limit holds, which takes up to half an hour; 0: no limit",
    )
    flag("--skip-bad", "skip recordings that cannot be used, with a warning for each")
    parser.add_argument(
        "--precision",
        choices=["32-true", "bf16-mixed"],
        default="32-true",
        help="training precision (default: %(default)s)",
    )
    option("--checkpoint-every", 500, "steps between two checkpoints")
    option("--watch-every", 100, "steps between two checks for collapsed latents")
    option("--alarms", 5, "consecutive checks with collapsed latents that end the training")
    flag("--allow-collapse", "warn of collapsed latents without ending the training")
    flag("--tensorboard", "write TensorBoard events to OUTPUT/events")
    add_variant_arguments(parser)
    add_settings_arguments(parser)
    parser.set_defaults(needs=(*REQUIRED, "lightning_fabric"), stopped=RESUMES)


def common_fields(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """Return the fields of :class:`~jepa_export.distillation.requests.TrainingRequest`."""
    same = (
        "out cache history horizon num_samples batch predictor_steps learning_rate seed held_out skip_bad "
        "precision checkpoint_every watch_every accept_non_commercial untrained_teacher depth clip student "
        "int8_cosine"
    )
    return {name: getattr(arguments, name) for name in same.split()} | {
        "data": tuple(arguments.data),
        "rate_hz": arguments.rate,
        "max_collapses": None if arguments.allow_collapse else arguments.alarms,
        "tensorboard": arguments.tensorboard,
        "targets": targets_of(arguments),
        "only": arguments.only,
        "settings": settings_of(arguments),
        "command": f"jepa-export {command} {_recorded(arguments)}",
    }


def run_training(work: Callable[[Progress], Path | None]) -> int:
    """Run ``work``, print its progress and the resulting bundle, and return the exit status."""
    from rich.console import Console

    console = Console()
    folder = work(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
    if folder is not None:
        console.print(f"bundle: {folder}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _recorded(arguments: argparse.Namespace) -> str:
    """Return the options that produce the same bundle."""
    words: list[str] = []
    for name, value in vars(arguments).items():
        if name in _NOT_RECORDED or value is None or value is False:
            continue
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}"] + ([] if each is True else [str(each)])
    return shlex.join(words)


def _run(arguments: argparse.Namespace) -> int:
    from jepa_export.distillation.distill import distill
    from jepa_export.distillation.requests import DistillationRequest

    request = DistillationRequest(
        teacher=arguments.teacher,
        px=arguments.size,
        steps=arguments.steps,
        quantization_aware=arguments.quantization_aware,
        **common_fields(arguments, "distill"),
    )
    return run_training(lambda progress: distill(request, progress))
