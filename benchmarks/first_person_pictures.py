"""Draw what the robot sees in six held-out houses, and two wide views.

Writes docs/first_person.webp, or with --world mujoco docs/first_person_mujoco.webp, where the first wide
view is of the house from above.

usage: python benchmarks/first_person_pictures.py [--world W] [--output FILE.webp]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from jepa_runtime.util import write_file
from jepa_runtime.util.opencv import cv2
from jepa_sim.worlds.first_person.levels import LEVELS, Mission
from jepa_sim.worlds.first_person.rendering import HEIGHT_PX, WIDTH_PX, render

ROOT = Path(__file__).resolve().parent.parent
SMALL, WIDE = (HEIGHT_PX, WIDTH_PX), (288, 384)
ROUTES = 6
VIEWS = 4
# Distance of a view from above, as a multiple of the width and of the depth of the house.
_DISTANCE_BY_WIDTH, _DISTANCE_BY_DEPTH = 1.25, 1.6


def draw(world: str) -> np.ndarray:
    """Return the sheet: the wide views, and below them one row per two houses, each with views of a route."""
    rows, wide = [], []
    for seed in range(ROUTES):
        mission = LEVELS["TR"].sample(np.random.default_rng(seed), True)
        assert mission.recording is not None
        moments = np.linspace(0.1, 0.9, VIEWS) * mission.recording.duration_s
        poses = mission.recording.at(moments).poses
        if world == "mujoco":
            small, large = draw_in_mujoco(mission, poses)
            wide += large
        else:
            small = list(render(mission.packed, poses, np.zeros(VIEWS, int)))
            wide += list(render(mission.packed, poses[1:2], np.zeros(1, int), size=WIDE))
        rows.append(np.concatenate(small, axis=1))
    sheet = [np.concatenate(pair, axis=1) for pair in zip(rows[::2], rows[1::2], strict=True)]
    return np.concatenate([np.concatenate(wide[:2], axis=1), *sheet], axis=0)


def draw_in_mujoco(mission: Mission, poses: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return what the robot sees at some poses, and two wide views, the first one from above."""
    from jepa_sim.worlds.first_person_mujoco.house import compile_house
    from jepa_sim.worlds.first_person_mujoco.scene import HouseRenderer

    model = compile_house(mission.layout)
    small, wide = HouseRenderer(model, SMALL), HouseRenderer(model, WIDE)
    (width, depth), views = mission.layout.size, [small.draw_from(pose) for pose in poses]
    distance_m = max(_DISTANCE_BY_WIDTH * width, _DISTANCE_BY_DEPTH * depth)
    above = wide.draw_from_above(poses[1], (width / 2, depth / 2), distance_m)
    ahead = wide.draw_from(poses[1])
    for renderer in (small, wide):
        renderer.close()
    return views, [above, ahead]


def main() -> int:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", choices=("ray-caster", "mujoco"), default="ray-caster", metavar="W")
    parser.add_argument("--output", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    stem = "first_person_mujoco" if arguments.world == "mujoco" else "first_person"
    image = draw(arguments.world)
    encoded = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 85])[1]
    write_file(arguments.output or ROOT / "docs" / f"{stem}.webp", encoded.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
