"""Routes repeated in Two Rooms, each taught once, from a displaced start.

A teacher that knows the layout drives from the start through the door to the goal, by way of a random place
in the first room, at half a meter per second. The route is then repeated from a start that is displaced by
driving for 0.3 s in a random direction, and driven back from its end. A drive counts if the follower
reports the end as reached and the robot is truly within 0.2 m of it. Floors, from the same displaced start
and with the same time: straight to the end by the true position, the taught commands without a model, and
random actions; they stop by the true distance.

Exit status 1 if fewer routes than --goal are repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.commands import count
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model import WorldModel
from jepa_runtime.routes import Route, RouteOutcome, RouteRecorder, model_of
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import wilson, write_json
from jepa_sim.closed_loop.episodes import HELD_OUT_SEED
from jepa_sim.closed_loop.repeat import displace_robot, place_robot, repeat_route
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "teach_and_repeat.json"
PERIOD_S = 1 / 30
SPEED_MPS, ARRIVED_M = 0.5, 0.03
DISPLACED_S, TOLERANCE_M = 0.3, 0.2
# Distance from the center of the wall at which the door is entered and left.
DOOR_CLEARANCE_M = 0.35

Positions = NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the routes and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = measure(arguments.bundle, arguments.routes, arguments.seed)
    except JepaRuntimeError as error:
        print(f"teach_and_repeat: {error}", file=sys.stderr)
        return 2
    for name, score in report["scores"].items():
        low, high = score["interval"]
        counts = f"{score['successes']} of {score['routes']} ({low:.1%} to {high:.1%})"
        print(f"{name:>16}: {counts} {score['outcomes']}")
    write_json(arguments.json, report)
    rate = report["scores"]["repeat"]["rate"]
    if rate < arguments.goal:
        print(
            f"teach_and_repeat: {rate:.1%} of the routes repeated, goal {arguments.goal:.1%}", file=sys.stderr
        )
    return int(rate < arguments.goal)


def measure(bundle: Path, routes: int, seed: int) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: The bundle cannot be run.
    """
    outcomes: dict[str, list[str]] = {}
    lengths: list[float] = []
    world = TwoRooms(seed=0)
    with WorldModel.open(bundle) as model:
        for number in range(routes):
            route_seed = HELD_OUT_SEED + seed * 1_000_000 + number
            world.reset(route_seed)
            route, positions = teach(model, world, route_seed)
            lengths.append(float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()))
            for name, outcome in attempts(model, world, route, positions, route_seed):
                outcomes.setdefault(name, []).append(outcome)
        name = f"{model.manifest.model_id} {model.manifest.version} {model.precision}"
    return {
        "model": name,
        "seed": seed,
        "displaced_s": DISPLACED_S,
        "tolerance_m": TOLERANCE_M,
        "median_length_m": float(np.median(lengths)),
        "machine": {"cpu": cpu_info(), "versions": package_versions()},
        "scores": {name: score(each) for name, each in outcomes.items()},
    }


def score(outcomes: Sequence[str]) -> dict[str, Any]:
    """Return the success rate with its 95 % interval (Wilson), and the outcomes."""
    successes = sum(outcome == "success" for outcome in outcomes)
    return {
        "routes": len(outcomes),
        "successes": successes,
        "rate": successes / len(outcomes),
        "interval": wilson(successes, len(outcomes)),
        "outcomes": dict(Counter(outcomes)),
    }


