"""Run the demo first_person: a robot is taught a route through a house, repeats it, and meets a closed door.

The simulated robot sees with a forward camera, in a house that its model was never trained on. A scripted
driver shows the route once; then the robot is set down near its start and drives by itself, over ROS 2, at 30
images per second. The second time, a door is closed on its way: it stops and reports why. Writes
summary.json, run.json, demo.html, demo.webp, pages of both drives, latency.html, futures.png, demo.mcap and
the route to out/demo. Run it with ``make demo``, which sets up the environment. The exit code is 0 only if
all of that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import first_person_page
import pictures
import rclpy
import results
from first_person_animation import PERIOD_S, draw
from first_person_run import Run, describe, failures, summarize
from processes import DemoError, Processes, node_command, own_graph, report, warnings_in
from rclpy.signals import SignalHandlerOptions
from route_operator import ROUTE, RouteOperator

from jepa_runtime.errors import JepaRuntimeError
from jepa_sim.closed_loop.first_person.real_time import route_mission

ROOT = Path(__file__).resolve().parent.parent
NODES = ("world_model", "route", "monitor", "first_person", "planner")
# Subscribers required before the first image: world model, route and the monitor, which records.
SUBSCRIBERS = 3
# Place on the route at which the last door is closed.
CLOSED_AT = 0.1


def main() -> int:
    """Run the demo; return 0 if the robot did what it shall and every node stopped cleanly."""
    arguments = _arguments()
    # On either signal the nodes are stopped first. A background job inherits SIGINT as ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    out: Path = arguments.output.resolve()
    try:
        if not (arguments.bundle / "manifest.json").is_file():
            raise DemoError(f"{arguments.bundle} is not a model bundle: it has no manifest.json")
        _clear(out)
        run, stamps_ns, faults = _drive(arguments, out)
        reports = {name: report(out, name) for name in NODES}
        summary = summarize(run, reports, stamps_ns)
    except (DemoError, JepaRuntimeError) as error:
        print(f"\ndemo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    _write(out, run, summary, reports)
    faults += failures(run, summary)
    for fault in faults:
        print(f"demo: error: {fault}", file=sys.stderr)
    return int(bool(faults))


def _write(out: Path, run: Run, summary: dict[str, Any], reports: dict[str, dict[str, Any]]) -> None:
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (out / "run.json").write_text(json.dumps(asdict(run)) + "\n", encoding="utf-8")
    results.write_latency(out / "latency.html", summary, reports, ("route repeated", run.repeated.outcome))
    note = pictures.draw(out / "demo.mcap", out / "futures.png")
    draw(out, out / "demo.webp")
    for name, content in first_person_page.render(out, run, summary).items():
        (out / name).write_text(content, encoding="utf-8")
    print(describe(run, summary, out, note))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bundle",
        type=Path,
        default=ROOT / "models" / "first_person",
        help="model bundle (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=ROOT / "out" / "demo",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of house and route (default: %(default)s)")
    parser.add_argument(
        "--allow-untrained", action="store_true", help="accept a bundle with untrained weights"
    )
    return parser.parse_args()


def _clear(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.json", "*.html", "*.webp", "*.png", "demo.mcap*"):
        for path in out.glob(pattern):
            path.unlink()
    for folder in ("log", "reports", "routes"):
        shutil.rmtree(out / folder, ignore_errors=True)
    (out / "routes").mkdir()


def _nodes(arguments: argparse.Namespace, out: Path) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Return the parameters and remappings of each node."""
    images = {"image": "camera/image_raw", "image/compressed": "camera/image_raw/compressed"}
    model = {
        "bundle": arguments.bundle.resolve(),
        "allow_untrained": arguments.allow_untrained,
        # Steering needs the future of its plan only, and the route needs time for its energies.
        "num_samples": 1,
    }
    robot = {"min_subscribers": SUBSCRIBERS, "seed": arguments.seed}
    return {
        "world_model": (model, images),
        "route": ({"routes_dir": out / "routes", "use_odometry": "always"}, images),
        "monitor": ({"mcap": out / "demo.mcap", "large_messages_hz": 1 / PERIOD_S}, {}),
        "first_person": (robot | {"displaced": True, "door": -1}, {}),
        "planner": ({"search_method": "steering", "stuck_after_s": 4.0}, {}),
    }


def _drive(arguments: argparse.Namespace, out: Path) -> tuple[Run, list[int], list[str]]:
    """Teach the route and have it repeated twice.

    Returns:
        What happened, the stamps of all images, and an error for each unclean exit.
    """
    os.environ.update(own_graph())
    mission = route_mission(arguments.seed)
    processes = Processes(out / "log", dict(os.environ))
    print(f"demo: five processes; logs in {out / 'log'}", flush=True)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    faults: list[str] = []
    try:
        nodes = _nodes(arguments, out)

        def start(name: str) -> None:
            parameters, remaps = nodes[name]
            parameters = {**parameters, "report_path": out / "reports" / f"{name}.json"}
            processes.start(name, node_command(name, parameters, remaps), show=name == "monitor")

        for name in NODES[:-1]:
            start(name)
        operator = RouteOperator(mission, processes.check)
        operator.await_start()
        print("demo: a scripted driver, which knows the true pose, teaches the route", flush=True)
        taught = operator.teach()
        print(f"demo: taught: {taught.reason}; now the robot repeats the route", flush=True)
        # Only now: while the teacher drives, it is the only publisher of commands.
        start("planner")
        operator.await_planner()
        repeated = operator.repeat()
        repeated.warnings += warnings_in(out / "log")
        print(
            f"demo: {repeated.outcome} after {repeated.duration_s:.0f} s; now a door is closed on its way",
            flush=True,
        )
        blocked = operator.repeat(close_door_after=CLOSED_AT)
        print(f"demo: {blocked.outcome}: {blocked.reason}", flush=True)
        run = Run(
            seed=arguments.seed, route=ROUTE, taught=taught, repeated=repeated, blocked=blocked,
            final_speed_mps=operator.speed_mps(),
        )  # fmt: skip
        operator.close()
    finally:
        faults += processes.stop()
        rclpy.try_shutdown()
    return run, operator.stamps_ns, faults


if __name__ == "__main__":
    sys.exit(main())
