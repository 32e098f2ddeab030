"""Run the demo two_rooms: a simulated robot drives to goal images with predicted futures.

Writes summary.json, latency.html, futures.png and demo.mcap to out/demo. Run it with
``make demo DEMO=two_rooms``, which sets up the environment. DEMO_SECONDS sets how long the camera runs
(default: 45).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pictures
import results
from processes import DemoError, Processes, node_command, own_graph, report

ROOT = Path(__file__).resolve().parent.parent
NODES = ("world_model", "planner", "monitor", "two_rooms")
# Subscribers required before the first image: the world model and the monitor, which records.
SUBSCRIBERS = 2
START_TIMEOUT_S = 60.0


def main() -> int:
    """Run the demo; return 0 if every node succeeded and stopped cleanly."""
    arguments = _arguments()
    # On either signal the nodes are stopped first. A background job inherits SIGINT as ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    out: Path = arguments.output
    try:
        _check(arguments)
        _clear(out)
        interrupted, faults = _drive(arguments, out)
        reports = {name: report(out, name) for name in NODES}
        summary = results.summarize_run(reports)
    except DemoError as error:
        print(f"\ndemo: error: {error}", file=sys.stderr)
        return 1
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    reached = f"{summary['successes']} of {summary['episodes']}"
    results.write_latency(out / "latency.html", summary, reports, ("goals reached", reached))
    note = pictures.draw(out / "demo.mcap", out / "futures.png")
    print(results.describe(summary, out, note))
    for fault in faults:
        print(f"demo: error: {fault}", file=sys.stderr)
    return 130 if interrupted else int(bool(faults))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bundle",
        type=Path,
        default=ROOT / "models" / "two_rooms",
        help="model bundle (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=ROOT / "out" / "demo",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        default=os.environ.get("DEMO_SECONDS", "45"),
        help="duration of the camera images [s] (default: DEMO_SECONDS or 45)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of layouts, starts and goals (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-untrained", action="store_true", help="accept a bundle with untrained weights"
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> None:
    try:
        arguments.seconds = float(arguments.seconds)
    except ValueError:
        raise DemoError(f"DEMO_SECONDS must be a number of seconds, got {arguments.seconds!r}") from None
    if not 1 <= arguments.seconds <= 86400:
        raise DemoError(f"DEMO_SECONDS must be between 1 and 86400, got {arguments.seconds:g}")
    if not (arguments.bundle / "manifest.json").is_file():
        raise DemoError(f"{arguments.bundle} is not a model bundle: it has no manifest.json")


def _clear(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", "latency.html", "futures.png", "demo.mcap", "demo.mcap.partial"):
        (out / name).unlink(missing_ok=True)
    for folder in ("log", "reports"):
        shutil.rmtree(out / folder, ignore_errors=True)


def _drive(arguments: argparse.Namespace, out: Path) -> tuple[bool, list[str]]:
    """Run the four processes; return whether the user interrupted, and an error for each unclean exit."""
    parameters = {
        "world_model": {"bundle": arguments.bundle.resolve(), "allow_untrained": arguments.allow_untrained},
        "planner": {},
        "monitor": {"mcap": out / "demo.mcap"},
        "two_rooms": {
            "min_subscribers": SUBSCRIBERS,
            "duration_s": arguments.seconds,
            "seed": arguments.seed,
        },
    }
    remaps = {
        "world_model": {"image": "camera/image_raw", "image/compressed": "camera/image_raw/compressed"},
    }
    processes = Processes(out / "log", own_graph())
    interrupted = False
    print(
        f"demo: four processes, {arguments.seconds:g} s of camera images; logs in {out / 'log'}", flush=True
    )
    try:
        for node in NODES:
            node_parameters = {**parameters[node], "report_path": out / "reports" / f"{node}.json"}
            command = node_command(node, node_parameters, remaps.get(node, {}))
            processes.start(node, command, show=node == "monitor")
        processes.wait_for("two_rooms", START_TIMEOUT_S + 1.5 * arguments.seconds)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        faults = processes.stop()
    return interrupted, faults


if __name__ == "__main__":
    sys.exit(main())
