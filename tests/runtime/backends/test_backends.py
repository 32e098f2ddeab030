"""All engines: equal results, their own buffers, and errors with codes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset15 as ops
import pytest

from jepa_runtime.backends import Backend, BackendOptions, Graph, create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BackendError
from tests.bundles import ACTIONS, DIM, HORIZON, SIZE, TOKENS
from tests.errors import code

# The last is simulated; see tests/runtime/backends/simulated_tensorrt.py.
ENGINES = ["openvino:CPU", "onnxruntime:CPU", "tensorrt:0"]
FRAME = {"frame": (1, SIZE, SIZE, 3)}


pytestmark = pytest.mark.usefixtures("tensorrt")


@pytest.fixture(params=ENGINES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    created = create_backend(request.param, options_for(request.param, tmp_path))
    yield created
    created.close()


def options_for(engine: str, folder: Path, **further: Any) -> BackendOptions:
    """Return options that allow TensorRT to build and cache its engines."""
    if engine.startswith("tensorrt"):
        further |= {"build": lambda *_: True, "cache_dir": folder / "engines"}
    return BackendOptions(**further)


def model_path(folder: Path, role: str, backend: Backend) -> Path:
    return folder / role / ("openvino/model.xml" if backend.engine == "openvino" else "onnx/model.onnx")


def predictor_shapes(count: int) -> dict[str, tuple[int, ...]]:
    return {"history_latents": (1, 1, TOKENS, DIM), "actions": (count, HORIZON, ACTIONS)}


def test_backend_has_its_name_and_device(backend: Backend) -> None:
    assert f"{backend.engine}:{backend.device}" in ENGINES
    assert backend.version
    assert "onnx" in backend.targets


def test_engine_without_a_device_uses_the_default() -> None:
    assert create_backend("openvino").device == "CPU"


def test_outputs_equal_the_golden_arrays(backend: Backend, toy_bundle: Path) -> None:
    golden = Bundle.open(toy_bundle).golden()
    session = backend.load(model_path(toy_bundle, "encoder", backend), FRAME)
    for frame, latent in zip(golden.frames, golden.latents, strict=True):
        session.inputs["frame"][0] = frame
        assert session.run()["latent"][0] == pytest.approx(latent, abs=1e-4)
    session.close()


def test_engines_agree_on_random_futures(toy_bundle: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    latents = random.standard_normal((1, 1, TOKENS, DIM))
    actions = random.uniform(-1, 1, (5, HORIZON, ACTIONS))
    result = []
    for engine in ENGINES:
        backend = create_backend(engine, options_for(engine, tmp_path))
        session = backend.load(model_path(toy_bundle, "predictor", backend), predictor_shapes(5))
        session.inputs["history_latents"][:] = latents
        session.inputs["actions"][:] = actions
        result.append(session.run()["futures"].copy())
    assert result[0].shape == (5, HORIZON, TOKENS, DIM)
    assert result[0] == pytest.approx(result[1], abs=1e-5)
    assert result[0] == pytest.approx(result[2], abs=1e-5)


def test_buffers_are_written_and_read_in_place(backend: Backend, toy_bundle: Path) -> None:
    session = backend.load(model_path(toy_bundle, "predictor", backend), predictor_shapes(3))
    actions, futures = session.inputs["actions"], session.outputs["futures"]
    assert actions.shape == (3, HORIZON, ACTIONS) and actions.dtype == np.float32
    session.inputs["history_latents"][:] = 0.5
    results = []
    for value in (0.0, 1.0):
        actions[:] = value
        assert session.run()["futures"] is futures
        results.append(futures.copy())
    assert not np.allclose(*results)


def test_graph_from_memory_equals_the_graph_from_a_file(backend: Backend, toy_bundle: Path) -> None:
    path = model_path(toy_bundle, "encoder", backend)
    graph = Graph.read(path)
    assert (graph.weights is not None) == (path.suffix == ".xml")
    outputs = []
    for source in (path, replace(graph, precision="fp32")):
        session = backend.load(source, FRAME)
        session.inputs["frame"][:] = 77
        outputs.append(session.run()["latent"].copy())
    assert outputs[0] == pytest.approx(outputs[1], abs=1e-6)


def test_wrong_input_name_is_an_error(backend: Backend, toy_bundle: Path) -> None:
    with pytest.raises(BackendError, check=code("backend.graph_mismatch")):
        backend.load(model_path(toy_bundle, "encoder", backend), {"image": (1, SIZE, SIZE, 3)})


@pytest.mark.parametrize("shape", [(1, SIZE, SIZE + 1, 3), (1, SIZE, SIZE), (2, SIZE, SIZE, 3)])
def test_wrong_shape_error_names_the_tensor(
    backend: Backend, toy_bundle: Path, shape: tuple[int, ...]
) -> None:
    with pytest.raises(BackendError, check=code("backend.shape_mismatch")):
        backend.load(model_path(toy_bundle, "encoder", backend), {"frame": shape})


@pytest.mark.parametrize("content", [b"", b"<xml", b"\x00" * 100], ids=["empty", "xml", "zeros"])
def test_damaged_graph_error_names_the_file(backend: Backend, content: bytes) -> None:
    with pytest.raises(BackendError, check=code("backend.graph_invalid")):
        backend.load(Graph("the graph", content), FRAME)


def test_missing_file_is_an_error(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(BackendError, check=code("backend.graph_unreadable")):
        backend.load(tmp_path / "model.onnx", FRAME)


_LOADS = """
import ctypes, gc, sys
from pathlib import Path
from jepa_runtime.backends.base import BackendOptions, Graph
from jepa_runtime.backends.registry import create_backend

