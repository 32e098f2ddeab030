"""Draw an animated picture of a run of the first-person demo: camera, map, surprise and predicted futures.

Reads the recording, the route and run.json in the folder of the demo. The pictures of futures are those that
``jepa-runtime report --mcap`` adds to a recording.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from canvas import Canvas, save
from house_map import DRIVEN, GOAL, TAUGHT, Color, HouseMap
from PIL import Image, ImageDraw
from rosbags.highlevel import AnyReader

from jepa_runtime.imaging import image_from_message
from jepa_runtime.routes import Route
from jepa_runtime.util import Pose, compose
from jepa_sim.closed_loop.first_person.real_time import route_mission

CAMERA, POSE, READ = "/camera/image_raw", "/first_person/true_pose", "/planner/goal_pose"
SURPRISE, FUTURES = "/world_model/surprise", "/pictures/futures/image"
TOPICS = (CAMERA, POSE, READ, SURPRISE, FUTURES)
# A frame for this time of the drive, shown for that one.
PERIOD_S, FRAME_MS = 0.8, 160
# What is shown before a drive and after it, and the time in the plot of surprise.
_BEFORE_S, _AFTER_S, _PLOTTED_S = 0.5, 1.5, 10.0
SIZE = (900, 516)
CAMERA_BOX, KEY_FRAME_BOX, SURPRISE_BOX = (10, 24, 384, 288), (10, 346, 192, 144), (214, 346, 180, 144)
MAP_BOX, FUTURES_BOX = (408, 24, 482, 288), (408, 346, 482, 144)
TITLES = {
    "repeated": "repeats the route that it was shown once",
    "blocked": "the same again, and a door is closed on its way",
}
_RED, _GRAY = (200, 40, 40), (110, 110, 110)
# Characters of a line above the map.
_LINE = 76


@dataclass
class Recorded:
    """The messages that are drawn, by topic, with their stamps [ns] in order."""

    stamps: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    messages: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def newest(self, topic: str, stamp_ns: int) -> Any:
        """Return the newest message at a time; None: there is none."""
        index = bisect_right(self.stamps[topic], stamp_ns)
        return self.messages[topic][index - 1] if index else None

    def between(self, topic: str, begin_ns: int, end_ns: int) -> list[tuple[int, Any]]:
        """Return stamps and messages of a time."""
        first, last = (bisect_right(self.stamps[topic], stamp) for stamp in (begin_ns, end_ns))
        return list(zip(self.stamps[topic][first:last], self.messages[topic][first:last], strict=True))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the demo (out/demo)")
    parser.add_argument("target", type=Path, help="output file (WebP)")
    arguments = parser.parse_args()
    draw(arguments.run, arguments.target)
    print(arguments.target)
    return 0


def draw(folder: Path, target: Path) -> None:
    """Draw both repetitions of the run in a folder."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) / "pictures.mcap"
        command = [Path(sys.executable).with_name("jepa-runtime"), "report", folder / "demo.mcap"]
        subprocess.run(
            [*command, "--mcap", pictures, "--rate", str(1 / PERIOD_S), "-q"], check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        recorded = read(pictures)
    drawn = Drawing(run, Route.open(folder / "routes" / run["route"]), recorded)
    frames = [
        drawn.frame(drive, stamp_ns)
        for drive in TITLES
        for stamp_ns in range(
            run[drive]["began_ns"] - round(_BEFORE_S * 1e9),
            run[drive]["ended_ns"] + round(_AFTER_S * 1e9),
            round(PERIOD_S * 1e9),
        )
    ]
    save(frames, target, frame_ms=FRAME_MS)


def read(bag: Path) -> Recorded:
    """Read the messages that are drawn."""
    recorded = Recorded()
    with AnyReader([bag]) as reader:
        chosen = [connection for connection in reader.connections if connection.topic in TOPICS]
        for connection, received_ns, raw in reader.messages(chosen):
            message: Any = reader.deserialize(raw, connection.msgtype)
            recorded.stamps[connection.topic].append(received_ns)
            recorded.messages[connection.topic].append(message)
    return recorded


class Drawing:
    """Draw single moments of a run.

    Args:
        run: Content of run.json.
        route: The taught route.
        recorded: What was recorded.
    """

    def __init__(self, run: dict[str, Any], route: Route, recorded: Recorded) -> None:
        self._run, self._route, self._recorded = run, route, recorded
        self._mission = mission = route_mission(run["seed"])
        assert mission.recording is not None
        door = mission.with_closed_door(-1).door_closing
        assert door is not None
        self._leaf = mission.layout.door_leaf(door.door)
        self._map = HouseMap(mission.layout, MAP_BOX[2:])
        self._map.path(mission.recording.poses, TAUGHT)
        if route.poses is not None:
            self._map.marks([compose(mission.recording.poses[0], pose) for pose in route.poses], TAUGHT)

    def frame(self, drive: str, stamp_ns: int) -> Image.Image:
        """Return the picture of a moment.

        Args:
            drive: ``repeated`` or ``blocked``.
            stamp_ns: The moment.
        """
        canvas, found = Canvas(SIZE), self._run[drive]
        now = _newest_feedback(found["feedback"], stamp_ns)
        ended = stamp_ns >= found["ended_ns"]
        canvas.caption(10, -6, TITLES[drive])
        canvas.caption(408, -6, *_state(found, now, ended))
        image = self._recorded.newest(CAMERA, stamp_ns)
        if image is not None:
            canvas.paste(_picture(image), "the robot's camera", CAMERA_BOX)
        key_frame = -1 if now is None or ended else now["goal"]
        if key_frame >= 0:
            shown = Image.fromarray(self._route.key_frames[key_frame].picture)
            canvas.paste(shown, f"key frame {key_frame} ahead", KEY_FRAME_BOX)
        canvas.paste(self._surprise(stamp_ns), "surprise and its threshold", SURPRISE_BOX)
        canvas.paste(self._house(found, stamp_ns, stands=key_frame < 0), _MAP_TEXT, MAP_BOX)
        futures = self._recorded.newest(FUTURES, stamp_ns)
        if futures is not None:
            canvas.paste(_picture(futures), "predicted futures, as the nearest known images", FUTURES_BOX)
        return canvas.image

    def _house(self, found: dict[str, Any], stamp_ns: int, *, stands: bool) -> Image.Image:
        house = self._map.copy()
        poses = self._recorded.between(POSE, found["began_ns"], stamp_ns)
        house.path(np.array([_pose(message) for _, message in poses]).reshape(-1, 3), DRIVEN)
        if 0 < found["door_closed_ns"] <= stamp_ns:
            house.door(self._leaf)
        read_pose = self._recorded.newest(READ, stamp_ns)
        if read_pose is not None and not stands:
            seen_ns = read_pose.header.stamp.sec * 10**9 + read_pose.header.stamp.nanosec
            seen_from = self._recorded.newest(POSE, seen_ns)
            if seen_from is not None:
                goal = np.array([read_pose.x, read_pose.y, read_pose.yaw])
                house.arrow(compose(_pose(seen_from), goal), GOAL)
        at = self._recorded.newest(POSE, stamp_ns)
        if at is not None:
            house.robot(_pose(at))
        return house.picture()

    def _surprise(self, stamp_ns: int) -> Image.Image:
        """Draw the surprise of the last seconds as a multiple of its threshold."""
        width, height = SURPRISE_BOX[2:]
        picture = Image.new("RGB", (width, height), (250, 250, 250))
        drawn = ImageDraw.Draw(picture)
        begin_ns = stamp_ns - round(_PLOTTED_S * 1e9)

        def at(when_ns: int, value: float) -> tuple[float, float]:
            return width * (when_ns - begin_ns) / (_PLOTTED_S * 1e9), height * (1 - min(value, 2.0) / 2)

        drawn.line([at(begin_ns, 1.0), at(stamp_ns, 1.0)], _RED, 1)
        points = [
            at(when_ns, message.value / message.threshold)
            for when_ns, message in self._recorded.between(SURPRISE, begin_ns, stamp_ns)
            if math.isfinite(message.value) and message.threshold > 0
        ]
        if len(points) > 1:
            drawn.line(points, DRIVEN, 2)
        return picture


_MAP_TEXT = "map: taught route (gray), robot (blue), pose of the goal that it drives to (orange)"


def _newest_feedback(feedback: list[dict[str, Any]], stamp_ns: int) -> dict[str, Any] | None:
    index = bisect_right([each["stamp_ns"] for each in feedback], stamp_ns)
    return feedback[index - 1] if index else None


def _state(found: dict[str, Any], now: dict[str, Any] | None, ended: bool) -> tuple[str, Color]:
    """Return a line about the state, and its color."""
    if ended:
        color = DRIVEN if found["outcome"] == "reached" else _RED
        return f"{found['outcome']}: {found['reason']}"[:_LINE], color
    if now is None:
        return "", _GRAY
    if now["reason"]:
        return f"{now['state']}: {now['reason']}"[:_LINE], _RED
    place = max(now["progress"], 0.0)
    return f"{now['state']}, {place:.0%} of the route, confidence {now['confidence']:.2f}", _GRAY


def _pose(message: Any) -> Pose:
    position, q = message.pose.position, message.pose.orientation
    heading = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y**2 + q.z**2))
    return np.array([position.x, position.y, heading])


def _picture(message: Any) -> Image.Image:
    return Image.fromarray(image_from_message(message))


if __name__ == "__main__":
    sys.exit(main())
