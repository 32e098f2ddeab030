"""The options of ``jepa-runtime drive``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.commands import (
    add_bundle_argument,
    add_cache_argument,
    add_json_argument,
    add_untrained_argument,
    binary_output,
    count,
    positive,
    text_output,
)
from jepa_runtime.planning import search_names
from jepa_runtime.util import PRECISIONS

_NPU = "npu:"
_FILMS = 3
_MAX_MS = 60e3
PRESETS = ("eb_jepa", "lewm", "steering", "two_rooms", "vjepa2_ac")


def planners() -> list[str]:
    """Return the names of all planners: presets, then searches with their default settings."""
    return list(dict.fromkeys([*PRESETS, *search_names()]))


def add_parser(subparsers: Any) -> None:
    """Add ``drive`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "drive",
        help="evaluate a bundle in a simulated world: goals reached by engine and precision",
        description="Evaluate a bundle in closed loop in a simulated world, with the controller and the "
        "safety checks of the planner node. All engines, precisions and baselines have the same episodes, "
        "whose seeds no training uses. The baselines act at random and, if the world supports it, drive "
        "straight to the goal. An episode counts if the model decides that the goal is reached and the "
        "robot is truly there.",
        epilog="Worlds: two_rooms, two_rooms_fixed, reacher (Gymnasium: pip install 'jepa-edge[worlds]'), "
        "first_person_l0, first_person_l1, first_person_l2, first_person_tour (numba: pip install "
        "'jepa-edge[first-person]'), "
        "first_person_mujoco_l0, first_person_mujoco_l1, first_person_mujoco_l2 (also MuJoCo: pip install "
        "'jepa-edge[first-person,worlds]'), "
        "worlds of installed packages (entry points of the group jepa_edge.worlds), and any "
        "module:attribute.",
    )
    add_bundle_argument(parser)
    parser.add_argument("--world", default="two_rooms", metavar="W", help="world (default: %(default)s)")
    parser.add_argument(
        "--episodes",
        type=count,
        default=100,
        metavar="N",
        help="episodes for each seed (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_seed, nargs="+", metavar="S", help="seeds (default: 0 1 2)")
    parser.add_argument(
        "--engine",
        nargs="+",
        default=[DEFAULT_ENGINE],
        metavar="E",
        help=f"engines (default: {DEFAULT_ENGINE})",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        help="precisions (default: all that an engine runs)",
    )
    parser.add_argument(
        "--planner",
        choices=planners(),
        default="two_rooms",
        help="planner preset or search (default: %(default)s)",
    )
    parser.add_argument(
        "--time",
        type=_time,
        metavar="measured|MS|FILE|npu:PLATFORM",
        help="let the world go on while the robot thinks: decisions take as long as measured here, MS "
        "milliseconds, times of the profile FILE, or what Intel's NPU compiler estimated for the graphs of "
        "the bundle on a platform, such as npu:4000 (default: thinking is free)",
    )
    parser.add_argument(
        "--latency-ms",
        type=positive,
        default=0.0,
        metavar="MS",
        help="with --time: images arrive MS milliseconds late, at their full rate (default: %(default)g)",
    )
    parser.add_argument(
        "--no-compensation",
        dest="compensation",
        action="store_false",
        help="plan from the image instead of the state at the moment when the command takes effect",
    )
    parser.add_argument(
        "--threads", type=count, default=1, metavar="N", help="threads of each engine (default: %(default)s)"
    )
    parser.add_argument(
        "--no-baselines", dest="baselines", action="store_false", help="leave out the baselines"
    )
    add_cache_argument(parser)
    add_untrained_argument(parser)
    add_json_argument(parser, "all figures")
    parser.add_argument(
        "--html",
        type=text_output,
        metavar="FILE",
        help="write a page with charts and images to FILE (- for standard output)",
    )
    parser.add_argument(
        "--png",
        type=binary_output,
        metavar="FILE",
        help=f"write an image of the first {_FILMS} episodes to FILE",
    )
    parser.set_defaults(run=_run, films=_FILMS)


def _run(args: argparse.Namespace) -> int:
    from jepa_sim import drive_command

    return drive_command.run(args)


def _time(text: str) -> str | float | Path | tuple[str]:
    """Return ``measured``, milliseconds, the path of a profile, or an NPU platform in a tuple."""
    if text == "measured":
        return text
    if text.startswith(_NPU):
        return (text.removeprefix(_NPU),)
    try:
        milliseconds = float(text)
    except ValueError:
        return Path(text)
    if not 0 <= milliseconds <= _MAX_MS:
        raise argparse.ArgumentTypeError(f"must be between 0 and {_MAX_MS:g} ms, got {text}")
    return milliseconds


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"must be between 0 and {(1 << 32) - 1}, got {text}")
    return value
