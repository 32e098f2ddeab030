"""jepa-export build --teacher lewm: LeWM unchanged, in a bundle that plans from one frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.bundling.lewm_bundle import UnnormalizedRollout, sample_trajectories, write_lewm_bundle
from jepa_export.bundling.manifest_fields import BundleSettings, ModelIdentity
from jepa_export.cli import main
from jepa_export.data.clip_windows import Windows
from jepa_export.data.drawn_rooms import SimulatedRecording
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import open_data
from jepa_export.data.recording import Recording
from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints import read
from jepa_export.teachers.family import FAMILY
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.normalization import normalize
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from jepa_runtime.model.parity import golden_parity
from tests.errors import code
from tests.export.teachers.tiny import ACTION_DIM, TINY, official

HORIZON, PX = 3, 28
SOURCE = "two_rooms?trajectories=6&frames=12"


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Register a small LeWM by name."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setitem(FAMILY, "lewm", TINY["lewm"])
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "lewm.pt"
    torch.save(official("lewm"), path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LeWM:
    loaded = read("lewm", checkpoint).model
    assert isinstance(loaded, LeWM)
    return loaded


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lewm") / "bundle"
    arguments = ["--checkpoint", str(checkpoint), "--horizon", str(HORIZON), "--calibration", SOURCE]
    assert main(["build", "--teacher", "lewm", *arguments, "--output", str(folder)]) == 0
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    return folder


def test_npu_bundle_has_a_step_graph_and_opens(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    arguments = ["--checkpoint", str(checkpoint), "--horizon", str(HORIZON), "--calibration", SOURCE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jepa_export.bundling.builder.run_vendor_compilers", lambda *_, **__: {})
        assert (
            main(["build", "--teacher", "lewm", *arguments, "--target", "npu", "--output", str(folder)]) == 0
        )
    bundle = Bundle.open(folder)
    for precision in ("int8", "fp16"):
        reports = golden_parity(bundle, engine="openvino:CPU", precision=precision, target="npu")
        assert [parity.graph for parity in reports if parity.ok] == ["encoder", "predictor", "step"]


@pytest.fixture
def recordings(tmp_path: Path) -> tuple[Recording, ...]:
    store = FrameStore(tmp_path / "frames", height=PX, width=PX)
    return open_data([SOURCE], store, held_out=0).train


def test_trajectories_skip_as_many_frames_as_one_action_covers(recordings: tuple[Recording, ...]) -> None:
    trajectories = sample_trajectories(recordings, action_dim=ACTION_DIM, horizon=HORIZON)
    assert trajectories.frame_skip == 2 and trajectories.step_s == pytest.approx(0.4)
    assert trajectories.frames.shape[1:] == (HORIZON + 1, PX, PX, 3) and trajectories.actions.shape[1:] == (
        HORIZON,
        4,
    )
    first = recordings[0]
    np.testing.assert_array_equal(trajectories.frames[0], first.frames(np.arange(0, 2 * HORIZON + 1, 2)))
    stamps = first.stamps_ns[: 2 * HORIZON + 1]
    np.testing.assert_array_equal(
        trajectories.actions[0].reshape(-1, 2), first.actions(stamps[:-1], stamps[1:])
    )
    assert trajectories.action_space.names == ("linear.x@1", "linear.y@1", "linear.x@2", "linear.y@2")
    assert trajectories.action_space.units == ("m/s",) * 4


def test_recording_of_one_frame_without_a_rate_is_ignored(
    recordings: tuple[Recording, ...],
) -> None:
    lone = SimulatedRecording(0, 6, frames=1, layout="random", height=PX, width=PX)
    lone.rate_hz = 0.0  # As of a stored one.
    trajectories = sample_trajectories((lone, *recordings), action_dim=ACTION_DIM, horizon=HORIZON)
    assert trajectories.step_s == pytest.approx(0.4)


def test_action_limits_and_scale_count_each_action_once(
    recordings: tuple[Recording, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa_export.bundling.lewm_bundle.NUM_TRAJECTORIES", 2)
    trajectories = sample_trajectories(recordings, action_dim=ACTION_DIM, horizon=HORIZON)
    windows = Windows(recordings, frames=2 * HORIZON + 1, rate_hz=recordings[0].rate_hz)
    assert len(trajectories.frames) == 2 < len(windows)
    step_ns = round(1e9 / recordings[0].rate_hz)
    apart = np.concatenate([each.actions(each.stamps_ns, each.stamps_ns + step_ns) for each in recordings])
    np.testing.assert_array_equal(trajectories.action_space.low, np.tile(apart.min(axis=0), 2))
    np.testing.assert_array_equal(trajectories.action_space.high, np.tile(apart.max(axis=0), 2))
    mean, std = (part[:2] for part in trajectories.normalization)
    standardized = (apart - mean) / std
    np.testing.assert_allclose(
        [standardized.mean(axis=0), standardized.std(axis=0)], [[0, 0], [1, 1]], atol=1e-4
    )


def test_constant_action_is_reported(model: LeWM, recordings: tuple[Recording, ...], tmp_path: Path) -> None:
    trajectories = sample_trajectories(recordings, action_dim=ACTION_DIM, horizon=HORIZON)
    statistics = replace(trajectories.statistics, low=(0.0, -1.0), high=(0.0, 1.0))
    messages: list[str] = []

    def stop(what: str) -> None:
        messages.append(what)
        if what.startswith("encoding"):
            raise KeyboardInterrupt

    settings = BundleSettings(
        actions=trajectories.action_space, history_size=1, horizon=HORIZON, num_samples=4, step_s=0.4,
        rate_hz=30.0, variants=(), command="a test",
    )  # fmt: skip
    identity = ModelIdentity(
        model_id="lewm", version="1.0.0", trained=True, description="", licence="", data="", teacher=None
    )
    with pytest.raises(KeyboardInterrupt):
        write_lewm_bundle(
            model,
            replace(trajectories, statistics=statistics),
            tmp_path / "x",
            settings,
            identity,
            seed=0,
            progress=stop,
        )
    assert "the action linear.x is constant" in messages[0] and len(messages) == 2


def test_recordings_without_matching_actions_are_rejected(recordings: tuple[Recording, ...]) -> None:
    with pytest.raises(JepaExportError, check=code("export.action_size_mismatch")):
        sample_trajectories(recordings, action_dim=5, horizon=HORIZON)
    for recording in recordings:
        recording.action_names = None
    with pytest.raises(JepaExportError, check=code("export.no_actions")):
        sample_trajectories(recordings, action_dim=4, horizon=HORIZON)


def test_manifest_describes_the_model(built: Path) -> None:
    manifest = Bundle.open(built).manifest
    assert (manifest.model_id, manifest.version, manifest.trained) == ("lewm", "1.0.0", True)
    assert (manifest.history_size, manifest.horizon, manifest.num_samples) == (1, HORIZON, 300)
    assert (manifest.io.latent.tokens, manifest.io.latent.dim) == (1, 24)
    assert manifest.io.step_s == pytest.approx(0.4) and manifest.action_size == ACTION_DIM
    forms = [("openvino", "int8"), ("openvino", "fp32"), ("onnx", "fp32")]
    assert [(each.target, each.precision) for each in manifest.graphs.predictor] == forms
    assert all(bound > 0 for bound in manifest.error_bounds) and manifest.goal_threshold > 0
    assert SOURCE in manifest.provenance.data and f"--horizon {HORIZON}" in manifest.provenance.command


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_runtime_computes_what_lewm_computes(
    built: Path, model: LeWM, recordings: tuple[Recording, ...], engine: str
) -> None:
    trajectories = sample_trajectories(recordings, action_dim=ACTION_DIM, horizon=HORIZON)
    latents = model(normalize(torch.from_numpy(trajectories.frames[0, :1]).float())[None])
    actions = trajectories.actions[:20]
    with WorldModel.open(built, engine=engine, precision="fp32") as opened:
        latent = opened.encode(trajectories.frames[0, 0])
        futures = opened.predict(actions, latents=latent).latents
    np.testing.assert_allclose(latent, latents[0], atol=1e-4, rtol=0)
    mean, std = (torch.from_numpy(part) for part in trajectories.normalization)
    standardized = (torch.from_numpy(actions) - mean) / std
    expected = model.rollout(latents.expand(len(actions), -1, -1), standardized)
    np.testing.assert_allclose(futures[:, :, 0], expected, atol=1e-4, rtol=0)


def test_actions_are_standardized_in_the_graph(model: LeWM) -> None:
    mean, std = np.float32([1, 2, 3, 4]), np.float32([2, 2, 0.5, 1])
    latent, raw = torch.ones(1, 1, 1, 24), torch.ones(2, HORIZON, 4)
    actual = UnnormalizedRollout(model, mean, std)(latent, raw)
    expected = model.rollout(
        latent[0].expand(2, -1, -1), (raw - torch.from_numpy(mean)) / torch.from_numpy(std)
    )
    torch.testing.assert_close(actual[:, :, 0], expected, atol=2e-5, rtol=0)


def test_every_variant_matches_torch_and_verifies(built: Path) -> None:
    rows = Bundle.open(built).report()["parity"]
    assert {(row["graph"], row["target"], row["precision"]) for row in rows} == {
        (role, target, precision)
        for role in ("encoder", "predictor")
        for target, precision in (("openvino", "int8"), ("openvino", "fp32"), ("onnx", "fp32"))
    }
    assert all(row["max_abs"] <= 1e-3 for row in rows if row["precision"] == "fp32")
    assert runtime(["verify", str(built)]) == 0


def test_untrained_build_is_marked_and_reports_its_cost_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    arguments = ["--untrained", "--depth", "1", "--only", "onnx/fp32", "--calibration", SOURCE]
    assert main(["build", "--teacher", "lewm", *arguments, "--horizon", "2", "--output", str(folder)]) == 0
    output = capsys.readouterr().out
    assert output.index("300 futures of 2 steps need") < output.index("[1]")
    manifest = Bundle.open(folder).manifest
    assert (manifest.trained, manifest.error_bounds) == (False, (0.0, 0.0))
    assert "random weights" in manifest.description
