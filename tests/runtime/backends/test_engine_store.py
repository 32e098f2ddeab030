"""The cache of TensorRT engines, on a simulated GPU and library: built, found, and never loaded untrusted."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.backends import Backend, BackendOptions, Graph, create_backend
from jepa_runtime.errors import BackendError
from tests.bundles import SIZE
from tests.errors import code
from tests.runtime.backends.simulated_gpu import SimulatedGpu
from tests.runtime.backends.simulated_tensorrt import ILogger, SimulatedTensorRT

FRAME = {"frame": (1, SIZE, SIZE, 3)}
ENERGY = {"latents": (4, 2, 8), "goal": (1, 2, 8)}


@pytest.fixture
def energy(toy_bundle: Path) -> Graph:
    return Graph.read(toy_bundle / "energy" / "onnx" / "model.onnx")


def test_missing_engine_error_says_how_to_build_one(
    opened: Callable[..., Backend], encoder: Graph, tensorrt: SimulatedTensorRT
) -> None:
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)
    assert tensorrt.builds == 0


def test_engine_is_built_once_and_found_without_build_permission(
    opened: Callable[..., Backend], encoder: Graph, tensorrt: SimulatedTensorRT
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    opened(build=True).load(encoder, FRAME).close()
    session = opened().load(encoder, FRAME)
    assert tensorrt.builds == 1
    assert np.isfinite(session.run()["latent"]).all()


def test_build_uses_the_free_memory_and_half_of_it_per_layer(
    opened: Callable[..., Backend], encoder: Graph, energy: Graph, tensorrt: SimulatedTensorRT
) -> None:
    backend = opened(build=True)
    serves = backend.load(encoder, FRAME)
    free = SimulatedGpu.memory_bytes - sum(
        array.nbytes for array in (*serves.inputs.values(), *serves.outputs.values())
    )
    backend.load(energy, ENERGY)
    assert tensorrt.limits == {"tactics": free, "workspace": free // 2}


def test_build_measurements_are_reused_by_the_next_build(
    opened: Callable[..., Backend], encoder: Graph, energy: Graph, tmp_path: Path
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    opened(build=True).load(energy, ENERGY).close()
    assert (tmp_path / "engines" / "tensorrt.timings").read_bytes() == b"measured;measured;"


def test_engine_is_stored_next_to_its_description(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    (about,) = (tmp_path / "engines").glob("*.json")
    output = json.loads(about.read_text())
    assert (output["library"], output["version"], output["gpu"]) == ("tensorrt", "10.3.0", "Simulated GPU")
    assert output["compute_capability"] == "8.7" and output["driver"] == "12.6"
    assert json.loads(about.with_suffix(".layers").read_text()) == {"Layers": ["simulated"]}
    assert output["build_s"] >= 0
    assert about.with_suffix(".engine").stat().st_size == output["bytes"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("driver", "13.0", "built for driver 12.6, this is 13.0"),
        ("name", "Other GPU", "built for gpu Simulated GPU, this is Other GPU"),
        ("compute_capability", (11, 0), "built for compute capability 8.7, this is 11.0"),
        ("multiprocessors", 4, "built for multiprocessors 8, this is 4"),
    ],
)
def test_engine_of_another_machine_is_reported_and_replaced(
    opened: Callable[..., Backend],
    encoder: Graph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: Any,
    expected: str,
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    monkeypatch.setattr(SimulatedGpu, name, value)
    with pytest.raises(BackendError, match=expected, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)
    with caplog.at_level(logging.WARNING):
        opened(build=True).load(encoder, FRAME).close()
    assert expected in caplog.text and "building its engine" in caplog.text
    # Another GPU or power mode may be used again; the previous driver of this GPU is not.
    left = 2 if name in ("name", "multiprocessors") else 1
    assert len(list((tmp_path / "engines").glob("*.engine"))) == left


@pytest.mark.parametrize("version", ["8.6.2", "10.2.0.post1"])
def test_library_version_without_required_features_is_reported(
    opened: Callable[..., Backend], tensorrt: SimulatedTensorRT, version: str
) -> None:
    """The first is the version of JetPack 6.0."""
    tensorrt.__version__ = version
    with pytest.raises(BackendError, check=code("backend.version_unsupported")):
        opened()


@pytest.mark.parametrize("kind", ["Runtime", "Builder"])
def test_library_that_does_not_start_on_the_driver_is_reported(
    opened: Callable[..., Backend],
    encoder: Graph,
    tensorrt: SimulatedTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """With a CUDA that is too new for the driver, pybind11 raises a TypeError."""

    def start(logger: Any) -> Any:
        logger.log(ILogger.WARNING, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(tensorrt, kind, start)
    with pytest.raises(BackendError, check=code("backend.version_unsupported")):
        opened(build=True).load(encoder, FRAME)


def test_restored_power_mode_finds_its_engine(
    opened: Callable[..., Backend],
    encoder: Graph,
    tensorrt: SimulatedTensorRT,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for at_work in (16, 8, 16, 8):
        monkeypatch.setattr(SimulatedGpu, "multiprocessors", at_work)
        opened(build=True).load(encoder, FRAME).close()
    assert tensorrt.builds == 2


def test_engine_of_another_version_is_reported(
    opened: Callable[..., Backend], encoder: Graph, tensorrt: SimulatedTensorRT
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    tensorrt.__version__ = "10.16.2"
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)


def test_build_error_contains_the_message_of_the_library(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path
) -> None:
    """As after an update of the library that did not change its version."""
    opened(build=True).load(encoder, FRAME).close()
    (path,) = (tmp_path / "engines").glob("*.engine")
    content = path.read_bytes().replace(b"10.3.0", b"10.3.1", 1)
    from jepa_runtime.backends.tensorrt.engine_store import EngineStore

    backend = opened()
    key = backend._key(encoder, FRAME)  # type: ignore[attr-defined]
    EngineStore([tmp_path / "engines"]).store(key, content, layers="{}")
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        backend.load(encoder, FRAME)


@pytest.mark.parametrize("damage", [b"", b"\0" * 64])
def test_damaged_engine_is_not_loaded(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path, damage: bytes
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    (path,) = (tmp_path / "engines").glob("*.engine")
    path.write_bytes(damage)
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)
    opened(build=True).load(encoder, FRAME).close()
    opened().load(encoder, FRAME).close()


def test_engine_writable_by_others_is_not_loaded(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    (path,) = (tmp_path / "engines").glob("*.engine")
    path.chmod(0o666)
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)


@pytest.mark.parametrize("mode", [0o775, 0o1777], ids=["of one's own group", "sticky"])
def test_engine_is_loaded_only_from_a_folder_that_others_cannot_modify(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path, mode: int
) -> None:
    """As a folder created with umask 002."""
    opened(build=True).load(encoder, FRAME).close()
    (tmp_path / "engines").chmod(mode)
    opened().load(encoder, FRAME).close()


def test_folder_writable_by_others_is_not_trusted(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    (tmp_path / "engines").chmod(0o777)
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)


def test_engine_under_the_name_of_another_is_not_loaded(
    opened: Callable[..., Backend], encoder: Graph, toy_bundle: Path, tmp_path: Path
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    (right,) = (tmp_path / "engines").glob("*.json")
    energy = Graph.read(toy_bundle / "energy" / "onnx" / "model.onnx")
    opened(build=True).load(energy, {"latents": (4, 2, 8), "goal": (1, 2, 8)}).close()
    (other,) = set((tmp_path / "engines").glob("*.json")) - {right}
    for suffix in (".json", ".engine"):
        other.with_suffix(suffix).replace(right.with_suffix(suffix))
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)


def test_engines_of_another_library_are_retained(
    opened: Callable[..., Backend], encoder: Graph, tensorrt: SimulatedTensorRT, tmp_path: Path
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    tensorrt.__name__ = "tensorrt_rtx_bindings"
    opened(build=True).load(encoder, FRAME).close()
    tensorrt.__name__ = "tensorrt"
    opened().load(encoder, FRAME).close()


def test_most_recently_used_engines_are_retained_in_a_full_folder(
    opened: Callable[..., Backend],
    encoder: Graph,
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines = tmp_path / "engines"
    opened(build=True).load(encoder, FRAME).close()
    (first,) = engines.glob("*.engine")
    os.utime(first, (1, 1))
    monkeypatch.setattr("jepa_runtime.backends.tensorrt.engine_store.MAX_BYTES", first.stat().st_size)
    energy = Graph.read(toy_bundle / "energy" / "onnx" / "model.onnx")
    opened(build=True).load(energy, {"latents": (4, 2, 8), "goal": (1, 2, 8)}).close()
    assert not first.exists() and len(list(engines.glob("*.engine"))) == 1


def test_leftovers_of_a_killed_builder_are_removed_by_the_next(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path
) -> None:
    (tmp_path / "engines").mkdir(mode=0o755)
    (tmp_path / "engines" / ".abc.tmp").write_bytes(b"half an engine")
    opened(build=True).load(encoder, FRAME).close()
    assert not list((tmp_path / "engines").glob(".*.tmp"))


def test_concurrent_build_waits_and_finds_the_engine(
    tensorrt: SimulatedTensorRT, encoder: Graph, tmp_path: Path
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(*_: Any) -> bool:
        started.set()
        return go_on.wait(20)

    def build(progress: Callable[..., bool]) -> None:
        backend = create_backend("tensorrt", BackendOptions(cache_dir=tmp_path, build=progress))
        backend.load(encoder, FRAME).close()
        backend.close()

    threads = [
        threading.Thread(target=build, args=(slow,)),
        threading.Thread(target=build, args=(lambda *_: True,)),
    ]
    threads[0].start()
    assert started.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert tensorrt.builds == 1


def test_engine_behind_a_link_is_not_loaded(
    opened: Callable[..., Backend], encoder: Graph, tmp_path: Path
) -> None:
    opened(build=True).load(encoder, FRAME).close()
    (path,) = (tmp_path / "engines").glob("*.engine")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        opened().load(encoder, FRAME)


def test_stopped_build_leaves_nothing(tensorrt: SimulatedTensorRT, encoder: Graph, tmp_path: Path) -> None:
    messages: list[tuple[str, str, int, int]] = []

    def stop(*progress: Any) -> bool:
        messages.append(progress)
        return progress[2] < 1

    backend = create_backend("tensorrt", BackendOptions(cache_dir=tmp_path, build=stop))
    with pytest.raises(BackendError, check=code("backend.build_failed")):
        backend.load(encoder, FRAME)
    assert messages == [(encoder.name, "Building", 0, 2), (encoder.name, "Building", 1, 2)]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("planted")])
def test_exception_during_a_build_ends_it_and_propagates(
    tensorrt: SimulatedTensorRT, encoder: Graph, tmp_path: Path, error: BaseException
) -> None:
    def fail(*_: Any) -> bool:
        raise error

    backend = create_backend("tensorrt", BackendOptions(cache_dir=tmp_path, build=fail))
    with pytest.raises(type(error)):
        backend.load(encoder, FRAME)
    assert tensorrt.builds == 0


def test_unwritable_folder_is_reported(tensorrt: SimulatedTensorRT, encoder: Graph, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = BackendOptions(cache_dir=tmp_path / "file", build=lambda *_: True)
    with pytest.raises(BackendError, check=code("backend.cache_invalid")):
        create_backend("tensorrt", options).load(encoder, FRAME)


def test_unreadable_folder_is_reported(tensorrt: SimulatedTensorRT, encoder: Graph, tmp_path: Path) -> None:
    # Stands for an inaccessible file of another account: a name that is too long fails for root too.
    options = BackendOptions(cache_dir=tmp_path / ("x" * 256))
    with pytest.raises(BackendError, check=code("backend.engine_not_built")):
        create_backend("tensorrt", options).load(encoder, FRAME)


def test_folder_of_another_account_gets_no_engine(
    tensorrt: SimulatedTensorRT, encoder: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As root in the cache of a service, which could not build there afterwards.
    uid = os.geteuid()
    monkeypatch.setattr("jepa_runtime.backends.tensorrt.engine_store.os.geteuid", lambda: uid + 1)
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    with pytest.raises(BackendError, check=code("backend.cache_invalid")):
        create_backend("tensorrt", options).load(encoder, FRAME)
    assert not list(tmp_path.iterdir()) and tensorrt.builds == 0