def own_mb():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))

folder = Path(sys.argv[1])
backend = create_backend("openvino:CPU", BackendOptions(cache_dir=folder / "cache"))
before = own_mb()
graph = Graph.read(folder / "model.xml")
session = backend.load(graph, {"x": (1, 2048)})
del graph
session.run()
print(own_mb() - before)
"""


def test_first_start_needs_no_more_memory_than_later_ones(tmp_path: Path) -> None:
    """64 MB of weights, of which a freshly compiled model has a second copy."""
    x = ops.parameter([1, 2048], np.float32, name="x")
    weights = np.random.default_rng(0).standard_normal((2048, 8192), np.float32)
    product = ops.matmul(x, ops.constant(weights), False, False)
    x.output(0).get_tensor().set_names({"x"})
    product.output(0).get_tensor().set_names({"product"})
    openvino.save_model(
        openvino.Model([ops.result(product)], [x]), tmp_path / "model.xml", compress_to_fp16=False
    )
    command = [sys.executable, "-c", _LOADS, str(tmp_path)]
    first, second = (
        int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        for _ in range(2)
    )
    assert 60 < second < 100 and first < second + 16


@pytest.mark.parametrize("options", [{"threads": None}, {"threads": 2}])
@pytest.mark.parametrize("engine", ENGINES)
def test_options_leave_the_outputs_unchanged(
    toy_bundle: Path, tmp_path: Path, engine: str, options: dict[str, Any]
) -> None:
    backend = create_backend(engine, options_for(engine, tmp_path, **options))
    session = backend.load(model_path(toy_bundle, "encoder", backend), FRAME)
    session.inputs["frame"][0] = Bundle.open(toy_bundle).golden().frames[0]
    assert session.run()["latent"] == pytest.approx(Bundle.open(toy_bundle).golden().latents[:1], abs=1e-4)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
@pytest.mark.parametrize("threads", [1, 2])
def test_inference_leaves_its_thread_on_the_cores_of_the_process(toy_bundle: Path, threads: int) -> None:
    """A pinned thread would wait for other processes on its core while another core is idle."""
    seen: set[frozenset[int]] = set()
    done = threading.Event()

    def infer() -> None:
        backend = create_backend("openvino:CPU", BackendOptions(threads=threads))
        path = model_path(toy_bundle, "predictor", backend)
        session = backend.load(path, predictor_shapes(4096))
        for _ in range(50):
            session.run()
        session.close()
        backend.close()
        done.set()

    thread = threading.Thread(target=infer)
    thread.start()
    while not done.wait(0.001):
        with suppress(ProcessLookupError):
            seen.add(frozenset(os.sched_getaffinity(thread.native_id or 0)))
    thread.join()
    assert seen == {frozenset(os.sched_getaffinity(0))}


@pytest.mark.parametrize("count", [32, 48, 64, 33, 16])
def test_rows_can_be_split_among_threads(toy_bundle: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    inputs = {name: rng.standard_normal(shape) for name, shape in predictor_shapes(count).items()}
    result = []
    for threads in (1, 3):
        backend = create_backend("openvino:CPU", BackendOptions(threads=threads))
        path = model_path(toy_bundle, "predictor", backend)
        session = backend.load(path, predictor_shapes(count), rows=("actions",))
        for _ in range(2):
            for name, values in inputs.items():
                session.inputs[name][:] = values
            futures = session.run()["futures"].copy()
        assert futures.shape[0] == count
        result.append(futures)
        session.close()
        backend.close()
    assert result[0] == pytest.approx(result[1], abs=1e-5)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("tensor:GPU", "backend.engine_unknown"),
        ("tensorrt:GPU", "backend.device_not_found"),
        ("tensorrt:3", "backend.device_not_found"),
        ("openvino:NPU", "backend.device_not_found"),
        ("openvino:AUTO", "backend.device_not_found"),
        ("onnxruntime:CUDA", "backend.device_not_found"),
        ("", "backend.engine_unknown"),
        ("openvino:NPU,openvino:CPU", "backend.several_engines"),
    ],
)
def test_create_backend_with_an_unusable_engine_does_not_fall_back(engine: str, expected: str) -> None:
    if engine == "openvino:NPU" and "NPU" in pytest.importorskip("openvino").Core().available_devices:
        pytest.skip("this machine has an NPU")
    with pytest.raises(BackendError, check=code(expected)):
        create_backend(engine)


def test_missing_library_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from jepa_runtime.backends import create_backend\n"
        "create_backend('openvino:CPU')\n"
        "create_backend('onnxruntime:CPU')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("jepa_runtime.errors.BackendError: engine onnxruntime is not installed")
    assert "pip install 'jepa-edge[onnxruntime]'" in last


def test_threads_must_be_positive() -> None:
    with pytest.raises(BackendError, check=code("backend.option_invalid")):
        BackendOptions(threads=0)


def test_layers_have_names_and_times(backend: Backend, toy_bundle: Path) -> None:
    graph = Graph.read(model_path(toy_bundle, "encoder", backend))
    layers = backend.layer_times(graph, FRAME, 3)
    assert layers
    assert all(layer.name and layer.kind and layer.implementation for layer in layers)
    assert sum(layer.mean_ms for layer in layers) > 0


def test_plugins_of_other_devices_are_not_loaded_on_a_cpu(toy_bundle: Path) -> None:
    pytest.importorskip("openvino")
    code = (
        "from jepa_runtime import WorldModel\n"
        f"with WorldModel.open({str(toy_bundle)!r}):\n"
        "    maps = open('/proc/self/maps').read()\n"
        "print([name in maps for name in ('_cpu_plugin', '_gpu_plugin', '_npu_plugin')])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip().splitlines()[-1] == "[True, False, False]"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_signal_after_opening_and_closing_models_kills_nothing(
    toy_bundle: Path, order: tuple[int, int]
) -> None:
    program = (
        "import os, signal\n"
        "from jepa_runtime import WorldModel\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))\n"
        f"models = [WorldModel.open({str(toy_bundle)!r}) for _ in range(2)]\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        f"for index in {order}:\n"
        "    models[index].close()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "handled"]), done.stderr
