"""The update demo: three releases come over the air to a robot that drives; one goes live, two are refused.

A signed repository is served over HTTP, and beside the demo's processes the update manager runs: it fetches,
verifies and tries each release, compares it with what serves on the robot's live images, and exchanges the
model in the running node. Leaves in out/demo-update: update.html and summary.json. Run it with
``make demo-update``. Exit status 0 only if every release ended as it should.
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
from jepa_msgs.action import UpdateModel
from jepa_msgs.msg import ModelInfo, UpdateEvent
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from processes import DemoError, Processes, node_command, own_graph, report
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
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


class Watcher:
    """Asks the update manager for updates and notes what comes; moments are the system's [ns].

    Args:
        root: the robot's folder; of its slots nobody need read the whole names.
        check: is called all the time; raises if a process has ended.
    """

    def __init__(self, root: Path, check: Callable[[], None]) -> None:
        self.models: list[tuple[int, str]] = []
        self._slot = re.compile(rf"{re.escape(str(root))}/slots/[0-9a-f]*/bundle: ")
        self._check, self._update = check, Update("", "", "")
        self._node = rclpy.create_node("update_demo")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._began_ns, self._asked_ns = time.time_ns(), math.inf
        self._node.create_subscription(ModelInfo, "world_model/model_info", self._on_model, qos.LATCHED)
        self._node.create_subscription(UpdateEvent, "update_manager/events", self._on_event, qos.EVENTS)
        self._action = ActionClient(self._node, UpdateModel, "update_manager/update")

    def await_start(self) -> None:
        """Until a model serves and updates can be asked for."""
        self.until(
            lambda: self.models and self._action.server_is_ready(), START_TIMEOUT_S, "start of the nodes"
        )

    def update(self, offer: Offer) -> Update:
        """Ask for an update and wait for its end.

        Raises:
            DemoError: it was not taken up, did not end in time, or a process ended.
        """
        self._update, self._asked_ns = Update(offer.version, offer.what, offer.result), time.time_ns()
        sent = self._action.send_goal_async(UpdateModel.Goal(), feedback_callback=self._on_feedback)
        self.until(sent.done, START_TIMEOUT_S, f"answer to the request for {offer.version}")
        if not sent.result().accepted:
            raise DemoError("the update manager is at work already: it looks for updates only when asked to")
        ended = sent.result().get_result_async()
        self.until(ended.done, UPDATE_TIMEOUT_S, f"end of the update to {offer.version}")
        result = ended.result().result
        self._update.result, self._update.reason = result.result, self._short(result.reason)
        return self._update

    def until(self, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
        """Take what comes until something holds.

        Raises:
            DemoError: it does not within ``timeout_s``.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise DemoError(f"waited {timeout_s:g} s in vain for the {what}")
            self._check()
            self._executor.spin_once(timeout_sec=0.1)

    def since_start(self, stamp_ns: int) -> float:
        """Seconds."""
        return (stamp_ns - self._began_ns) / 1e9

    def close(self) -> None:
        """Listen no more."""
        self._executor.shutdown()
        self._node.destroy_node()

    def _short(self, reason: str) -> str:
        return self._slot.sub("", reason)

    def _on_model(self, info: ModelInfo) -> None:
        self.models.append((from_time(info.header.stamp), info.version))

    def _on_event(self, event: UpdateEvent) -> None:
        stamp_ns = from_time(event.header.stamp)
        if stamp_ns < self._asked_ns:
            # Who comes late is told what was before.
            return
        entered = Entered(self.since_start(stamp_ns), event.state, self._short(event.reason))
        self._update.states.append(entered)
        print(f"  {entered.time_s:6.1f} s  {entered.state:<9} {entered.reason}", flush=True)

    def _on_feedback(self, message: Any) -> None:
        told = message.feedback
        if math.isfinite(told.shadow_error_ratio) and math.isfinite(told.shadow_excess_low):
            self._update.compared.append(
                Compared(
                    told.shadow_compared,
                    told.shadow_error_ratio,
                    told.shadow_max_error_ratio,
                    told.shadow_excess_low,
                    told.shadow_excess_high,
                )
            )


def main() -> int:
    """Run the demo; 0 if every release ended as it should and every node stopped cleanly."""
    arguments = _arguments()
    out: Path = arguments.out.resolve()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        _clear(out)
        print("demo-update: four bundles and a signed repository are made", flush=True)
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
    faults += judge(story)
    print(_told(story, out))
    for fault in faults:
        print(f"demo-update: error: {fault}", file=sys.stderr)
    return int(bool(faults))


def judge(story: Story) -> list[str]:
    """What did not come as it should."""
    faults = []
    for offer, update in zip(OFFERS, story.updates, strict=True):
        if update.result != offer.result or offer.reason not in update.reason:
            because = f" because {offer.reason!r}" if offer.reason else ""
            faults.append(
                f"{offer.version} had to be {offer.result}{because}, and was {update.result}: {update.reason}"
            )
    wanted = next(offer.version for offer in reversed(OFFERS) if offer.result == "updated")
    if story.summary["model"]["version"] != wanted:
        faults.append(f"{story.summary['model']['version']} serves at the end, not {wanted}")
    return faults


def _drive(publisher: Publisher, out: Path, seed: int) -> tuple[Story, list[str]]:
    """The robot drives; one release after the other is published and asked for. Also what was wrong with the
    end of any process."""
    os.environ.update(own_graph())
    processes = Processes(out / "log", dict(os.environ))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        for node, (given, remaps) in _nodes(out, seed).items():
            told = {**given, "report_path": out / "reports" / f"{node}.json"}
            processes.start(node, node_command(node, told, remaps))
        watcher = Watcher(out / "robot", processes.check)
        watcher.await_start()
        updates = []
        for offer in OFFERS:
            print(f"\n{offer.version} is published: {offer.what}", flush=True)
            publisher.release(offer.version)
            updates.append(watcher.update(offer))
        ends = time.monotonic() + AFTER_S
        watcher.until(lambda: time.monotonic() > ends, 2 * AFTER_S, "images after the last update")
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
        exchanges_s=[watcher.since_start(stamp_ns) for stamp_ns, _ in watcher.models[1:]],
        summary=results.summarise(reports),
    )
    return story, faults


def _clear(out: Path) -> None:
    for folder in ("bundles", "keys", "log", "reports", "repository", "robot"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for name in ("summary.json", "update.html"):
        (out / name).unlink(missing_ok=True)


def _nodes(out: Path, seed: int) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Parameters and remappings of each node."""
    images = {"image": CAMERA, "image/compressed": f"{CAMERA}/compressed"}
    return {
        "world_model": ({"bundle": out / "robot" / "current"}, images),
        "planner": ({}, {}),
        "update_manager": ({"root": out / "robot", "auto": False, "image_topic": CAMERA}, {}),
        "two_rooms": ({"min_subscribers": 1, "seed": seed}, {}),
    }


def _told(story: Story, out: Path) -> str:
    summary = story.summary
    lines = [f"  {update.version}  {update.result:<9} {update.what}" for update in story.updates]
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
        "--bundle", type=Path, default=ROOT / "models" / "two_rooms", help="with forms in INT8 and fp32"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo-update", help="for the results")
    parser.add_argument("--seed", type=int, default=0, help="layouts, starts and goals follow from it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
