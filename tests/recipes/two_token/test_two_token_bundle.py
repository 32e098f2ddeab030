"""Building writes a bundle that opens and computes the same as the networks, or nothing at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.errors import JepaExportError
from jepa_recipes.two_token import bundle as packing
from jepa_recipes.two_token.bundle import write_two_token_bundle
from jepa_recipes.two_token.training import TrainedModel
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from jepa_runtime.model.parity import golden_parity
from tests.errors import code

NAMES = {"model_id": "tiny", "version": "0.0.1", "command": "a test"}


def test_bundle_opens_strictly_and_describes_itself(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert (manifest.model_id, manifest.version, manifest.trained) == ("tiny", "0.0.1", True)
    assert (manifest.horizon, manifest.num_samples, manifest.history_size) == (8, 64, 1)
    offered = {(graph.target, graph.precision) for graph in manifest.graphs.encoder}
    assert offered == {("openvino", "int8"), ("onnx", "fp32")}
    assert len(manifest.error_bounds) == manifest.horizon
    report = Bundle.open(tiny_bundle).report()
    assert set(report["open_loop"]) == {"error_m", "copy_last_m", "probe_m"}


def test_bundle_is_small_enough_to_ship(tiny_bundle: Path) -> None:
    assert sum(path.stat().st_size for path in tiny_bundle.rglob("*") if path.is_file()) < 3_000_000


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_fp32_reproduces_the_golden_outputs(tiny_bundle: Path, engine: str) -> None:
    pytest.importorskip(engine.split(":")[0], reason="the engine is not installed")
    parities = golden_parity(Bundle.open(tiny_bundle), engine=engine, precision="fp32")
    assert [parity.graph for parity in parities] == ["encoder", "predictor", "energy"]
    assert all(parity.ok for parity in parities), parities


def test_int8_is_within_tolerance_or_verify_names_the_failing_graph(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = runtime(["verify", str(tiny_bundle), "--precision", "int8"])
    captured = capsys.readouterr()
    reports = golden_parity(Bundle.open(tiny_bundle), engine="openvino:CPU", precision="int8")
    failed = [parity for parity in reports if not parity.ok]
    assert status == (1 if failed else 0)
    assert all(f"int8 {parity.graph} does not reproduce" in captured.err for parity in failed)


def test_runtime_computes_what_the_networks_compute(
    tiny_bundle: Path, tiny_run: tuple[Path, TrainedModel]
) -> None:
    trained = tiny_run[1]
    frame = trained.held_out.frames[0, 0, 0]
    actions = np.random.default_rng(0).uniform(-0.8, 0.8, (64, 8, 2)).astype(np.float32)
    with torch.no_grad():
        latent = trained.encoder(torch.from_numpy(frame[None]))
        futures = trained.predictor(latent[None], torch.from_numpy(actions))
        energy = trained.energy(futures.flatten(0, 1), latent).unflatten(0, (64, 8))
    with WorldModel.open(tiny_bundle, precision="fp32") as model:
        np.testing.assert_allclose(model.encode(frame), latent[0], atol=2e-3)
        np.testing.assert_allclose(
            model.predict(actions, latents=latent[0].numpy()).latents, futures, atol=2e-3
        )
        np.testing.assert_allclose(
            model.energy(futures.numpy(), latent[0].numpy()), energy, atol=2e-3, rtol=1e-3
        )


@pytest.fixture
def fails_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_model: TrainedModel, _frames: object, folder: Path, **_: object) -> None:
        (folder / "encoder").mkdir()
        (folder / "encoder" / "half").write_bytes(b"0")
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(packing, "_write_graphs", write)


@pytest.mark.usefixtures("fails_in_the_middle")
def test_failed_build_leaves_nothing_behind(tiny_run: tuple[Path, TrainedModel], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the disk is full"):
        write_two_token_bundle(tiny_run[1], tmp_path / "bundle", **NAMES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fails_in_the_middle")
def test_failed_build_leaves_the_old_bundle_unchanged(
    tiny_run: tuple[Path, TrainedModel], tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with pytest.raises(RuntimeError, match="the disk is full"):
        write_two_token_bundle(tiny_run[1], folder, **NAMES)
    assert Bundle.open(folder).sha256 == Bundle.open(tiny_bundle).sha256
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("copied")
def test_new_bundle_replaces_the_old_one(
    tiny_run: tuple[Path, TrainedModel], tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    write_two_token_bundle(tiny_run[1], folder, **(NAMES | {"version": "0.0.2"}))
    assert Bundle.open(folder).manifest.version == "0.0.2"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_graph_with_wrong_outputs_is_named_and_the_old_bundle_stays(
    precision: str,
    tiny_run: tuple[Path, TrainedModel],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = {"min_cosine": 1.0, "max_abs": 0.0}
    monkeypatch.setattr(packing, "TOLERANCES", packing.TOLERANCES | {precision: exact})
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with pytest.raises(JepaExportError, check=code("export.parity_failed")):
        write_two_token_bundle(tiny_run[1], folder, **NAMES)
    assert Bundle.open(folder).sha256 == Bundle.open(tiny_bundle).sha256
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_folder_that_is_no_bundle_is_rejected_and_unchanged(
    tiny_run: tuple[Path, TrainedModel], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("irreplaceable")
    with pytest.raises(JepaExportError, check=code("export.output_not_a_bundle")):
        write_two_token_bundle(tiny_run[1], tmp_path / "photos", **NAMES)
    assert (tmp_path / "photos" / "holiday.txt").read_text() == "irreplaceable"
