"""TensorRT, or TensorRT for RTX, on a real GPU: pytest -m hardware."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BackendError
from jepa_runtime.model.parity import golden_parity

pytestmark = [pytest.mark.hardware, pytest.mark.timeout(1200)]
INFERENCES = 100_000
# The smallest allocation of the driver.
LEAST_LEAK_BYTES = 512


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def engine(request: pytest.FixtureRequest) -> str:
    needed = {"tensorrt": ["tensorrt"], "tensorrt_rtx": ["tensorrt_rtx_libs", "tensorrt_rtx_bindings"]}
    for library in needed[request.param]:
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    cuda = pytest.importorskip(
        "jepa_runtime.backends.tensorrt.cuda",
        reason="pycuda cannot be imported (extra jetson)",
        exc_type=ImportError,
    )
    try:
        cuda.Cuda(0).close()
    except BackendError as error:
        pytest.skip(str(error))
    name: str = request.param
    return name


def test_bundle_reproduces_its_golden_outputs(engine: str, toy_bundle: Path, tmp_path: Path) -> None:
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    parities = golden_parity(Bundle.open(toy_bundle), engine=engine, options=options)
    assert len(parities) == 3 and all(parity.ok for parity in parities), parities


def test_shipped_bundle_reproduces_its_golden_outputs(
    engine: str, two_rooms_bundle: Path, tmp_path: Path
) -> None:
    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    assert all(
        parity.ok for parity in golden_parity(Bundle.open(two_rooms_bundle), engine=engine, options=options)
    )


def test_many_inferences_use_no_more_memory_than_few(engine: str, toy_bundle: Path, tmp_path: Path) -> None:
    import pycuda.driver as driver

    options = BackendOptions(cache_dir=tmp_path, build=lambda *_: True)
    rng = np.random.default_rng(0)
    with WorldModel.open(toy_bundle, engine=engine, options=options) as model:
        frames = rng.integers(0, 256, (8, 48, 64, 3), np.uint8)
        actions = rng.uniform(-1, 1, (8, 4, 2)).astype(np.float32)

        def run(times: int) -> int:
            for turn in range(times):
                model.encode(frames[turn % len(frames)])
                model.predict(actions)
            free, _ = driver.mem_get_info()
            return int(free)

        free = run(100)
        # On a Jetson it is the memory of all processes.
        assert run(INFERENCES // 2) > free - INFERENCES * LEAST_LEAK_BYTES / 2
