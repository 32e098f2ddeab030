"""Toy bundles: tiny random graphs that are valid in every respect, built without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from jepa_runtime.bundle import Bundle, seal

SIZE, TOKENS, DIM, HORIZON, NUM_SAMPLES, ACTIONS = 32, 2, 8, 4, 8, 2
ARM_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ARM_UNITS = ("m", "m", "m", "rad", "rad", "rad", "1")
ARM_LIMITS = (0.05, 0.05, 0.05, 0.0, 0.0, 0.0, 0.75)
_FLAT = TOKENS * DIM
_OPSET, _IR_VERSION = 17, 9
_GOLDEN_FRAMES = 3

Arrays = dict[str, NDArray[Any]]


def make_bundle(
    folder: Path,
    *,
    history_size: int = 1,
    energy: bool = True,
    step: bool = False,
    relative_pose: bool = False,
    trained: bool = True,
    seed: int = 0,
    standing: bool = False,
) -> Bundle:
    """Write a sealed bundle of random weights into a new ``folder``.

    Each graph comes as OpenVINO IR in fp32 and fp16, and as ONNX in fp32.

    Args:
        history_size: Number of context frames (W).
        energy: Add an energy graph.
        step: Add a graph for one step of one candidate.
        relative_pose: Add a relative pose graph.
        trained: Value in the manifest.
        standing: Repeat one frame in the past context of the golden outputs, as in earlier bundles.
    """
    random = np.random.default_rng(seed)
    graphs = {"encoder": _encoder(random), "predictor": _predictor(seed, history_size)}
    if step:
        graphs["step"] = _predictor(seed, history_size, horizon=1)
    if energy:
        graphs["energy"] = _energy(random)
    if relative_pose:
        graphs["relative_pose"] = _relative_pose(random)
    for role, model in graphs.items():
        write_variants(folder / role, model)
    np.savez(folder / "golden.npz", **_golden(graphs, history_size, random, standing=standing))
    (folder / "report.json").write_text('{"note": "random weights"}\n', encoding="utf-8")
    fields = manifest_fields(
        history_size=history_size, energy=energy, step=step, relative_pose=relative_pose, trained=trained
    )
    return seal(folder, fields)


def make_wheeled_bundle(folder: Path) -> Path:
    """Write a sealed bundle of random weights for the robot of the first-person rooms; return its folder."""
    make_bundle(folder, relative_pose=True)
    fields = manifest_fields(relative_pose=True)
    fields["io"]["action"] = {
        "names": ["linear.x", "angular.z"], "units": ["m/s", "rad/s"], "low": [-0.2, -1.5],
        "high": [0.8, 1.5], "max_norm": None,
    }  # fmt: skip
    fields["io"]["step_s"] = 0.3
    seal(folder, fields)
    return folder


def make_arm_bundle(folder: Path, *, history_size: int = 1) -> Bundle:
    """Write a sealed bundle of random weights whose predictor reads the pose of an arm, as V-JEPA 2-AC does.

    Its energy is the mean absolute difference. It is marked as untrained.
    """
    random = np.random.default_rng(0)
    sizes = {"actions": len(ARM_NAMES), "states": len(ARM_NAMES)}
    graphs = {
        "encoder": _encoder(random),
        "predictor": _predictor(0, history_size, **sizes),
        "energy": _mean_absolute(),
    }
    for role, model in graphs.items():
        write_variants(folder / role, model)
    np.savez(folder / "golden.npz", **_golden(graphs, history_size, random, standing=False, **sizes))
    (folder / "report.json").write_text('{"note": "random weights"}\n', encoding="utf-8")
    fields = manifest_fields(history_size=history_size, trained=False)
    fields["io"]["action"] = {
        "names": list(ARM_NAMES), "units": list(ARM_UNITS), "low": [-limit for limit in ARM_LIMITS],
        "high": list(ARM_LIMITS), "max_norm": None,
    }  # fmt: skip
    fields["io"]["state"] = {"names": list(ARM_NAMES), "units": list(ARM_UNITS)}
    return seal(folder, fields)


def manifest_fields(
    *,
    history_size: int = 1,
    energy: bool = True,
    step: bool = False,
    relative_pose: bool = False,
    trained: bool = True,
) -> dict[str, Any]:
    """Return the manifest fields of a toy bundle for :func:`seal`."""
    optional = {"step": step, "energy": energy, "relative_pose": relative_pose}
    variants = {role: _variants(role) for role in ("encoder", "predictor")}
    variants |= {role: _variants(role) if included else [] for role, included in optional.items()}
    exact = {"min_cosine": 0.9999, "max_abs": 1e-4}
    return {
        "model_id": "toy",
        "version": "1.2.3",
        "release_seq": 4,
        "trained": trained,
        "description": "Random weights, for tests.",
        "licence": "Apache-2.0",
        "provenance": {"data": "none", "teacher": None, "commit": "0" * 40, "command": "tests/bundles.py"},
        "io": {
            "frame": {
                "height": SIZE,
                "width": SIZE,
                "channels": 3,
                "layout": "NHWC",
                "dtype": "uint8",
                "color": "rgb",
                "rate_hz": 30.0,
                "mean": [0.5, 0.5, 0.5],
                "std": [0.25, 0.25, 0.25],
            },
            "latent": {"tokens": TOKENS, "dim": DIM, "dtype": "float32"},
            "action": {
                "names": ["linear.x", "linear.y"],
                "units": ["m/s", "m/s"],
                "low": [-1.25, -1.25],
                "high": [1.25, 1.25],
                "max_norm": 1.25,
            },
            "step_s": 0.2,
        },
        "history_size": history_size,
        "horizon": HORIZON,
        "num_samples": NUM_SAMPLES,
        "graphs": variants,
        "error_bounds": [0.1 * step for step in range(1, HORIZON + 1)],
        "surprise_threshold": 0.5,
        "goal_threshold": 0.05,
        "golden": {
            "path": "golden.npz",
            "tolerances": {"fp32": exact, "fp16": {"min_cosine": 0.99, "max_abs": 0.05}},
        },
    }


def _variants(role: str) -> list[dict[str, str]]:
    return [
        {"target": "openvino", "precision": "fp32", "path": f"{role}/openvino/model.xml"},
        {"target": "openvino", "precision": "fp16", "path": f"{role}/openvino/model_fp16.xml"},
        {"target": "onnx", "precision": "fp32", "path": f"{role}/onnx/model.onnx"},
    ]


def write_variants(folder: Path, model: onnx.ModelProto) -> None:
    """Write the variants of one graph that :func:`manifest_fields` lists."""
    content = model.SerializeToString()
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(content)
    core = openvino.Core()
    for name, compress in (("model.xml", False), ("model_fp16.xml", True)):
        # Saving may change a model in place, so each is read separately.
        openvino.save_model(core.read_model(content), folder / "openvino" / name, compress_to_fp16=compress)


def _golden(
    graphs: dict[str, onnx.ModelProto],
    history_size: int,
    random: np.random.Generator,
    *,
    standing: bool,
    actions: int = ACTIONS,
    states: int = 0,
) -> Arrays:
    """Return inputs, and the outputs of ONNX's reference implementation."""
    frames = random.integers(0, 256, (_GOLDEN_FRAMES, SIZE, SIZE, 3), np.uint8)
    candidates = random.uniform(-1, 1, (NUM_SAMPLES, HORIZON, actions)).astype(np.float32)
    encode, predict = (ReferenceEvaluator(graphs[role]) for role in ("encoder", "predictor"))
    latents = np.concatenate([encode.run(None, {"frame": frame[None]})[0] for frame in frames])
    past = random.uniform(-1, 1, (history_size - 1, actions)).astype(np.float32) * (not standing)
    measured = random.uniform(-1, 1, (history_size, states)).astype(np.float32)
    futures = []
    for number in range(_GOLDEN_FRAMES):
        rows = [number - back * (not standing) for back in reversed(range(history_size))]
        feeds = {"history_latents": latents[None, rows], "actions": candidates}
        if states:
            feeds["history_states"] = measured[None]
        if history_size > 1:
            feeds["history_actions"] = past[None]
        futures.append(predict.run(None, feeds)[0])
    golden = {"frames": frames, "latents": latents, "actions": candidates, "futures": np.stack(futures)}
    if history_size > 1 and not standing:
        golden["history_actions"] = past
    if states:
        golden["history_states"] = measured
    golden["goal"] = latents[-1:].copy()
    for role in ("energy", "relative_pose"):
        if role in graphs:
            read = ReferenceEvaluator(graphs[role])
            golden[role] = read.run(None, {"latents": latents, "goal": golden["goal"]})[0]
    return golden


