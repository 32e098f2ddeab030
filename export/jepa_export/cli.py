"""jepa-export: the workstation's command line."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa_export.commands import release
from jepa_export.errors import JepaExportError
from jepa_runtime.errors import JepaRuntimeError

_NEEDED = ("torch", "onnx", "nncf", "scipy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    missing = [name for name in arguments.needs if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"jepa-export: {', '.join(missing)} not installed: pip install 'jepa-edge[export]'",
            file=sys.stderr,
        )
        return 1
    try:
        return int(arguments.run(arguments))
    except (JepaExportError, JepaRuntimeError) as error:
        print(f"jepa-export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\njepa-export: stopped; {arguments.stopped}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jepa-export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a model from scratch and write its bundle")
    train.add_argument("world", choices=["two_rooms"], help="what to learn")
    train.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints, losses and the bundle"
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--layout", choices=["fixed", "random"], default="random")
    train.add_argument(
        "--episodes", type=int, default=100, help="evaluation episodes for each of three seeds; 0: none"
    )
    train.set_defaults(run=_train, needs=_NEEDED, stopped="the same command goes on from the last checkpoint")
    _add_build(commands)
    release.add_parser(commands)
    return parser


def _add_build(commands: Any) -> None:
    build = commands.add_parser("build", help="write the bundle of a student")
    build.add_argument("--student", required=True, help="vit_ti, vit_s or vit_m")
    build.add_argument(
        "--untrained",
        action="store_true",
        required=True,
        help="random weights, for measuring speed; the runtime serves such a bundle only if told to",
    )
    build.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    build.add_argument("--size", type=int, default=224, help="side of the frame in pixels (%(default)s)")
    build.add_argument(
        "--actions", type=int, help="components of an action, each in -1 … 1 (default: Two Rooms' velocities)"
    )
    build.add_argument("--horizon", type=int, default=8, help="steps of a future (%(default)s)")
    build.add_argument("--num-samples", type=int, default=64, help="futures at once (%(default)s)")
    build.add_argument("--history", type=int, default=3, help="frames the predictor sees (%(default)s)")
    build.add_argument("--seed", type=int, default=0, help="of the weights (%(default)s)")
    build.add_argument(
        "--calibration",
        default="two_rooms",
        metavar="SOURCE",
        help="real frames for INT8: two_rooms, a video, a folder of images or a bag (%(default)s)",
    )
    build.add_argument(
        "--only",
        metavar="TARGET/PRECISION",
        help="one variant, as a robot needs it, such as openvino/int8 (default: all)",
    )
    build.set_defaults(run=_build, needs=_NEEDED, stopped="nothing was written")


def _train(arguments: argparse.Namespace) -> int:
    from jepa_export.commands.train import train_two_rooms

    return train_two_rooms(
        arguments.out, seed=arguments.seed, layout=arguments.layout, episodes=arguments.episodes
    )


def _build(arguments: argparse.Namespace) -> int:
    from jepa_export.commands.build import Request, build

    return build(
        Request(
            student=arguments.student,
            out=arguments.out,
            px=arguments.size,
            actions=arguments.actions,
            horizon=arguments.horizon,
            num_samples=arguments.num_samples,
            history_size=arguments.history,
            seed=arguments.seed,
            calibration=arguments.calibration,
            only=arguments.only,
        )
    )
