"""The shipped bundles match their manifests and reports."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import Bundle, BundleError, WorldModel
from jepa_runtime.bundle import Target
from jepa_runtime.cli import main
from jepa_runtime.model.parity import golden_parity
from tests.errors import code

SHIPPED = Path(__file__).resolve().parent.parent / "models" / "two_rooms"
GOAL = 0.90


@pytest.fixture(scope="module")
def report() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    content: dict[str, dict[str, dict[str, dict[str, float]]]] = Bundle.open(SHIPPED).report()
    return content


def test_shipped_bundle_is_small_enough() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 7_000_000


def test_shipped_bundle_verifies_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(SHIPPED)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize(
    ("target", "engine", "graphs"),
    [
        ("tensorrt", "onnxruntime:CPU", ["encoder", "predictor", "energy"]),
        ("npu", "openvino:CPU", ["encoder", "predictor", "step", "energy"]),
    ],
)
def test_shipped_device_variants_compute_the_golden_outputs(
    target: Target, engine: str, graphs: list[str], precision: str
) -> None:
    reports = golden_parity(Bundle.open(SHIPPED), engine=engine, precision=precision, target=target)
    assert [parity.graph for parity in reports if parity.ok] == graphs
    assert all(parity.min_cosine > (0.999 if precision == "int8" else 0.99999) for parity in reports)


def test_changed_weight_is_detected(tmp_path: Path) -> None:
    copy = tmp_path / "two_rooms"
    shutil.copytree(SHIPPED, copy)
    weights = copy / "predictor" / "openvino" / "model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)

    with pytest.raises(BundleError, check=code("bundle.hash_mismatch")):
        Bundle.open(copy)


def test_few_candidates_do_not_crash_the_engine() -> None:
    # In a separate process, since the fault ends the process.
    code = (
        "import numpy as np; from jepa_runtime import WorldModel\n"
        f"model = WorldModel.open({str(SHIPPED)!r}, num_samples=4)\n"
        "model.encode(np.zeros((128, 128, 3), np.uint8))\n"
        "print(model.predict(np.zeros((4, 8, 2), np.float32)).latents.shape)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "(4, 8, 2, 16)", done.stderr


def test_standing_still_changes_nothing_and_moving_does() -> None:
    rng = np.random.default_rng(0)
    from jepa_sim.worlds import TwoRooms

    with WorldModel.open(SHIPPED) as model:
        latent = model.encode(TwoRooms(seed=1).render())
        actions = np.zeros((2, 8, 2), np.float32)
        actions[1] = rng.uniform(-1, 1, 2)
        futures = model.predict(actions).latents

    moved = np.abs(futures[:, -1, 1] - latent[1]).max(axis=1)

    assert moved[0] < 0.25 < moved[1]


def test_shipped_report_meets_the_goals(
    report: dict[str, dict[str, dict[str, dict[str, float]]]],
) -> None:
    scores = report["closed_loop"]["scores"]

    assert min(score["episodes"] for score in scores.values()) >= 300
    assert scores["fp32"]["rate"] >= GOAL
    assert scores["int8"]["rate"] >= scores["fp32"]["rate"] - 0.01
    assert scores["int8"]["plan_ms_p50"] < 100