def build_model(
    name: str,
    inputs: dict[str, tuple[int, list[int | str]]],
    output: tuple[str, list[int | str]],
    nodes: list[onnx.NodeProto],
    constants: Arrays,
) -> onnx.ModelProto:
    """Return a checked graph.

    Args:
        name: Its name.
        inputs: Type and shape of each input.
        output: Name and shape of its output, float32.
        nodes: Its nodes.
        constants: Its weights.
    """
    described = [helper.make_tensor_value_info(key, *spec) for key, spec in inputs.items()]
    result = helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])
    weights = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    graph = helper.make_graph(nodes, name, described, [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model


def _weights(random: np.random.Generator) -> Callable[[int, int], NDArray[np.float32]]:
    return lambda rows, columns: (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)


def _encoder(random: np.random.Generator) -> onnx.ModelProto:
    pixels = SIZE * SIZE * 3
    node = helper.make_node
    return build_model(
        "encoder",
        {"frame": (TensorProto.UINT8, [1, SIZE, SIZE, 3])},
        ("latent", [1, TOKENS, DIM]),
        [
            node("Cast", ["frame"], ["cast"], to=TensorProto.FLOAT),
            node("Sub", ["cast", "mean"], ["centered"]),
            node("Div", ["centered", "std"], ["normal"]),
            node("Reshape", ["normal", "flat"], ["row"]),
            node("MatMul", ["row", "weights"], ["mixed"]),
            node("Tanh", ["mixed"], ["bounded"]),
            node("Reshape", ["bounded", "shape"], ["latent"]),
        ],
        {
            "mean": np.float32(127.5) * np.ones(3, np.float32),
            "std": np.float32(63.75) * np.ones(3, np.float32),
            "flat": np.array([1, pixels]),
            "weights": _weights(random)(pixels, _FLAT),
            "shape": np.array([1, TOKENS, DIM]),
        },
    )


def _predictor(
    seed: int, history_size: int, horizon: int = HORIZON, *, actions: int = ACTIONS, states: int = 0
) -> onnx.ModelProto:
    """Return ``z = tanh(z A + a B)`` per step; the first z mixes the past context."""
    weights, node = _weights(np.random.default_rng([seed, 1])), helper.make_node
    inputs: dict[str, tuple[int, list[int | str]]] = {
        "history_latents": (TensorProto.FLOAT, [1, history_size, TOKENS, DIM]),
        "actions": (TensorProto.FLOAT, ["K", horizon, actions]),
    }
    constants: Arrays = {
        "history_shape": np.array([1, 1, history_size * _FLAT]),
        "history_weights": weights(history_size * _FLAT, _FLAT),
        "state_weights": weights(_FLAT, _FLAT),
        "action_weights": weights(actions, _FLAT),
        "shape": np.array([0, horizon, TOKENS, DIM]),
        "one": np.array([1]),
    }
    nodes = [
        node("Reshape", ["history_latents", "history_shape"], ["history"]),
        node("MatMul", ["history", "history_weights"], ["start"]),
        node("MatMul", ["actions", "action_weights"], ["pushes"]),
    ]
    state = "start"
    if history_size > 1:
        inputs["history_actions"] = (TensorProto.FLOAT, [1, history_size - 1, actions])
        nodes += [
            node("MatMul", ["history_actions", "action_weights"], ["moved"]),
            node("ReduceSum", ["moved", "one"], ["moves"]),
            node("Add", ["start", "moves"], ["start_moved"]),
        ]
        state = "start_moved"
    if states:
        inputs["history_states"] = (TensorProto.FLOAT, [1, history_size, states])
        constants["pose_weights"] = weights(states, _FLAT)
        nodes += [
            node("MatMul", ["history_states", "pose_weights"], ["placed"]),
            node("ReduceSum", ["placed", "one"], ["place"]),
            node("Add", [state, "place"], ["start_placed"]),
        ]
        state = "start_placed"
    steps = []
    for step in range(horizon):
        constants |= {f"from{step}": np.array([step]), f"to{step}": np.array([step + 1])}
        nodes += [
            node("Slice", ["pushes", f"from{step}", f"to{step}", "one"], [f"push{step}"]),
            node("MatMul", [state, "state_weights"], [f"drift{step}"]),
            node("Add", [f"drift{step}", f"push{step}"], [f"sum{step}"]),
            node("Tanh", [f"sum{step}"], [f"state{step}"]),
        ]
        state = f"state{step}"
        steps.append(state)
    nodes += [node("Concat", steps, ["states"], axis=1), node("Reshape", ["states", "shape"], ["futures"])]
    return build_model("predictor", inputs, ("futures", ["K", horizon, TOKENS, DIM]), nodes, constants)


def _energy(random: np.random.Generator) -> onnx.ModelProto:
    """Return a weighted mean of squared differences, which differs from the unweighted one."""
    node = helper.make_node
    return build_model(
        "energy",
        {"latents": (TensorProto.FLOAT, ["N", TOKENS, DIM]), "goal": (TensorProto.FLOAT, [1, TOKENS, DIM])},
        ("energy", ["N"]),
        [
            node("Sub", ["latents", "goal"], ["difference"]),
            node("Mul", ["difference", "difference"], ["squared"]),
            node("Mul", ["squared", "weights"], ["weighted"]),
            node("ReduceMean", ["weighted"], ["energy"], axes=[1, 2], keepdims=0),
        ],
        {"weights": random.uniform(0.5, 3.0, (1, TOKENS, DIM)).astype(np.float32)},
    )


def _mean_absolute() -> onnx.ModelProto:
    """Return the energy of V-JEPA 2-AC."""
    node = helper.make_node
    return build_model(
        "energy",
        {"latents": (TensorProto.FLOAT, ["N", TOKENS, DIM]), "goal": (TensorProto.FLOAT, [1, TOKENS, DIM])},
        ("energy", ["N"]),
        [
            node("Sub", ["latents", "goal"], ["difference"]),
            node("Abs", ["difference"], ["distance"]),
            node("ReduceMean", ["distance"], ["energy"], axes=[1, 2], keepdims=0),
        ],
        {},
    )


def _relative_pose(random: np.random.Generator) -> onnx.ModelProto:
    """Return ``tanh`` of mixed differences as a pose, and ``exp`` of others as its standard deviations."""
    node = helper.make_node
    return build_model(
        "relative_pose",
        {"latents": (TensorProto.FLOAT, ["N", TOKENS, DIM]), "goal": (TensorProto.FLOAT, [1, TOKENS, DIM])},
        ("relative_pose", ["N", 5]),
        [
            node("Sub", ["latents", "goal"], ["difference"]),
            node("Reshape", ["difference", "flat"], ["rows"]),
            node("MatMul", ["rows", "weights"], ["mixed"]),
            node("Tanh", ["mixed"], ["bounded"]),
            node("Split", ["bounded", "sizes"], ["pose", "scales"], axis=1),
            node("Exp", ["scales"], ["deviations"]),
            node("Concat", ["pose", "deviations"], ["relative_pose"], axis=1),
        ],
        {
            "flat": np.array([0, _FLAT]),
            "weights": _weights(random)(_FLAT, 5),
            "sizes": np.array([3, 2]),
        },
    )
