"""Run the update demo: a driving robot receives three releases over the air; one goes live, two are rejected.

A signed repository is served over HTTP. In addition to the processes of the demo, the update manager runs: it
downloads, verifies and tests each release, compares it with the active model on the robot's live images, and
swaps the model in the running node. Writes update.html and summary.json to out/demo-update. Run it with
``make demo-update``. The exit code is 0 only if every release ended as expected.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rclpy
import results
import update_page
from graph_client import GraphClient
from jepa_msgs.action import UpdateModel
from jepa_msgs.msg import ModelInfo, UpdateEvent
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from processes import DemoError, Processes, node_command, own_graph, report
from rclpy.action import ActionClient
from rclpy.signals import SignalHandlerOptions
from update_page import Compared, Entered, Story, Update
from update_releases import OFFERS, Offer, Publisher, served

from jepa_export.errors import JepaExportError
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError

ROOT = Path(__file__).resolve().parent.parent
NODES = ("world_model", "planner", "two_rooms", "update_manager")
CAMERA = "camera/image_raw"
START_TIMEOUT_S, UPDATE_TIMEOUT_S, AFTER_S = 60.0, 150.0, 3.0


class Watcher(GraphClient):
    """Request updates and record what happens, on the system clock [ns].

    Args:
        root: Folder of the robot; the names of its slots are removed from messages.
        check: Called continuously; raises if a process has exited.
    """

    def __init__(self, root: Path, check: Callable[[], None]) -> None:
        self.models: list[tuple[int, str]] = []
        self._slot = re.compile(rf"{re.escape(str(root))}/slots/[0-9a-f]*/bundle: ")
        super().__init__("update_demo", check)
        self._update = Update("", "", "")
        self._began_ns, self._requested_ns = time.time_ns(), math.inf
        self.node.create_subscription(ModelInfo, "world_model/model_info", self._on_model, qos.LATCHED)
        self.node.create_subscription(UpdateEvent, "update_manager/events", self._on_event, qos.EVENTS)
        self._action = ActionClient(self.node, UpdateModel, "update_manager/update")

    def await_start(self) -> None:
        """Wait until a model is active and the update manager accepts requests."""
        self.until(
            lambda: self.models and self._action.server_is_ready(), START_TIMEOUT_S, "start of the nodes"
        )

    def update(self, offer: Offer) -> Update:
        """Request an update and wait for its end.

        Raises:
            DemoError: It was rejected or did not end in time, or a process exited.
        """
        self._update = Update(offer.version, offer.description, offer.result)
        self._requested_ns = time.time_ns()
        sent = self._action.send_goal_async(UpdateModel.Goal(), feedback_callback=self._on_feedback)
        self.until(sent.done, START_TIMEOUT_S, f"response to the request for {offer.version}")
        if not sent.result().accepted:
            raise DemoError("the update manager is busy although it updates only on request")
        ended = sent.result().get_result_async()
        self.until(ended.done, UPDATE_TIMEOUT_S, f"end of the update to {offer.version}")
        result = ended.result().result
        self._update.result, self._update.reason = result.result, self._short(result.reason)
        return self._update

    def since_start(self, stamp_ns: int) -> float:
        """Return the time since the start [s]."""
        return (stamp_ns - self._began_ns) / 1e9

    def _short(self, reason: str) -> str:
        return self._slot.sub("", reason)

    def _on_model(self, info: ModelInfo) -> None:
        self.models.append((from_time(info.header.stamp), info.version))

    def _on_event(self, event: UpdateEvent) -> None:
        stamp_ns = from_time(event.header.stamp)
        if stamp_ns < self._requested_ns:
            # A latched event from before the request.
            return
        entered = Entered(self.since_start(stamp_ns), event.state, self._short(event.reason))
        self._update.states.append(entered)
        print(f"  {entered.time_s:6.1f} s  {entered.state:<9} {entered.reason}", flush=True)

    def _on_feedback(self, message: Any) -> None:
        feedback = message.feedback
        if math.isfinite(feedback.shadow_error_ratio) and math.isfinite(feedback.shadow_excess_low):
            self._update.compared.append(
                Compared(
                    feedback.shadow_compared,
                    feedback.shadow_error_ratio,
                    feedback.shadow_max_error_ratio,
                    feedback.shadow_excess_low,
                    feedback.shadow_excess_high,
                )
            )


def main() -> int:
    """Run the demo; return 0 if every release ended as expected and every node stopped cleanly."""
    arguments = _arguments()
    out: Path = arguments.output.resolve()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        _clear(out)
        print("demo-update: creating four bundles and a signed repository", flush=True)
        publisher = Publisher(Bundle.open(arguments.bundle), out)
        with served(publisher.folder) as url:
            publisher.set_up_robot(out / "robot", url)
            story, faults = _drive(publisher, out, arguments.seed)
    except (DemoError, JepaRuntimeError, JepaExportError) as error:
        print(f"\ndemo-update: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    content = {**story.summary, "updates": [asdict(update) for update in story.updates]}
    (out / "summary.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (out / "update.html").write_text(update_page.render(story), encoding="utf-8")
    faults += unexpected_results(story)
    print(_summary(story, out))
    for fault in faults:
        print(f"demo-update: error: {fault}", file=sys.stderr)
    return int(bool(faults))


def unexpected_results(story: Story) -> list[str]:
    """Return an error for each unexpected result."""
    faults = []
    for offer, update in zip(OFFERS, story.updates, strict=True):
        if update.result != offer.result or offer.reason not in update.reason:
            because = f" because {offer.reason!r}" if offer.reason else ""
            faults.append(
                f"{offer.version}: expected {offer.result}{because}, got {update.result}: {update.reason}"
            )
    expected = next(offer.version for offer in reversed(OFFERS) if offer.result == "updated")
    if story.summary["model"]["version"] != expected:
        faults.append(f"{story.summary['model']['version']} is active at the end instead of {expected}")
    return faults


def _drive(publisher: Publisher, out: Path, seed: int) -> tuple[Story, list[str]]:
    """Drive the robot while one release after another is published and requested.

    Returns:
        The recorded run, and an error for each unclean exit.
    """
    os.environ.update(own_graph())
    processes = Processes(out / "log", dict(os.environ))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        for node, (parameters, remaps) in _nodes(out, seed).items():
            parameters = {**parameters, "report_path": out / "reports" / f"{node}.json"}
            processes.start(node, node_command(node, parameters, remaps))
        watcher = Watcher(out / "robot", processes.check)
        watcher.await_start()
        updates = []
        for offer in OFFERS:
            print(f"\n{offer.version} published: {offer.description}", flush=True)
            publisher.release(offer.version)
            updates.append(watcher.update(offer))
        watcher.wait(AFTER_S, "images after the last update")
        watcher.close()
    finally:
        faults = processes.stop()
        rclpy.try_shutdown()
    reports = {name: report(out, name) for name in NODES}
    planner = reports["planner"]
    story = Story(
        updates=updates,
        times_s=[watcher.since_start(stamp_ns) for stamp_ns in planner["stamps_ns"]],
        e2e_ms=planner["samples_ms"]["e2e"],
        swaps_s=[watcher.since_start(stamp_ns) for stamp_ns, _ in watcher.models[1:]],
        summary=results.summarize_run(reports),
    )
    return story, faults


def _clear(out: Path) -> None:
    for folder in ("bundles", "keys", "log", "reports", "repository", "robot"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for name in ("summary.json", "update.html"):
        (out / name).unlink(missing_ok=True)


def _nodes(out: Path, seed: int) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Return the parameters and remappings of each node."""
    images = {"image": CAMERA, "image/compressed": f"{CAMERA}/compressed"}
    return {
        "world_model": ({"bundle": out / "robot" / "current"}, images),
        "planner": ({}, {}),
        "update_manager": ({"root": out / "robot", "auto": False, "image_topic": CAMERA}, {}),
        "two_rooms": ({"min_subscribers": 1, "seed": seed}, {}),
    }


def _summary(story: Story, out: Path) -> str:
    summary = story.summary
    lines = [f"  {update.version}  {update.result:<9} {update.description}" for update in story.updates]
    lost = f"{summary['frames_dropped']} of {summary['frames_published']}"
    return "\n".join(
        [
            "",
            *lines,
            f"\n  images dropped {lost}, goals {summary['successes']} of {summary['episodes']} reached",
            f"  {out / 'update.html'}",
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bundle",
        type=Path,
        default=ROOT / "models" / "two_rooms",
        help="model bundle with INT8 and fp32 variants (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=ROOT / "out" / "demo-update",
        help="output folder (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of layouts, starts and goals (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
