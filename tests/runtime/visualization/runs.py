"""Bags of synthetic runs: a robot drives right and, in another scene, up, with futures of a given error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.calibration import Calibration
from jepa_runtime.calibration.coverage import CoverageRate
from jepa_runtime.model.world_model import Futures
from jepa_runtime.recording import messages
from jepa_runtime.serving.history import Reset
from jepa_runtime.serving.pipeline import Result
from jepa_runtime.serving.types import STAGES, Candidates
from jepa_runtime.visualization.bag_topics import EPISODE_RESULT, PLANNER_STATUS
from tests.runtime.bags import Entry, vector, write_bag
from tests.runtime.fakes import DIM, HORIZON, STEP_S, TOKENS, FakeModel

START_NS = 1_700_000_000_000_000_000
PERIOD_S = 0.1
FRAMES = 60
# The scene changes here; until then the robot drives right, from then on up.
CHANGE = 30
CANDIDATES = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0]], np.float32)
RIGHT, UP = 0, 1
BOUND = 0.25


def stamp(frame: int) -> int:
    return START_NS + round(frame * PERIOD_S * 1e9)


def velocity(frame: int) -> NDArray[np.float32]:
    return CANDIDATES[RIGHT if frame < CHANGE else UP]


def latent(frame: int) -> NDArray[np.float32]:
    """Return a latent: the first token is the scene, the second has the position in its first two numbers."""
    first, token = (0, np.zeros(2)) if frame < CHANGE else (CHANGE, np.array([7.0, -7.0]))
    result = np.zeros((TOKENS, DIM), np.float32)
    result[0] = first
    result[1, :2] = token + PERIOD_S * (frame - first) * velocity(frame)
    return result


def gray(frame: int) -> int:
    """Return the gray level that identifies a frame."""
    return 4 * frame


def futures(frame: int, error: float, goal: bool, bound: float) -> Futures:
    ahead = STEP_S * np.arange(1, HORIZON + 1, dtype=np.float32)
    result = np.repeat(np.repeat(latent(frame)[None, None], len(CANDIDATES), 0), HORIZON, 1)
    result[:, :, 1, :2] += ahead[None, :, None] * CANDIDATES[:, None]
    # Predictions have their error in a direction without motion.
    result[:, :, 1, 2] = error
    energies = np.abs(result[:, :, 1, 0] - 10.0) if goal else None
    actions = np.repeat(CANDIDATES[:, None], HORIZON, 1)
    return Futures(result, actions, energies, np.full(HORIZON, bound, np.float32))


def result(frame: int, *, error: float = 0.0, goal: bool = True, bound: float = BOUND) -> Result:
    shares = (CoverageRate(9, 10),) * HORIZON
    return Result(
        stamp_ns=stamp(frame),
        frame_id="camera",
        sequence=frame,
        latent=latent(frame),
        futures=futures(frame, error, goal, bound),
        candidates=Candidates(np.zeros((0, HORIZON, 2), np.float32), "planner", 7),
        reset={0: Reset.FIRST, CHANGE: Reset.GAP}.get(frame),
        surprise=0.9 if frame == 40 else 0.1,
        surprising=frame == 40,
        goal_stamp_ns=stamp(0) if goal else None,
        current_energy=10.0 - frame * PERIOD_S if goal else None,
        timings_ms={name: float(index) for index, name in enumerate(STAGES)},
        deadline_missed=False,
        calibration=Calibration(0.9, np.full(HORIZON, bound), shares, shares),
    )


def image(topic: str, stamp_ns: int, value: int, size: tuple[int, int] = (24, 32)) -> Entry:
    shown = np.full((*size, 3), value, np.uint8)
    return stamp_ns, topic, messages.IMAGE, messages.image(shown, stamp_ns, "camera")


def entries(
    *,
    namespace: str = "",
    error: float = 0.0,
    goal: bool = True,
    bound: float = BOUND,
    camera: str = "/camera",
) -> list[Entry]:
    """Return all messages of a run."""
    model: Any = FakeModel()
    node, recorded = f"{namespace}/world_model", []
    recorded.append(
        (START_NS, f"{node}/model_info", messages.MODEL_INFO, messages.model_info(model, START_NS))
    )
    if goal:
        recorded.append(image(f"{namespace}/goal_image", START_NS, 200))
    for frame in range(FRAMES):
        at, arrived = stamp(frame), result(frame, error=error, goal=goal, bound=bound)
        twist = {"linear": vector(*map(float, velocity(frame))), "angular": vector()}
        recorded += [
            image(f"{namespace}{camera}/image_raw", at, gray(frame)),
            (at, f"{namespace}/cmd_vel", messages.TWIST, twist),
            (at, f"{node}/latent", messages.LATENT_STATE, messages.latent_state(arrived, model)),
            (
                at,
                f"{node}/futures",
                messages.PREDICTED_FUTURES,
                messages.predicted_futures(arrived, model) or {},
            ),
            (at, f"{node}/surprise", messages.SURPRISE, messages.surprise(arrived, model) or {}),
            (at, f"{namespace}/planner/status", PLANNER_STATUS, planner_status(frame)),
        ]
    ended = {
        "header": messages.header(stamp(CHANGE) - 1, "camera"),
        "index": 0,
        "reached": True,
        "outcome": "reached",
        "duration_s": 3.0,
        "distance_m": 0.1,
    }
    recorded.append((stamp(CHANGE) - 1, f"{namespace}/episode", EPISODE_RESULT, ended))
    return recorded


def planner_status(frame: int) -> dict[str, Any]:
    return {
        "header": messages.header(stamp(frame), "camera"),
        "goal_stamp": messages.time_message(START_NS),
        "state": 1,
        "energy": 1.0,
        "e2e_ms": 5.0 + frame,
        "compensated_ms": 0.0,
        "command": {"linear": vector(), "angular": vector()},
    }


def write_run(path: Path, **kwargs: Any) -> Path:
    return write_bag(path, entries(**kwargs))
