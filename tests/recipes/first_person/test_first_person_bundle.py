"""The bundle of a first-person model: it opens, describes itself, and computes what the networks compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_recipes.first_person.exported_graphs import EnergyGraph, PredictorGraph, RelativePoseGraph
from jepa_recipes.first_person.metrics import DriveMetrics
from jepa_recipes.first_person.networks import Networks
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.model.parity import golden_parity


def test_bundle_describes_robot_and_camera(written: tuple[Path, DriveMetrics]) -> None:
    folder, metrics = written
    manifest = Bundle.open(folder).manifest
    assert (manifest.model_id, manifest.version, manifest.trained) == ("first_person", "0.0.1", True)
    assert (manifest.io.frame.height, manifest.io.frame.width) == (72, 96)
    assert (manifest.io.action.names, manifest.io.action.low) == (("linear.x", "angular.z"), (-0.2, -1.5))
    assert (manifest.history_size, manifest.horizon, manifest.num_samples) == (2, 4, 9)
    assert manifest.io.step_s == 0.3
    assert list(manifest.error_bounds) == metrics.error_bounds
    assert manifest.goal_threshold == metrics.goal_threshold
    report = Bundle.open(folder).report()
    assert set(report["open_loop"]) == {"unchanged_bounds", "reached", "readings"}
    assert report["int8"][0]["graph"] == "encoder"
    assert report["int8_readings"].keys() == report["open_loop"]["readings"].keys()


def test_int8_bundle_reads_in_fp32(written: tuple[Path, DriveMetrics]) -> None:
    graphs = Bundle.open(written[0]).manifest.graphs
    assert [(each.target, each.precision) for each in graphs.encoder] == list(
        zip(("openvino", "onnx"), ("int8", "fp32"), strict=True)
    )
    assert {each.precision for each in (*graphs.energy, *graphs.relative_pose)} == {"fp32"}


@pytest.mark.parametrize(
    ("engine", "precision"), [("openvino:CPU", "int8"), ("openvino:CPU", "fp32"), ("onnxruntime:CPU", "fp32")]
)
def test_bundle_reproduces_its_golden_outputs(
    written: tuple[Path, DriveMetrics], engine: str, precision: str
) -> None:
    pytest.importorskip(engine.split(":")[0], reason="the engine is not installed")
    parities = golden_parity(Bundle.open(written[0]), engine=engine, precision=precision)
    assert {parity.graph for parity in parities} == {"encoder", "predictor", "energy", "relative_pose"}
    assert all(parity.ok for parity in parities), parities


def test_runtime_computes_what_the_networks_compute(
    written: tuple[Path, DriveMetrics], networks: Networks
) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 72, 96, 3), np.uint8)
    actions = rng.uniform(-0.2, 0.8, (9, 4, 2)).astype(np.float32)
    between = rng.uniform(-0.2, 0.8, (1, 2)).astype(np.float32)
    with torch.no_grad():
        latents = networks.encoder(torch.from_numpy(frames))
        futures = PredictorGraph(networks.predictor)(
            latents[None], torch.from_numpy(actions), torch.from_numpy(between[None])
        )
        energy = EnergyGraph(networks.head)(futures.flatten(0, 1), latents[:1]).unflatten(0, (9, 4))
        poses = RelativePoseGraph(networks.head)(latents, latents[:1])
    with WorldModel.open(written[0], precision="fp32") as model:
        np.testing.assert_allclose(model.encode(frames[0]), latents[0], atol=2e-3)
        found = model.predict(actions, latents=latents.numpy(), history_actions=between)
        np.testing.assert_allclose(found.latents, futures, atol=2e-3)
        np.testing.assert_allclose(
            model.energy(futures.numpy(), latents[0].numpy()), energy, atol=2e-3, rtol=1e-3
        )
        np.testing.assert_allclose(
            model.relative_poses(latents.numpy(), latents[0].numpy()), poses, atol=2e-3, rtol=1e-3
        )


def test_teacher_bundle_has_its_own_size_and_reproduces_its_golden_outputs(written_teacher: Path) -> None:
    bundle = Bundle.open(written_teacher)
    assert bundle.manifest.model_id == "first_person_teacher"
    assert (bundle.manifest.io.latent.tokens, bundle.manifest.io.latent.dim) == (72, 160)
    assert {(each.target, each.precision) for each in bundle.manifest.graphs.encoder} == {("onnx", "fp32")}
    parities = golden_parity(bundle, engine="openvino:CPU", precision="fp32")
    assert {parity.graph for parity in parities} >= {"encoder", "predictor", "energy", "relative_pose"}
    assert all(parity.ok for parity in parities), parities
