"""jepa-export: the workstation's command line."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from jepa_export.errors import JepaExportError
from jepa_runtime.errors import JepaRuntimeError

_NEEDED = ("torch", "onnx", "nncf", "scipy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
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
        print("\njepa-export: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
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
    train.set_defaults(run=_train)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    from jepa_export.commands.train import train_two_rooms

    return train_two_rooms(
        arguments.out, seed=arguments.seed, layout=arguments.layout, episodes=arguments.episodes
    )