def teach(model: WorldModel, world: TwoRooms, seed: int) -> tuple[Route, Positions]:
    """Drive to the goal through the door, and return the route and the true positions [n, 2]."""
    recorder, positions, stamp_ns = RouteRecorder(model_of(model), model.energy), [], 0
    for waypoint in waypoints(world, seed):
        while np.linalg.norm(offset := waypoint - world.position) > ARRIVED_M:
            velocity = offset / max(np.linalg.norm(offset), 1e-9) * SPEED_MPS
            image = world.render()
            recorder.add(stamp_ns=stamp_ns, latent=model.encode(image), image=image, command=velocity)
            positions.append(world.position)
            world.step(velocity, PERIOD_S)
            stamp_ns += round(PERIOD_S * 1e9)
    image = world.render()
    recorder.add(stamp_ns=stamp_ns, latent=model.encode(image), image=image)
    positions.append(world.position)
    return recorder.finish("two_rooms"), np.array(positions)


def waypoints(world: TwoRooms, seed: int) -> list[Positions]:
    """Return a random place in the first room, both sides of the door, and the goal."""
    layouts, axis = world.layouts, int(world.layouts.axis[0])
    wall, door = float(layouts.wall[0]), float(layouts.door[0])
    side = np.sign(world.position[axis] - wall)
    before, after = np.full(2, door), np.full(2, door)
    before[axis], after[axis] = wall + side * DOOR_CLEARANCE_M, wall - side * DOOR_CLEARANCE_M
    rng = np.random.default_rng((seed, 3))
    place = rng.uniform(0.4, 3.6, 2)
    place[axis] = rng.uniform(0.4, wall - 0.4) if side < 0 else rng.uniform(wall + 0.4, 3.6)
    return [place, before, after, world.goal]


def attempts(
    model: WorldModel, world: TwoRooms, route: Route, positions: Positions, seed: int
) -> list[tuple[str, str]]:
    """Return the outcome of each driver on one route: ``success`` or what went wrong."""
    found = []
    for name, back in (("repeat", False), ("repeat back", True)):
        begin(world, route, seed, back=back)
        trace = repeat_route(model, world, route.reversed() if back else route)
        end = positions[0 if back else -1]
        outcome = trace.ended.outcome
        is_there = bool(np.linalg.norm(world.position - end) <= TOLERANCE_M)
        reached = "success" if is_there else "wrong place"
        found.append((name, reached if outcome is RouteOutcome.REACHED else str(outcome)))
    limit_s = 4 * route.duration_s + 30
    floors: dict[str, Callable[[float], NDArray[np.float64] | None]] = {
        "straight line": lambda _: (positions[-1] - world.position) / 0.2,
        "taught commands": lambda time_s: command_at(route, time_s),
        "random": lambda _: rng.uniform(world.task.low, world.task.high),
    }
    for name, decide in floors.items():
        rng = np.random.default_rng((seed, 1))
        begin(world, route, seed, back=False)
        found.append((name, run_floor(world, positions[-1], decide, limit_s)))
    return found


def begin(world: TwoRooms, route: Route, seed: int, *, back: bool) -> None:
    """Put the robot at a displaced start of the route, or its end."""
    world.reset(seed)
    place_robot(world, route, len(route) - 1 if back else 0)
    displace_robot(world, DISPLACED_S, seed=seed)


def run_floor(
    world: TwoRooms,
    end: Positions,
    decide: Callable[[float], NDArray[np.float64] | None],
    limit_s: float,
) -> str:
    """Drive without a model until the true distance is small, or there is no further command."""
    for step in range(round(limit_s / PERIOD_S)):
        if np.linalg.norm(world.position - end) <= TOLERANCE_M / 2:
            return "success"
        command = decide(step * PERIOD_S)
        if command is None:
            break
        world.step(command, PERIOD_S)
    return "success" if np.linalg.norm(world.position - end) <= TOLERANCE_M else "not reached"


def command_at(route: Route, time_s: float) -> NDArray[np.float64] | None:
    """Return the taught command at a time; None after the end."""
    index = int(np.searchsorted(route.times_s, time_s, side="right")) - 1
    command = route.key_frames[index].command
    return None if command is None else np.array(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--routes", type=count, default=50, help="number of routes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    parser.add_argument("--goal", type=float, default=0.9, help="least proportion (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=RESULT, help="report to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
