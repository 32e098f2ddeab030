"""jepa-export distill: a student of a published teacher; and the options that train-predictor has too."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types
from jepa_export.commands.variant_options import add_forms, targets_of

if TYPE_CHECKING:
    from jepa_export.distillation.distill import Progress

NEEDED = ("torch", "onnx", "nncf", "scipy", "lightning_fabric")
# Not of the recipe: what comes out does not follow from them.
_LEFT_OUT = ("out", "cache", "tensorboard", "run", "needs", "stopped")


def add_parser(subparsers: Any) -> None:
    """Add ``distill`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "distill",
        help="train a student of a teacher on recordings, and write its bundle",
        description="First the student's encoder learns to tell, frame by frame, what the teacher saw; then "
        "a predictor learns what actions change, or what comes next where the data has none. The same "
        "command goes on from the last checkpoint. On many GPUs: torchrun --no-python --nproc-per-node=N "
        "jepa-export distill …",
    )
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="NAME[=CHECKPOINT]",
        help="such as vjepa2_vitl_256; its checkpoint is a file, a folder or a name on the Hugging Face Hub",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side of the student's frame in pixels, and no more of it is shown to the teacher, scaled up "
        "(default: the teacher's)",
    )
    parser.add_argument("--steps", type=int, default=20_000, help="of the encoder's training (%(default)s)")
    parser.add_argument(
        "--quantization-aware",
        type=int,
        default=0,
        metavar="STEPS",
        help="go on training the encoder with the numbers that INT8 can hold: the last resort where the "
        "closed loop loses more than a point in INT8 (%(default)s)",
    )
    parser.add_argument("--student", default="vit_s", help="vit_ti, vit_s or vit_m (%(default)s)")
    add_common(parser)
    parser.set_defaults(run=_run)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""

    def option(name: str, default: float, what: str) -> None:
        parser.add_argument(name, type=type(default), default=default, help=f"{what} (%(default)s)")

    def flag(name: str, what: str) -> None:
        parser.add_argument(name, action="store_true", help=what)

    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="DATA",
        help="a video, a bag, a folder of them, a LeRobot data set, or two_rooms; of a bag, or of a folder "
        "of bags, with what are the actions: BAG?action=/cmd_vel:linear.x,angular.z; may be given again",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints, losses and the bundle"
    )
    parser.add_argument("--cache", type=Path, help="folder for decoded frames (default: OUT/frames)")
    flag("--untrained-teacher", "a teacher of random weights, to try the way through")
    parser.add_argument("--depth", type=int, help="blocks of an untrained teacher (default: all)")
    flag("--accept-non-commercial", "learn from weights that forbid commercial use; the bundle says so")
    option("--clip", 4, "frames that a V-JEPA 2 teacher sees, the last of them the student's")
    option("--rate", 5.0, "of clips and actions, in Hz: a step of the predictor takes 1 / RATE s")
    option("--history", 3, "frames the predictor sees")
    option("--horizon", 8, "steps of a future")
    option("--num-samples", 64, "futures at once")
    option("--batch", 64, "clips, over all processes")
    option("--predictor-steps", 20_000, "of the predictor's training")
    option("--learning-rate", 5e-4, "after the warm-up")
    parser.add_argument(
        "--seed", type=number_types.seed, default=0, help="of weights and of the order of clips (%(default)s)"
    )
    option(
        "--held-out",
        0.1,
        "share of the recordings that is only measured on, each as a whole; of all weights, those with the "
        "least loss there are kept; 0: none, and the last weights are kept",
    )
    option(
        "--int8-cosine",
        0.99,
        "least mean cosine of INT8 with fp32 on held-out recordings (without any, on frames that it was "
        "calibrated on), the worst five times as far from 1 at most: what hurts most stays in fp32 until it "
        "holds, half an hour at worst; 0: INT8 as it comes",
    )
    flag("--skip-bad", "leave out recordings that cannot be used, with a warning each")
    parser.add_argument(
        "--precision", choices=["32-true", "bf16-mixed"], default="32-true", help="(%(default)s)"
    )
    option("--checkpoint-every", 500, "steps")
    option("--watch-every", 100, "steps between two looks at whether latents collapse")
    option("--alarms", 5, "collapses in a row that end the training")
    flag("--allow-collapse", "warn only")
    flag("--tensorboard", "write TensorBoard events to OUT/events")
    add_forms(parser)
    parser.set_defaults(needs=NEEDED, stopped="the same command goes on from the last checkpoint")


def common(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    """The fields of :class:`~jepa_export.distillation.requests.Common`."""
    same = (
        "out cache history horizon num_samples batch predictor_steps learning_rate seed held_out skip_bad "
        "precision checkpoint_every watch_every accept_non_commercial untrained_teacher depth clip student "
        "int8_cosine"
    )
    return {name: getattr(arguments, name) for name in same.split()} | {
        "data": tuple(arguments.data),
        "rate_hz": arguments.rate,
        "alarms": None if arguments.allow_collapse else arguments.alarms,
        "board": arguments.tensorboard,
        "targets": targets_of(arguments),
        "only": arguments.only,
        "command": f"jepa-export {command} {_told(arguments)}",
    }


def finish(work: Callable[[Progress], Path | None]) -> int:
    """Do ``work`` and say what comes of it; returns the exit status."""
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console()
    logging.getLogger("jepa_export").addHandler(RichHandler(console=console, show_path=False))
    folder = work(lambda what: console.print(what, markup=False, highlight=False, soft_wrap=True))
    if folder is not None:
        console.print(f"bundle: {folder}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _told(arguments: argparse.Namespace) -> str:
    """The options that make the same bundle."""
    words: list[str] = []
    for name, value in vars(arguments).items():
        if name in _LEFT_OUT or value is None or value is False:
            continue
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}"] + ([] if each is True else [str(each)])
    return shlex.join(words)


def _run(arguments: argparse.Namespace) -> int:
    from jepa_export.distillation.distill import distill
    from jepa_export.distillation.requests import Distillation

    asked = Distillation(
        teacher=arguments.teacher,
        px=arguments.size,
        steps=arguments.steps,
        quantization_aware=arguments.quantization_aware,
        **common(arguments, "distill"),
    )
    return finish(lambda progress: distill(asked, progress))
