"""Draw an animated picture from a recording of the demo two_rooms: camera, goal, predicted futures and map.

The images of futures and map are those that ``jepa-runtime report --mcap`` adds to a recording.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from canvas import MARGIN, Canvas, save
from PIL import Image
from rosbags.highlevel import AnyReader

from jepa_runtime.imaging import image_from_message

GOAL, CAMERA = "/goal_image", "/camera/image_raw"
FUTURES, MAP = "/pictures/futures/image", "/pictures/map/image"
RATE_HZ = 5.0
SIZE = (900, 474)
BOXES = {
    CAMERA: ("camera", (MARGIN, 0, 220, 220)),
    GOAL: ("goal", (MARGIN, 256, 180, 180)),
    FUTURES: ("predicted futures, as the nearest known images", (244, 0, 646, 246)),
    MAP: ("map of latents", (244, 256, 250, 180)),
}


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path, help="recording of the demo (demo.mcap)")
    parser.add_argument("target", type=Path, help="output file (WebP)")
    parser.add_argument("--start", type=float, default=2.0, help="first second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="duration [s] (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "pictures.mcap"
        command = [Path(sys.executable).with_name("jepa-runtime"), "report", arguments.recording]
        report = subprocess.run([*command, "--mcap", bag, "--rate", str(RATE_HZ)])
        if report.returncode:
            return report.returncode
        frames = read_frames(bag, arguments.start, arguments.seconds)
    if not frames:
        print(f"{arguments.recording} has no futures in this time", file=sys.stderr)
        return 1
    save(frames, arguments.target, frame_ms=round(1000 / RATE_HZ))
    print(arguments.target)
    return 0


def read_frames(bag: Path, start_s: float, seconds: float) -> list[Image.Image]:
    """Return one frame for each picture of futures between ``start_s`` and ``start_s + seconds``."""
    newest: dict[str, Image.Image] = {}
    frames = []
    with AnyReader([bag]) as reader:
        chosen = [connection for connection in reader.connections if connection.topic in BOXES]
        for connection, stamp_ns, raw in reader.messages(chosen):
            message = reader.deserialize(raw, connection.msgtype)
            newest[connection.topic] = Image.fromarray(image_from_message(message))
            at_s = (stamp_ns - reader.start_time) / 1e9
            if connection.topic == MAP and start_s <= at_s < start_s + seconds:
                frames.append(compose(newest))
    return frames


def compose(newest: dict[str, Image.Image]) -> Image.Image:
    """Return one frame of the animation from the newest picture of each topic."""
    canvas = Canvas(SIZE)
    for topic, (caption, box) in BOXES.items():
        if topic in newest:
            canvas.paste(newest[topic], caption, box)
    return canvas.image


if __name__ == "__main__":
    sys.exit(main())
