"""The builder on TensorRT for RTX, which can build for a GPU that is not present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.backends import Graph
from jepa_runtime.backends.tensorrt import builder
from jepa_runtime.errors import BackendError
from tests.bundles import ACTIONS, DIM, HORIZON, SIZE, TOKENS
from tests.errors import code

pytest.importorskip("tensorrt_rtx_libs", reason="TensorRT for RTX is not installed (extra tensorrt-check)")
trt = pytest.importorskip("tensorrt_rtx_bindings")
# RTX builds without measurements, and warns that a timing cache is ignored.
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
FRAME = {"frame": (1, SIZE, SIZE, 3)}


@pytest.fixture(scope="module")
def listener() -> Any:
    return builder.listener(trt)


def build(listener: Any, graph: Graph, shapes: Any, **further: Any) -> builder.Built:
    further.setdefault("progress", lambda *_: True)
    return builder.build(trt, listener, graph, shapes, capability=trt.ComputeCapability.SM86, **further)


@pytest.mark.parametrize(
    ("role", "shapes"),
    [
        ("encoder", FRAME),
        ("predictor", {"history_latents": (1, 1, TOKENS, DIM), "actions": (16, HORIZON, ACTIONS)}),
        ("energy", {"latents": (32, TOKENS, DIM), "goal": (1, TOKENS, DIM)}),
    ],
)
def test_graphs_are_built(toy_bundle: Path, listener: Any, role: str, shapes: Any) -> None:
    messages: list[tuple[str, int, int]] = []

    def progress(*step: Any) -> bool:
        messages.append(step)
        return True

    graph = Graph.read(toy_bundle / role / "onnx" / "model.onnx")
    built = build(listener, graph, shapes, progress=progress, memory_bytes=1 << 28)
    assert len(built.engine) > 1000 and built.layers > 1 and built.build_s > 0
    assert messages and all(0 <= done <= steps for _, done, steps in messages)


def test_build_can_be_stopped(toy_bundle: Path, listener: Any) -> None:
    graph = Graph.read(toy_bundle / "encoder" / "onnx" / "model.onnx")
    with pytest.raises(BackendError, check=code("backend.build_failed")):
        build(listener, graph, FRAME, progress=lambda *_: False)


def test_malformed_onnx_error_contains_the_parser_message(listener: Any) -> None:
    with pytest.raises(BackendError, check=code("backend.graph_invalid")):
        build(listener, Graph("the graph", b"<xml"), FRAME)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"image": FRAME["frame"]}, "backend.graph_mismatch"),
        ({"frame": (1, SIZE, SIZE + 1, 3)}, "backend.shape_mismatch"),
        ({"frame": (1, SIZE, SIZE)}, "backend.shape_mismatch"),
    ],
)
def test_build_rejects_shapes_that_the_graph_does_not_accept(
    toy_bundle: Path, listener: Any, shapes: Any, expected: str
) -> None:
    graph = Graph.read(toy_bundle / "encoder" / "onnx" / "model.onnx")
    with pytest.raises(BackendError, check=code(expected)):
        build(listener, graph, shapes)
