"""TensorRT sessions on a simulated GPU and library: one launch per run, no leaked memory."""

from __future__ import annotations

import gc
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.backends import Backend, BackendOptions, Graph
from jepa_runtime.backends.base import ScalingSession
from jepa_runtime.backends.tensorrt.backend import TensorRTSession
from jepa_runtime.backends.tensorrt.kernels import fatbin_name
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.errors import BackendError, DeviceLostError, FrameError
from jepa_runtime.imaging.conversion import resize_into
from jepa_runtime.model.parity import golden_parity
from tests.bundles import DIM, SIZE, TOKENS
from tests.errors import code
from tests.runtime.backends.simulated_gpu import SimulatedGpu
from tests.runtime.backends.simulated_tensorrt import SimulatedTensorRT

FRAME = {"frame": (1, SIZE, SIZE, 3)}


def gpu_of(backend: Backend) -> SimulatedGpu:
    gpu: SimulatedGpu = backend._gpu  # type: ignore[attr-defined]
    return gpu


def test_run_is_one_launch_timed_by_the_device(opened: Callable[..., Backend], encoder: Graph) -> None:
    backend = opened(build=True)
    session = backend.load(encoder, FRAME)
    session.run()
    assert gpu_of(backend).launches[-1] == 1
    assert session.device_ms == 0.25  # type: ignore[attr-defined]


