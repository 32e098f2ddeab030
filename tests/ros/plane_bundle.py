"""A model that truly sees: the image of a robot in a plane encodes its pose, which exact graphs decode.

The pose of a goal that lies ahead is read as unknown, as if a wall were in front of it: a robot that drives
forward to a goal has to know its pose from elsewhere.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from jepa_runtime.bundle import Bundle, seal
from tests.bundles import build_model, manifest_fields, write_variants

SIZE, TOKENS, DIM, HORIZON, NUM_SAMPLES = 32, 1, 4, 6, 4
NAMES, UNITS = ("linear.x", "angular.z"), ("m/s", "rad/s")
STEP_S = 0.3
# Coordinates are from -_SPAN_M to _SPAN_M.
_SPAN_M = 8.0
# Each of x, y, cos(yaw) and sin(yaw) is two gray stripes: the upper and the lower byte of its value.
_STRIPES = 2 * DIM
_SCALES = np.array([2 * _SPAN_M, 2 * _SPAN_M, 2.0, 2.0])
# A goal further ahead than this is not in view.
_VIEW_M = 0.3
_UNKNOWN_STD = 5.0


def image_at(pose: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the image of a robot at a pose [3]."""
    values = np.array([pose[0], pose[1], math.cos(pose[2]), math.sin(pose[2])])
    numbers = np.round((values / _SCALES + 0.5) * 65535).astype(int)
    stripes = np.stack([numbers // 256, numbers % 256], axis=1).reshape(-1).astype(np.uint8)
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    image[...] = np.repeat(stripes, SIZE // _STRIPES)[None, :, None]
    return image


def make_plane_bundle(folder: Path, *, reads_poses: bool = True) -> Bundle:
    """Write the bundle into a new folder, with or without the graph that reads poses."""
    graphs = {"encoder": _encoder(), "predictor": _predictor(), "energy": _energy()}
    if reads_poses:
        graphs["relative_pose"] = _relative_pose()
    for role, model in graphs.items():
        write_variants(folder / role, model)
    np.savez(folder / "golden.npz", **_golden(graphs))
    (folder / "report.json").write_text('{"note": "exact graphs"}\n', encoding="utf-8")
    fields = manifest_fields(energy=True, relative_pose=reads_poses)
    fields["model_id"] = "plane"
    fields["io"]["latent"] = {"tokens": TOKENS, "dim": DIM, "dtype": "float32"}
    fields["io"]["action"] = {
        "names": list(NAMES), "units": list(UNITS), "low": [-0.3, -1.5], "high": [0.7, 1.5], "max_norm": None,
    }  # fmt: skip
    fields["io"]["step_s"] = STEP_S
    fields |= {
        "horizon": HORIZON,
        "num_samples": NUM_SAMPLES,
        "error_bounds": [0.05 * step for step in range(1, HORIZON + 1)],
        "goal_threshold": 0.1,
    }
    return seal(folder, fields)


class _Nodes:
    """The nodes and constants of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, kind: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Add a node and return its output; inputs are names, numbers or arrays."""
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, [self._named(each) for each in inputs], [name], **attributes)
        )
        return name

    def part(self, source: str, index: int, axis: int) -> str:
        """Return one component of ``source``, of length 1."""
        bounds = [np.array([value]) for value in (index, index + 1, axis)]
        return self.add("Slice", source, *bounds)

    def turned(self, x: str, y: str, cos: str, sin: str) -> tuple[str, str]:
        """Return a vector turned by an angle."""
        turned_x = self.add("Sub", self.add("Mul", x, cos), self.add("Mul", y, sin))
        return turned_x, self.add("Add", self.add("Mul", x, sin), self.add("Mul", y, cos))

    def _named(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        name = f"c{len(self.constants)}"
        self.constants[name] = np.float32(value) if isinstance(value, float) else np.asarray(value)
        return name


def _encoder() -> onnx.ModelProto:
    weights = np.zeros((SIZE, SIZE, 3, DIM), np.float32)
    width = SIZE // _STRIPES
    for value in range(DIM):
        for byte, unit in enumerate((256, 1)):
            start = (2 * value + byte) * width
            weights[:, start : start + width, :, value] = _SCALES[value] * unit / 65535 / (SIZE * width * 3)
    graph = _Nodes()
    flat = graph.add("Reshape", graph.add("Cast", "frame", to=TensorProto.FLOAT), np.array([1, -1]))
    mixed = graph.add("MatMul", flat, weights.reshape(-1, DIM))
    centered = graph.add("Sub", mixed, (_SCALES / 2).astype(np.float32))
    graph.add("Reshape", centered, np.array([1, TOKENS, DIM]), output="latent")
    return build_model(
        "encoder",
        {"frame": (TensorProto.UINT8, [1, SIZE, SIZE, 3])},
        ("latent", [1, TOKENS, DIM]),
        graph.nodes,
        graph.constants,
    )


def _predictor() -> onnx.ModelProto:
    """Return the motion of a differential drive: each step turns half, moves, and turns half."""
    graph = _Nodes()
    x, y, cos, sin = (graph.part("history_latents", index, 3) for index in range(DIM))
    steps = []
    for step in range(HORIZON):
        action = graph.add("Unsqueeze", graph.part("actions", step, 1), np.array([2]))
        speed, turn = (graph.part(action, index, 3) for index in range(2))
        half = graph.add("Mul", turn, STEP_S / 2)
        half_cos, half_sin = graph.add("Cos", half), graph.add("Sin", half)
        way = graph.add("Mul", speed, STEP_S)
        cos, sin = graph.turned(cos, sin, half_cos, half_sin)
        x = graph.add("Add", x, graph.add("Mul", way, cos))
        y = graph.add("Add", y, graph.add("Mul", way, sin))
        cos, sin = graph.turned(cos, sin, half_cos, half_sin)
        steps.append(graph.add("Concat", x, y, cos, sin, axis=3))
    graph.add("Concat", *steps, axis=1, output="futures")
    return build_model(
        "predictor",
        {
            "history_latents": (TensorProto.FLOAT, [1, 1, TOKENS, DIM]),
            "actions": (TensorProto.FLOAT, ["K", HORIZON, 2]),
        },
        ("futures", ["K", HORIZON, TOKENS, DIM]),
        graph.nodes,
        graph.constants,
    )


def _energy() -> onnx.ModelProto:
    """Return the distance, where the chord of a turn counts as half."""
    graph = _Nodes()
    difference = graph.add("Sub", "latents", "goal")
    weighted = graph.add("Mul", difference, np.float32([1.0, 1.0, 0.5, 0.5]))
    squares = graph.add("Mul", weighted, weighted)
    graph.add("Sqrt", graph.add("ReduceSum", squares, np.array([1, 2]), keepdims=0), output="energy")
    return build_model("energy", _PAIR, ("energy", ["N"]), graph.nodes, graph.constants)


def _relative_pose() -> onnx.ModelProto:
    graph = _Nodes()
    x, y, cos, sin = (graph.part("latents", index, 2) for index in range(DIM))
    goal_x, goal_y, goal_cos, goal_sin = (graph.part("goal", index, 2) for index in range(DIM))
    back = graph.add("Neg", sin)
    ahead, left = graph.turned(graph.add("Sub", goal_x, x), graph.add("Sub", goal_y, y), cos, back)
    turn_cos, turn_sin = graph.turned(goal_cos, goal_sin, cos, back)
    # The angle is twice that of the half angle.
    half = graph.add("Div", turn_sin, graph.add("Max", graph.add("Add", turn_cos, 1.0), 1e-4))
    yaw = graph.add("Mul", graph.add("Atan", half), 2.0)
    hidden = graph.add("Clip", graph.add("Mul", graph.add("Sub", ahead, _VIEW_M), 100.0), 0.0, 1.0)
    seen = graph.add("Sub", 1.0, hidden)
    deviation = graph.add("Add", graph.add("Mul", hidden, _UNKNOWN_STD), 0.03)
    values = [graph.add("Mul", value, seen) for value in (ahead, left, yaw)]
    joined = graph.add("Concat", *values, deviation, deviation, axis=2)
    graph.add("Reshape", joined, np.array([0, 5]), output="relative_pose")
    return build_model("relative_pose", _PAIR, ("relative_pose", ["N", 5]), graph.nodes, graph.constants)


_PAIR: dict[str, tuple[int, list[int | str]]] = {
    "latents": (TensorProto.FLOAT, ["N", TOKENS, DIM]),
    "goal": (TensorProto.FLOAT, [1, TOKENS, DIM]),
}


def _golden(graphs: dict[str, onnx.ModelProto]) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(0)
    frames = np.stack([image_at(random.uniform((-1, -1, -0.5), (1, 1, 0.5))) for _ in range(3)])
    actions = random.uniform((-0.3, -1), (0.7, 1), (NUM_SAMPLES, HORIZON, 2)).astype(np.float32)
    run = {role: ReferenceEvaluator(model) for role, model in graphs.items()}
    latents = np.concatenate([run["encoder"].run(None, {"frame": frame[None]})[0] for frame in frames])
    golden = {"frames": frames, "latents": latents, "actions": actions, "goal": latents[-1:].copy()}
    golden["futures"] = np.stack(
        [
            run["predictor"].run(None, {"history_latents": latent[None, None], "actions": actions})[0]
            for latent in latents
        ]
    )
    for role in ("energy", "relative_pose"):
        if role in run:
            golden[role] = run[role].run(None, {"latents": latents, "goal": golden["goal"]})[0]
    return golden
