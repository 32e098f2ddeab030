"""jepa-export build --teacher vjepa2_ac: a model that reads the pose of the arm, up to a plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from jepa_export.bundling.teacher_bundle import WINDOWS
from jepa_export.bundling.vjepa2_ac_bundle import ACFrameEncoder, PoseRollout, frames_needed
from jepa_export.cli import main
from jepa_export.commands.build_teacher import random_weights
from jepa_export.targets import onnx as onnx_target
from jepa_export.teachers.checkpoints import Settings, read
from jepa_export.teachers.family import FAMILY
from jepa_export.teachers.vjepa2_ac import STATE_NAMES, VJEPA2AC, VJEPA2ACConfig, pose_delta
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from jepa_runtime.control import preset
from jepa_runtime.planning import ActionLimits, Planner, SearchContext, create_search
from jepa_runtime.serving import Pipeline, Result
from jepa_runtime.sources import Frame, open_source
from tests.export.teachers.tiny import PX, TINY, draw, golden, official
from tests.runtime.bags import arm_pose, image, joints, write_bag

POSE = np.array([[0.4, 0.1, 0.3, 2.0, 0.2, -0.5, 0.5]], np.float32)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Register the small model under the name of the published one."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setitem(FAMILY, "vjepa2_ac_vitg_256", TINY["vjepa2_ac"])
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "vjepa2-ac.pt"
    torch.save(official("vjepa2_ac"), path)
    return path


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "bundle"
    arguments = ["--teacher", "vjepa2_ac_vitg_256", "--untrained", "--output", str(folder)]
    assert main(["build", *arguments]) == 0
    return folder


def frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (PX, PX, 3), np.uint8)


def test_random_weights_make_an_untrained_bundle_that_verifies(untrained: Path) -> None:
    manifest = Bundle.open(untrained).manifest
    assert (manifest.trained, manifest.version) == (False, "0.0.0-untrained")
    assert manifest.io.state is not None and manifest.io.state.names == STATE_NAMES
    assert manifest.io.action.high == (0.05, 0.05, 0.05, 0.0, 0.0, 0.0, 0.75)
    assert (manifest.history_size, manifest.horizon, manifest.io.step_s) == (1, 2, 0.25)
    assert runtime(["verify", str(untrained)]) == 0


def test_checkpoint_of_any_size_becomes_a_trained_bundle_and_announces_its_cost(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    arguments = ["--teacher", "vjepa2_ac", "--checkpoint", str(checkpoint), "--horizon", "3"]
    options = ["--heads", "2", "--predictor-heads", "2", "--resolution", str(PX), "--max-frames", "8"]
    assert main(["build", *arguments, *options, "--output", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    places = [said.index(part) for part in ("sizes:", "estimated memory:", "estimated time:", "bundle:")]
    assert places == sorted(places)
    manifest = Bundle.open(folder).manifest
    assert manifest.trained and manifest.horizon == 3 and manifest.goal_threshold > 0


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_bundle_rolls_out_as_the_official_model(untrained: Path, engine: str) -> None:
    model = _random(seed=0)
    random = np.random.default_rng(1)
    actions = random.uniform(-0.3, 0.3, (5, 2, 7)).astype(np.float32)
    with WorldModel.open(untrained, engine=engine, allow_untrained=True) as served:
        latent = served.encode(frame())
        goal = served.encode(frame(1))
        futures = served.predict(actions, latents=latent, history_states=POSE, goal=goal)
        moved = served.predict(actions, latents=latent, history_states=POSE + np.float32(0.5), goal=goal)
    start, pose = torch.from_numpy(latent)[None, None], torch.from_numpy(POSE)[None]
    expected, _ = model.rollout(
        start.expand(5, -1, -1, -1), torch.from_numpy(actions), pose.expand(5, -1, -1)
    )
    difference = np.abs(futures.latents - expected.numpy()).max()
    assert difference <= 1e-5
    assert np.abs(futures.latents - moved.latents).max() > 1e-4
    energies = np.abs(expected.numpy() - goal).mean(axis=(-2, -1))
    np.testing.assert_allclose(futures.energies, energies, atol=1e-5)


def test_exported_network_rolls_out_as_the_official_planner(checkpoint: Path) -> None:
    settings = Settings(heads=2, predictor_heads=2, frame_size=(PX, PX), frames=8)
    model, expected = read("vjepa2_ac", str(checkpoint), settings=settings).model, golden("vjepa2_ac")[1]
    assert isinstance(model, VJEPA2AC)
    actions, state = draw(2, 3, 7, seed=4).double(), draw(1, 3, 7, seed=3).double()[:, :1]
    futures = PoseRollout(model.double())(expected["latents"][:, :1].double(), actions, state)
    torch.testing.assert_close(futures, expected["rollout"], atol=1e-5, rtol=0)


def test_predictions_without_the_pose_are_rejected(untrained: Path) -> None:
    with WorldModel.open(untrained, allow_untrained=True) as model:
        model.encode(frame())
        with pytest.raises(ValueError, match="history_states"):
            model.predict(np.zeros((1, 2, 7), np.float32))
        with pytest.raises(ValueError, match="history_states"):
            model.predict(np.zeros((1, 2, 7), np.float32), history_states=POSE * np.nan)


def test_official_settings_plan_within_the_limits_towards_the_goal(untrained: Path) -> None:
    with WorldModel.open(untrained, allow_untrained=True) as model:
        config = preset("vjepa2_ac").fitted(
            horizon=model.manifest.horizon, num_samples=model.manifest.num_samples
        )
        latent = model.encode(frame())
        pushed = np.tile(np.array([0.05, -0.05, 0.05, 0, 0, 0, 0.5], np.float32), (1, 2, 1))
        goal = model.predict(pushed, latents=latent, history_states=POSE).latents[0, -1]
        limits = ActionLimits.of(model.manifest)
        search = create_search(config.search, SearchContext(limits=limits, seed=0))
        planner = Planner(search, iterations=10, reduction=config.reduction)

        def energies(actions: np.ndarray) -> np.ndarray:
            found = model.predict(actions, latents=latent, history_states=POSE, goal=goal).energies
            assert found is not None
            return found

        plan = planner.plan(energies)
        still = energies(np.zeros((1, 2, 7), np.float32))[0, -1]
    assert plan.cost < still
    assert (np.abs(plan.best) <= limits.high + 1e-7).all() and not plan.best[:, 3:6].any()


def test_pipeline_predicts_only_images_with_a_pose(untrained: Path) -> None:
    results: list[Result] = []
    with Pipeline(
        lambda: WorldModel.open(untrained, allow_untrained=True), on_result=results.append
    ) as pipeline:
        for number, has_pose in enumerate((False, True, True)):
            stamp_ns = number * 250_000_000
            if has_pose:
                pipeline.add_state(stamp_ns, POSE[0])
            pipeline.add_action(stamp_ns, np.zeros(7, np.float32))
            pipeline.submit(Frame(frame(number), stamp_ns, "camera", number))
            assert pipeline.wait_idle(20.0)
    assert [result.futures is not None for result in results] == [False, True, True]
    assert [result.surprise is not None for result in results] == [False, False, True]


def test_run_without_poses_is_rejected(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), frame())
    assert runtime(["run", str(untrained), "--source", str(tmp_path), "--allow-untrained"]) == 1
    output = " ".join(capsys.readouterr().err.split())
    assert "(x, y, z, roll, pitch, yaw, gripper)" in output and "[source.state_missing]" in output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--frames", "4"], "export.option_not_applicable"),
        (["--horizon", "0"], "export.invalid_option"),
        (["--horizon", "5"], "export.invalid_option"),
    ],
)
def test_impossible_build_is_rejected(
    options: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--teacher", "vjepa2_ac_vitg_256", "--untrained", *options]
    assert main(["build", *arguments, "--output", str(tmp_path / "bundle")]) == 1
    assert f"[{reason}]" in capsys.readouterr().err


def test_weights_beyond_an_onnx_file_are_converted_directly_for_openvino_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_target, "MAX_BYTES", 1000)
    folder = tmp_path / "bundle"
    arguments = ["build", "--teacher", "vjepa2_ac_vitg_256", "--untrained", "--output", str(folder)]
    assert main(arguments) == 1
    assert "[target.model_too_large]" in capsys.readouterr().err
    assert main([*arguments, "--target", "openvino"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.index("estimated memory:") < said.index("writing graphs")
    assert {each.target for each in Bundle.open(folder).manifest.graphs.encoder} == {"openvino"}
    model = _random(seed=0)
    actions = np.random.default_rng(1).uniform(-0.3, 0.3, (5, 2, 7)).astype(np.float32)
    with WorldModel.open(folder, allow_untrained=True) as served:
        latent = served.encode(frame())
        futures = served.predict(actions, latents=latent, history_states=POSE)
    start, pose = torch.from_numpy(latent)[None, None], torch.from_numpy(POSE)[None]
    expected, _ = model.rollout(
        start.expand(5, -1, -1, -1), torch.from_numpy(actions), pose.expand(5, -1, -1)
    )
    assert np.abs(latent - ACFrameEncoder(model)(torch.from_numpy(frame())[None]).numpy()[0]).max() <= 1e-5
    assert np.abs(futures.latents - expected.numpy()).max() <= 1e-5


def arm_recording(path: Path, *, poses: bool = True, moving: bool = True) -> str:
    """Write a bag of an arm with an image and a pose every 0.05 s; return it as a source with states."""
    entries = []
    for index in range(200):
        stamp_ns, place = 10**9 + index * 50_000_000, 0.01 * index * moving
        entries += [
            joints(stamp_ns, finger=0.25),
            image(stamp_ns + 2, index, size=(PX, PX)),
            *([arm_pose(stamp_ns + 1, place, yaw=0.5 + place)] if poses or index < 20 else []),
        ]
    return f"{write_bag(path, entries)}?state=/pose;/joint_states:position.finger"


def test_errors_are_measured_with_the_recorded_poses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = arm_recording(tmp_path / "arm.mcap")
    build = ["build", "--teacher", "vjepa2_ac_vitg_256", "--untrained", "--target", "openvino"]
    folders = [tmp_path / name for name in ("moving", "unknown")]
    assert main([*build, "--calibration", source, "--output", str(folders[0])]) == 0
    assert "stands at pose 0" not in " ".join(capsys.readouterr().out.split())
    assert main([*build, "--calibration", source.partition("?")[0], "--output", str(folders[1])]) == 0
    assert "stands at pose 0" in " ".join(capsys.readouterr().out.split())
    moving, unknown = (Bundle.open(folder).manifest for folder in folders)
    assert moving.goal_threshold == unknown.goal_threshold
    model = _random(seed=0)
    with closing(open_source(source)) as opened:
        pairs = [(frame.image, opened.state) for frame in islice(opened.frames(), 0, None, 5)]
    needed = frames_needed(2)
    latents = torch.cat([ACFrameEncoder(model)(torch.tensor(each)[None]) for each, _ in pairs[:needed]])
    poses = torch.tensor(np.stack([state.values for _, state in pairs[:needed] if state is not None]))
    surprises = []
    for start in range(WINDOWS):
        actions = torch.stack([pose_delta(poses[start + step], poses[start + step + 1]) for step in (0, 1)])
        futures = PoseRollout(model)(
            latents[None, start : start + 1], actions[None], poses[None, start : start + 1]
        )
        surprises.append(float((futures[0, 0] - latents[start + 1]).square().mean().sqrt()))
    assert moving.surprise_threshold == pytest.approx(max(surprises), rel=1e-5)
    assert unknown.surprise_threshold != pytest.approx(max(surprises), rel=1e-4)


@pytest.mark.parametrize(
    ("poses", "state", "expected"),
    [
        (False, None, "export.state_unmatched"),
        (True, "state=/pose", "source.state_mismatch"),
        (True, "state=/nowhere", "source.topic_not_found"),
    ],
)
def test_build_with_states_that_cannot_be_used_is_rejected(
    poses: bool, state: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = arm_recording(tmp_path / "arm.mcap", poses=poses)
    if state is not None:
        source = f"{source.partition('?')[0]}?{state}"
    build = ["build", "--teacher", "vjepa2_ac_vitg_256", "--untrained", "--calibration", source]
    assert main([*build, "--output", str(tmp_path / "bundle")]) == 1
    assert f"[{expected}]" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_quantized_variant_is_calibrated_on_recorded_poses(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = arm_recording(tmp_path / "arm.mcap"), tmp_path / "int8"
    add = ["add-variant", str(untrained), "--target", "tensorrt", "--frames", "16", "--output", str(out)]
    assert main([*add, "--calibration", source.partition("?")[0]]) == 1
    assert "[source.state_missing]" in capsys.readouterr().err and not out.exists()
    assert main([*add, "--calibration", source]) == 0
    assert runtime(["verify", str(out)]) == 0


def _random(seed: int) -> VJEPA2AC:
    config = TINY["vjepa2_ac"].config
    assert isinstance(config, VJEPA2ACConfig)
    model = random_weights(config, seed)
    assert isinstance(model, VJEPA2AC)
    return model