def test_run_without_graph_recording_is_reported_and_succeeds(
    opened: Callable[..., Backend],
    encoder: Graph,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = opened(build=True).load(encoder, FRAME).run()["latent"].copy()
    monkeypatch.setattr(SimulatedGpu, "records", False)
    with caplog.at_level(logging.WARNING):
        session = opened().load(encoder, FRAME)
    assert "cannot capture a CUDA graph (CUDA: cuStreamEndCapture failed" in caplog.text
    assert session.run()["latent"] == pytest.approx(expected)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate compiled kernels."""
    (tmp_path / fatbin_name()).touch()
    monkeypatch.setattr(
        "jepa_runtime.backends.tensorrt.backend.find_fatbin", lambda: tmp_path / fatbin_name()
    )


def test_gpu_scales_images_of_changing_sizes(
    opened: Callable[..., Backend], encoder: Graph, kernels: None
) -> None:
    backend = opened(build=True)
    session = backend.load(encoder, FRAME)
    assert isinstance(session, ScalingSession)
    rng = np.random.default_rng(0)
    for size in ((48, 64), (48, 64), (96, 80), (SIZE, SIZE)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        assert session.scale(image)
        # The caller may reuse its array immediately.
        stored = image.copy()
        image[:] = 0
        scaled = session.run()["latent"].copy()
        assert gpu_of(backend).launches[-1] == 1
        resize_into(stored, session.inputs["frame"][0])
        assert session.run()["latent"] == pytest.approx(scaled)


def test_input_buffer_is_used_when_no_image_is_given(
    opened: Callable[..., Backend], encoder: Graph, kernels: None
) -> None:
    session = opened(build=True).load(encoder, FRAME)
    session.inputs["frame"][:] = 9
    expected = session.run()["latent"].copy()
    session.scale(np.full((48, 64, 3), 200, np.uint8))  # type: ignore[attr-defined]
    assert session.run()["latent"] != pytest.approx(expected)
    assert session.run()["latent"] == pytest.approx(expected)


def test_images_of_two_alternating_sizes_are_prepared_once_each(
    opened: Callable[..., Backend], encoder: Graph, kernels: None
) -> None:
    backend = opened(build=True)
    session = backend.load(encoder, FRAME)
    images = [np.full((48, 64, 3), 9, np.uint8), np.full((96, 80, 3), 200, np.uint8)]
    runs = len(gpu_of(backend).launches)
    for turn in range(10):
        session.scale(images[turn % 2])  # type: ignore[attr-defined]
        session.run()
    assert len(gpu_of(backend).launches) == runs + 10 + 2
    for side in range(40, 60):
        session.scale(np.zeros((side, side, 3), np.uint8))  # type: ignore[attr-defined]
    assert len(session._images) == 8  # type: ignore[attr-defined]


def test_image_size_that_cannot_be_prepared_leaves_nothing(
    opened: Callable[..., Backend], encoder: Graph, kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Any = opened(build=True).load(encoder, FRAME)
    first, second = np.full((48, 64, 3), 9, np.uint8), np.full((96, 80, 3), 200, np.uint8)
    session.scale(first)
    of_first = session.run()["latent"].copy()
    with monkeypatch.context() as broken:
        broken.setattr(
            SimulatedGpu,
            "run",
            lambda *_: (_ for _ in ()).throw(BackendError("planted", code="test.planted")),
        )
        with pytest.raises(BackendError, check=code("test.planted")):
            session.scale(second)
    assert session.scale(second)
    assert session.run()["latent"] != pytest.approx(of_first)
    session.scale(first)
    assert session.run()["latent"] == pytest.approx(of_first)


def test_model_that_cannot_be_opened_leaves_no_memory(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus: list[SimulatedGpu] = []
    created = SimulatedGpu.__init__

    def remember(self: SimulatedGpu, index: int) -> None:
        gpus.append(self)
        created(self, index)

    monkeypatch.setattr(SimulatedGpu, "__init__", remember)
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    WorldModel.open(toy_bundle, engine="tensorrt", options=options).close()
    needed = 0
    while True:
        monkeypatch.setattr(SimulatedGpu, "memory_bytes", needed)
        try:
            WorldModel.open(toy_bundle, engine="tensorrt", options=options).close()
        except BackendError as error:
            assert "out of GPU memory" in str(error)
            needed += 1024
        else:
            break
    assert needed > 4096 and len(gpus) > 5
    assert not any(gpu.leaked or gpu.is_open for gpu in gpus)


def test_image_too_large_for_the_kernel_is_scaled_on_the_cpu(
    opened: Callable[..., Backend], encoder: Graph, kernels: None
) -> None:
    session = opened(build=True).load(encoder, FRAME)
    assert not session.scale(np.zeros((1, 20_000, 3), np.uint8))  # type: ignore[attr-defined]
    assert session.scale(np.zeros((48, 64, 3), np.uint8))  # type: ignore[attr-defined]


def test_scaling_without_compiled_kernels_uses_the_cpu_and_is_reported(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    with (
        caplog.at_level(logging.WARNING),
        WorldModel.open(toy_bundle, engine="tensorrt", options=options) as model,
    ):
        assert "resizing images on the CPU: preprocess-" in caplog.text
        result = model.encode(frame)
    with WorldModel.open(toy_bundle) as model:
        assert result == pytest.approx(model.encode(frame), abs=1e-4)


def test_model_scales_its_images_on_the_gpu(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path, kernels: None
) -> None:
    options = BackendOptions(cache_dir=tmp_path / "engines", build=lambda *_: True)
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    with WorldModel.open(toy_bundle, engine="tensorrt", options=options) as model:
        result = model.encode(frame)
        session: Any = model._sessions.encoder  # type: ignore[union-attr]
        assert frame.shape in session._images
        with pytest.raises(FrameError):
            model.encode(frame[..., 0])
    with WorldModel.open(toy_bundle) as model:
        assert result == pytest.approx(model.encode(frame), abs=1e-4)


def test_energies_are_computed_in_the_memory_of_the_futures(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path
) -> None:
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    golden = Bundle.open(toy_bundle).golden()
    goal = golden.goal[0]
    with WorldModel.open(toy_bundle, engine="tensorrt", num_samples=16, options=options) as model:
        sessions: Any = model._sessions
        assert list(sessions.energy_of_futures.inputs) == ["goal"]
        futures = model.predict(golden.actions, latents=golden.latents[0], goal=goal)
        assert futures.energies == pytest.approx(model.energy(futures.latents, goal), rel=1e-5)
        short = model.predict(golden.actions[:3, :2], latents=golden.latents[1], goal=goal)
        assert short.energies == pytest.approx(model.energy(short.latents, goal), rel=1e-5)
        gpu = gpu_of(model._backend)
    assert gpu.used_bytes == 0 and not gpu.leaked


def test_energies_of_wrong_futures_are_detected_by_the_golden_outputs(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(toy_bundle, tmp_path / "toy")
    fields = Bundle.open(toy_bundle).manifest.model_dump(mode="json")
    bundle = seal(folder, fields | {"num_samples": 16})

    def refused() -> list[str]:
        options = BackendOptions(cache_dir=tmp_path / "engines", build=lambda *_: True)
        result = golden_parity(bundle, engine="tensorrt", options=options)
        return [each.graph for each in result if not each.ok]

    assert refused() == []
    link, others = TensorRTSession.link, []

    def to_another(self: TensorRTSession, name: str, source: Any, output: str) -> TensorRTSession | None:
        others.append(TensorRTSession(*source._made_of))
        return link(self, name, others[-1], output)

    monkeypatch.setattr(TensorRTSession, "link", to_another)
    assert refused() == ["energy"]
    for each in others:
        each.close()


def test_energies_with_different_sizes_are_computed(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path
) -> None:
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    golden = Bundle.open(toy_bundle).golden()
    with WorldModel.open(toy_bundle, engine="tensorrt", num_samples=5, options=options) as model:
        assert model._sessions is not None and model._sessions.energy_of_futures is None
        futures = model.predict(golden.actions[:5], latents=golden.latents[0], goal=golden.goal[0])
        assert futures.energies == pytest.approx(model.energy(futures.latents, golden.goal[0]), rel=1e-5)


def test_insufficient_memory_is_reported(
    opened: Callable[..., Backend], encoder: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedGpu, "memory_bytes", 100)
    with pytest.raises(BackendError, check=code("backend.out_of_memory")):
        opened(build=True).load(encoder, FRAME)


def test_failed_inference_error_names_the_graph(
    opened: Callable[..., Backend], encoder: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(build=True).load(encoder, FRAME)

    def fail(self: SimulatedGpu, work: Any) -> float:
        raise DeviceLostError("the GPU failed: an illegal memory access was encountered")

    monkeypatch.setattr(SimulatedGpu, "run", fail)
    with pytest.raises(DeviceLostError, check=code("backend.device_lost")):
        session.run()


def test_close_frees_all_memory(opened: Callable[..., Backend], encoder: Graph) -> None:
    backend = opened(build=True)
    gpu = gpu_of(backend)
    for _ in range(3):
        session = backend.load(encoder, FRAME)
        session.run()
        assert gpu.used_bytes > 0
        session.close()
        session.close()
        # The garbage collector may run on another thread, where CUDA cannot release memory.
        gc.disable()
        try:
            assert gpu.used_bytes == 0
        finally:
            gc.enable()
    backend.close()
    backend.close()
    assert not gpu.is_open
    with pytest.raises(BackendError, check=code("backend.closed")):
        session.run()
    with pytest.raises(BackendError, check=code("backend.closed")):
        backend.load(encoder, FRAME)


def test_another_thread_is_rejected(opened: Callable[..., Backend], encoder: Graph) -> None:
    session = opened(build=True).load(encoder, FRAME)
    message: list[BaseException] = []

    def elsewhere() -> None:
        try:
            session.run()
        except BackendError as error:
            message.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "another thread opened it" in str(message[0])


def test_bundle_serves_and_reproduces_its_golden_outputs(
    tensorrt: SimulatedTensorRT, pose_bundle: Path, tmp_path: Path
) -> None:
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    parities = golden_parity(Bundle.open(pose_bundle), engine="tensorrt", options=options)
    assert [parity.graph for parity in parities] == [
        "encoder", "predictor", "energy", "relative_pose",
    ]  # fmt: skip
    assert all(parity.ok for parity in parities)
    with WorldModel.open(
        pose_bundle, engine="tensorrt:0", options=BackendOptions(cache_dir=tmp_path)
    ) as model:
        assert np.isfinite(model.encode(np.zeros((48, 64, 3), np.uint8))).all()
        assert model.goal_pose(np.zeros((TOKENS, DIM), np.float32)) is not None
