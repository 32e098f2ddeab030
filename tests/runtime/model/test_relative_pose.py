"""The relative pose graph: where a goal is in the frame of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime import BackendError, Bundle, BundleError, WorldModel
from jepa_runtime.backends.base import Session
from jepa_runtime.bundle import POSE_BATCH, GoldenOutputs, seal
from jepa_runtime.model.compiled_graphs import CompiledGraphs, open_sessions
from jepa_runtime.model.parity import golden_parity
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from tests.bundles import DIM, TOKENS, make_bundle
from tests.errors import code

Poses = NDArray[np.float32]


@pytest.fixture(params=["openvino:CPU", "onnxruntime:CPU"])
def model(request: pytest.FixtureRequest, pose_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(pose_bundle, engine=request.param) as opened:
        yield opened


@pytest.fixture
def golden(pose_bundle: Path) -> GoldenOutputs:
    return Bundle.open(pose_bundle).golden()


@pytest.mark.parametrize("count", [0, 1, POSE_BATCH, 2 * POSE_BATCH + 1])
def test_relative_poses_of_any_number_of_states_equal_the_golden_outputs(
    model: WorldModel, golden: GoldenOutputs, count: int
) -> None:
    assert golden.relative_pose is not None
    rows = np.arange(count) % len(golden.latents)
    poses = model.relative_poses(golden.latents[rows], golden.goal[0])
    assert poses.shape == (count, 5) and poses.dtype == np.float32
    np.testing.assert_allclose(poses, golden.relative_pose[rows], atol=1e-5)


def test_relative_poses_accept_any_batch_shape(model: WorldModel, golden: GoldenOutputs) -> None:
    goal = golden.goal[0]
    several = model.relative_poses(golden.latents[[0, 1, 2, 0, 1, 2]].reshape(2, 3, TOKENS, DIM), goal)
    assert several.shape == (2, 3, 5)
    np.testing.assert_allclose(several[1, 1], model.relative_poses(golden.latents[1], goal), atol=1e-6)
    with pytest.raises(ValueError, match="latents must be"):
        model.relative_poses(golden.latents[:, :1], goal)
    with pytest.raises(ValueError, match="goal must be"):
        model.relative_poses(golden.latents, golden.goal)


def test_goal_pose_is_that_of_the_frame_encoded_last(model: WorldModel, golden: GoldenOutputs) -> None:
    assert golden.relative_pose is not None
    assert model.reads_poses
    with pytest.raises(ValueError, match="encode a frame first"):
        model.goal_pose(golden.goal[0])
    for frame, expected in zip(golden.frames, golden.relative_pose, strict=True):
        model.encode(frame)
        pose = model.goal_pose(golden.goal[0])
        assert pose is not None and astuple(pose) == pytest.approx(expected.tolist(), abs=1e-4)
        assert type(pose.yaw_rad) is float and pose.position_std_m > 0 and pose.yaw_std_rad > 0
    of_first = model.goal_pose(golden.goal[0], latent=golden.latents[0])
    assert of_first is not None
    assert astuple(of_first) == pytest.approx(golden.relative_pose[0].tolist(), abs=1e-4)
    assert 0 < model.timings["relative_pose"] < 1000


def test_model_without_the_graph_reads_no_poses(toy_bundle: Path, golden: GoldenOutputs) -> None:
    with WorldModel.open(toy_bundle) as model:
        model.encode(golden.frames[0])
        assert not model.reads_poses and model.goal_pose(golden.goal[0]) is None
        with pytest.raises(BundleError, check=code("bundle.graph_missing")):
            model.relative_poses(golden.latents, golden.goal[0])


class Spoiled:
    """A session whose poses are changed."""

    def __init__(self, session: Session, change: Callable[[Poses], None]) -> None:
        self._session, self._change = session, change
        self.inputs, self.outputs, self.close = session.inputs, session.outputs, session.close

    def run(self) -> dict[str, Poses]:
        poses = np.array(self._session.run()["relative_pose"])
        self._change(poses)
        return {"relative_pose": poses}


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Poses], None]], None]:
    def change_outputs(change: Callable[[Poses], None]) -> None:
        def opened(*args: Any) -> CompiledGraphs:
            sessions = open_sessions(*args)
            assert sessions.relative_pose is not None and sessions.relative_pose_one is not None
            return replace(
                sessions,
                relative_pose=Spoiled(sessions.relative_pose, change),
                relative_pose_one=Spoiled(sessions.relative_pose_one, change),
            )

        monkeypatch.setattr("jepa_runtime.model.world_model.open_sessions", opened)

    return change_outputs


@pytest.mark.parametrize(
    ("column", "value"), [(0, np.nan), (2, np.inf), (1, -np.inf), (3, np.nan), (3, 0.0), (4, -0.1)]
)
def test_invalid_poses_are_not_returned(
    pose_bundle: Path,
    golden: GoldenOutputs,
    spoil: Callable[[Callable[[Poses], None]], None],
    column: int,
    value: float,
) -> None:
    def change(poses: Poses) -> None:
        poses[-1, column] = value

    spoil(change)
    with WorldModel.open(pose_bundle) as model:
        model.encode(golden.frames[0])
        with pytest.raises(BackendError, check=code("backend.output_not_finite")):
            model.goal_pose(golden.goal[0])
        with pytest.raises(BackendError, check=code("backend.output_not_finite")):
            model.relative_poses(np.repeat(golden.latents[:1], POSE_BATCH, axis=0), golden.goal[0])
        with pytest.raises(BackendError, check=code("backend.output_not_finite")):
            FrameProcessor(model, ProcessingConfig())
    refused = [
        parity for parity in golden_parity(Bundle.open(pose_bundle), engine="openvino:CPU") if not parity.ok
    ]
    assert [parity.graph for parity in refused] == ["relative_pose"]
    assert np.isnan(refused[0].max_abs)


def test_poses_that_are_unused_in_a_batch_are_not_checked(
    pose_bundle: Path, golden: GoldenOutputs, spoil: Callable[[Callable[[Poses], None]], None]
) -> None:
    def change(poses: Poses) -> None:
        poses[3:] = np.nan

    spoil(change)
    with WorldModel.open(pose_bundle) as model:
        assert np.isfinite(model.relative_poses(golden.latents[:3], golden.goal[0])).all()


def test_yaw_on_the_other_side_of_180_degrees_is_the_same(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "toy", relative_pose=True)
    arrays = dict(np.load(bundle.path / "golden.npz"))

    def parity(yaw_offset: float) -> bool:
        poses = arrays["relative_pose"].copy()
        poses[:, 2] += np.float32(yaw_offset)
        np.savez(bundle.path / "golden.npz", **arrays | {"relative_pose": poses})
        changed = seal(bundle.path, bundle.manifest)
        (found,) = [
            each for each in golden_parity(changed, engine="onnxruntime:CPU") if each.graph == "relative_pose"
        ]
        return found.ok

    assert parity(2 * np.pi) and parity(-2 * np.pi)
    assert not parity(np.pi)
