"""The world model: frames in, latents and futures out, on both engines."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

import jepa_runtime
from jepa_runtime import BackendError, Bundle, BundleError, FrameError, JepaRuntimeError, WorldModel
from jepa_runtime.backends.base import BackendOptions, Session
from jepa_runtime.bundle import GoldenOutputs
from jepa_runtime.model.compiled_graphs import CompiledGraphs, open_sessions
from jepa_runtime.model.parity import golden_parity
from jepa_runtime.model.rollouts import RolloutRequest
from tests.bundles import ACTIONS, DIM, HORIZON, NUM_SAMPLES, SIZE, TOKENS, make_bundle
from tests.errors import code

LATENT = (TOKENS, DIM)


@pytest.fixture(params=["openvino:CPU", "onnxruntime:CPU"])
def model(request: pytest.FixtureRequest, toy_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(toy_bundle, engine=request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "toy"
    make_bundle(folder, history_size=2, energy=False, standing=True)
    return folder


@pytest.fixture
def golden(toy_bundle: Path) -> GoldenOutputs:
    return Bundle.open(toy_bundle).golden()


def test_three_lines_open_encode_and_predict(toy_bundle: Path) -> None:
    model = jepa_runtime.WorldModel.open(toy_bundle)
    latent = model.encode(np.zeros((480, 640, 3), np.uint8))
    futures = model.predict(np.zeros((NUM_SAMPLES, HORIZON, ACTIONS)))
    assert latent.shape == LATENT and latent.dtype == np.float32
    assert futures.latents.shape == (NUM_SAMPLES, HORIZON, *LATENT)
    assert futures.energies is None


@pytest.mark.parametrize("history_size", [1, 3])
@pytest.mark.parametrize("step", [False, True], ids=["whole horizon", "step graph"])
def test_advance_continues_the_history_with_predictions(
    tmp_path: Path, history_size: int, step: bool
) -> None:
    make_bundle(tmp_path / "toy", history_size=history_size, step=step)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((history_size, *LATENT)).astype(np.float32)
    between = rng.uniform(-1, 1, (history_size - 1, ACTIONS)).astype(np.float32)
    actions = rng.uniform(-1, 1, (2, ACTIONS)).astype(np.float32)
    with WorldModel.open(tmp_path / "toy", engine="onnxruntime:CPU") as model:
        predicted = model.predict(actions[None], latents=latents, history_actions=between).latents[0]
        advanced, later = model.advance(latents, between, actions)
        if step:
            (state, done) = (latents, between)
            for action in actions:
                state, done = model.advance(state, done, action[None])
            np.testing.assert_array_equal(advanced, state)
        else:
            np.testing.assert_allclose(
                advanced, np.concatenate([latents, predicted])[-history_size:], rtol=1e-5, atol=1e-5
            )
        unchanged, _ = model.advance(latents, between, actions[:0])
    np.testing.assert_array_equal(later, np.concatenate([between, actions])[2:])
    np.testing.assert_array_equal(unchanged, latents)
    assert advanced.shape == latents.shape


def test_compiled_models_are_not_stored_in_the_bundle(toy_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))
    (tmp_path / "link").symlink_to(folder)
    for cache in (folder / "cache", folder, tmp_path / "link" / "cache"):
        with pytest.raises(BackendError, check=code("backend.cache_invalid")):
            WorldModel.open(folder, options=BackendOptions(cache_dir=cache))
    WorldModel.open(folder, options=BackendOptions(cache_dir=tmp_path / "cache")).close()
    assert Bundle.open(folder).path == folder


def test_model_describes_its_engine_and_precision(model: WorldModel) -> None:
    assert (model.engine, model.device) in {("openvino", "CPU"), ("onnxruntime", "CPU")}
    assert model.precision == "fp32"
    assert model.num_samples == NUM_SAMPLES
    assert model.manifest is model.bundle.manifest


def test_model_equals_the_reference(model: WorldModel, golden: GoldenOutputs) -> None:
    for index, frame in enumerate(golden.frames):
        assert model.encode(frame) == pytest.approx(golden.latents[index], abs=1e-4)
        futures = model.predict(golden.actions, latents=golden.latents[index])
        assert futures.latents == pytest.approx(golden.futures[index], abs=1e-4)
        assert np.array_equal(futures.actions, golden.actions)
        assert golden.energy is not None
        assert model.energy(golden.latents[index], golden.goal[0]) == pytest.approx(
            golden.energy[index], abs=1e-5
        )


def test_returned_arrays_are_not_overwritten(model: WorldModel, golden: GoldenOutputs) -> None:
    first = model.encode(golden.frames[0])
    futures = model.predict(golden.actions)
    stored, kept_futures = first.copy(), futures.latents.copy()
    model.encode(golden.frames[1])
    model.predict(-golden.actions)
    assert np.array_equal(first, stored)
    assert np.array_equal(futures.latents, kept_futures)
    inputs = golden.actions.copy()
    futures = model.predict(inputs)
    inputs[:] = 0
    assert np.array_equal(futures.actions, golden.actions)


def test_futures_start_from_the_latest_encoded_frame(model: WorldModel, golden: GoldenOutputs) -> None:
    with pytest.raises(ValueError, match="encode a frame first"):
        model.predict(golden.actions)
    model.encode(golden.frames[0])
    model.encode(golden.frames[1])
    implied = model.predict(golden.actions).latents
    # The caller gets a copy.
    model.encode(golden.frames[1])[:] = 0
    assert np.array_equal(implied, model.predict(golden.actions).latents)
    assert np.array_equal(
        implied, model.predict(golden.actions, latents=model.encode(golden.frames[1])).latents
    )


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (1, HORIZON), (3, 2), (NUM_SAMPLES, 1)])
def test_fewer_candidates_and_steps_are_a_subset_of_all(
    model: WorldModel, golden: GoldenOutputs, count: int, steps: int
) -> None:
    latent = golden.latents[0]
    every = model.predict(golden.actions, latents=latent)
    some = model.predict(golden.actions[:count, :steps], latents=latent)
    assert some.latents.shape == (count, steps, *LATENT)
    assert some.latents == pytest.approx(every.latents[:count, :steps], abs=1e-5)
    assert np.array_equal(some.error_bounds, np.float32(model.manifest.error_bounds[:steps]))


@pytest.mark.parametrize(
    "shape",
    [
        (NUM_SAMPLES + 1, HORIZON, ACTIONS),
        (0, HORIZON, ACTIONS),
        (1, HORIZON + 1, ACTIONS),
        (1, HORIZON, ACTIONS + 1),
        (HORIZON, ACTIONS),
    ],
)
def test_actions_of_another_shape_are_rejected(
    model: WorldModel, golden: GoldenOutputs, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"actions must be \[1\.\.8, 1\.\.4, 2\], got"):
        model.predict(np.zeros(shape), latents=golden.latents[0])


def test_actions_that_are_not_finite_are_rejected(model: WorldModel, golden: GoldenOutputs) -> None:
    actions = golden.actions.copy()
    actions[2, 1, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        model.predict(actions, latents=golden.latents[0])


def test_energies_accept_any_batch_shape(model: WorldModel, golden: GoldenOutputs) -> None:
    goal = golden.goal[0]
    futures = model.predict(golden.actions, latents=golden.latents[0]).latents
    energies = model.energy(futures, goal)
    assert energies.shape == (NUM_SAMPLES, HORIZON)
    assert energies[3, 2] == pytest.approx(model.energy(futures[3, 2], goal), rel=1e-5)
    # More than the graph takes per run.
    many = np.concatenate([futures, futures, futures[:3]])
    assert model.energy(many, goal) == pytest.approx(
        np.concatenate([energies, energies, energies[:3]]), rel=1e-5
    )
    assert model.energy(goal, goal).shape == ()
    with pytest.raises(ValueError, match="goal"):
        model.energy(futures, golden.goal)


def test_futures_include_their_energies_to_a_goal(model: WorldModel, golden: GoldenOutputs) -> None:
    goal = golden.goal[0]
    futures = model.predict(golden.actions, latents=golden.latents[0], goal=goal)
    assert futures.energies == pytest.approx(model.energy(futures.latents, goal), rel=1e-5)
    with pytest.raises(ValueError, match="goal must be"):
        model.predict(golden.actions, latents=golden.latents[0], goal=golden.goal)


def test_energy_without_a_graph_is_the_mean_squared_difference(long_history: Path) -> None:
    with WorldModel.open(long_history) as model:
        random = np.random.default_rng(1)
        latents = random.standard_normal((3, 5, *LATENT)).astype(np.float32)
        goal = random.standard_normal(LATENT).astype(np.float32)
        expected = np.mean((latents - goal) ** 2, axis=(-2, -1))
        assert model.energy(latents, goal) == pytest.approx(expected, rel=1e-5)
        assert float(model.energy(goal, goal)) == 0.0
        assert model.energy(latents.astype(float), goal.astype(float)) == pytest.approx(expected, rel=1e-5)
        assert model.energy(latents[:0], goal).shape == (0, 5)
        for broken in (np.nan, np.inf):
            latents[0, 1, 0, 0] = broken
            assert np.isnan(model.energy(latents, goal)[0, 1])
            assert np.isfinite(model.energy(latents, goal)).sum() == latents[..., 0, 0].size - 1
            assert np.isnan(model.energy(goal, np.full_like(goal, broken)))


def test_longer_history_and_its_actions_affect_the_futures(long_history: Path) -> None:
    golden = Bundle.open(long_history).golden()
    with WorldModel.open(long_history) as model:
        repeated = model.predict(golden.actions, latents=golden.latents[0])
        assert repeated.latents == pytest.approx(golden.futures[0], abs=1e-4)
        history = golden.latents[:2]
        still = model.predict(golden.actions, latents=history).latents
        moved = model.predict(golden.actions, latents=history, history_actions=np.ones((1, ACTIONS))).latents
        assert not np.allclose(repeated.latents, still) and not np.allclose(still, moved)
        again = model.predict(golden.actions, latents=history).latents
        assert np.array_equal(still, again)
        with pytest.raises(ValueError, match=r"history_actions must be \[1, 2\]"):
            model.predict(golden.actions, latents=history, history_actions=np.ones((2, ACTIONS)))
        with pytest.raises(ValueError, match=r"latents must be \[2, 2, 8\] or \[2, 8\]"):
            model.predict(golden.actions, latents=golden.latents[:3])
        with pytest.raises(ValueError, match="actions must be finite"):
            model.predict(golden.actions, latents=history, history_actions=np.full((1, ACTIONS), np.nan))


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_single_step_graph_equals_the_predictor(tmp_path: Path, engine: str) -> None:
    with_step = make_bundle(tmp_path / "with", history_size=2, step=True)
    without = make_bundle(tmp_path / "without", history_size=2)
    actions = np.random.default_rng(0).uniform(-1, 1, (1, HORIZON, ACTIONS)).astype(np.float32)
    result = []
    for bundle in (with_step, without):
        with WorldModel.open(bundle, engine=engine) as model:
            latent = model.encode(np.full((SIZE, SIZE, 3), 90, np.uint8))
            one, all_steps = model.predict(actions[:, :1]).latents, model.predict(actions).latents
            surprise = model.surprise(np.stack([latent] * 2), np.zeros((1, 2)), actions[0, 0], latent)
            result.append((one, all_steps, surprise))
    for ours, theirs in zip(*result, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert result[0][0] == pytest.approx(result[0][1][:, :1], abs=1e-5)
    parities = golden_parity(with_step, engine=engine)
    assert [(parity.graph, parity.ok) for parity in parities] == [
        ("encoder", True), ("predictor", True), ("step", True), ("energy", True),
    ]  # fmt: skip


@pytest.mark.parametrize("step", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_batched_histories_equal_single_ones(tmp_path: Path, engine: str, threads: int, step: bool) -> None:
    bundle, rng = make_bundle(tmp_path / "made", history_size=2, step=step), np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.uniform(-1, 1, shape).astype(np.float32)

    options = BackendOptions(threads=threads)
    with WorldModel.open(bundle, engine=engine, num_samples=64, options=options) as model:
        latent = model.manifest.io.latent
        requests = [
            RolloutRequest(draw(2, latent.tokens, latent.dim), draw(1, ACTIONS), draw(steps, ACTIONS))
            for steps in (HORIZON, 1, HORIZON - 1)
        ]
        alone = [
            model.predict(actions[None], latents=latents, history_actions=between).latents[0]
            for latents, between, actions, _ in requests
        ]
        for _ in range(2):
            for ours, expected in zip(model.predict_each(requests), alone, strict=True):
                assert ours == pytest.approx(expected, abs=1e-5)
        # Separate requests do not affect the inputs that all candidates share.
        actions = draw(64, HORIZON, ACTIONS)
        futures = model.predict(actions, latents=requests[0][0], history_actions=requests[0][1]).latents
        last = model.predict(actions[-1:], latents=requests[0][0], history_actions=requests[0][1]).latents
        assert futures[-1:] == pytest.approx(last, abs=1e-5)
        with pytest.raises(ValueError, match="actions must be finite"):
            model.predict_each([requests[0]._replace(actions=np.full((HORIZON, ACTIONS), np.nan))])


def test_surprise_is_the_error_of_one_step(model: WorldModel, golden: GoldenOutputs) -> None:
    previous, no_actions = golden.latents[:1], np.zeros((0, ACTIONS), np.float32)
    action = np.array([0.5, -0.25], np.float32)
    predicted = model.predict(np.tile(action, (1, HORIZON, 1)), latents=previous[0]).latents[0, 0]
    assert model.surprise(previous, no_actions, action, predicted) == pytest.approx(0.0, abs=1e-6)
    assert model.surprise(previous, no_actions, action, predicted + 0.5) == pytest.approx(0.5, abs=1e-5)
    with pytest.raises(ValueError, match="observed"):
        model.surprise(previous, no_actions, action, predicted[0])


def test_step_response_is_the_fraction_of_the_predicted_change(
    model: WorldModel, golden: GoldenOutputs
) -> None:
    before, no_actions = golden.latents[0], np.zeros((0, ACTIONS), np.float32)
    action = np.array([0.5, -0.25], np.float32)
    predicted = model.predict(np.tile(action, (1, HORIZON, 1)), latents=before).latents[0, 0]
    change = float(np.sqrt(np.mean((predicted - before) ** 2)))
    for share in (0.0, 0.5, 1.0, -1.0):
        arrived = before + np.float32(share) * (predicted - before)
        outcome = model.outcome(golden.latents[:1], no_actions, action, arrived)
        assert outcome.predicted_change == pytest.approx(change, abs=1e-5)
        assert outcome.observed_change == pytest.approx(share * change, abs=1e-5)
        assert outcome.surprise == pytest.approx((1 - share) * change, abs=1e-5)


@pytest.mark.parametrize(
    ("session", "graph"),
    [
        ("encoder", "encoder"),
        ("predictor", "predictor"),
        ("predict_one", "predictor"),
        ("energy", "energy"),
        ("energy_one", "energy"),
        ("relative_pose", "relative_pose"),
        ("relative_pose_one", "relative_pose"),
    ],
)
def test_each_batch_size_of_a_graph_is_checked_against_the_golden_outputs(
    pose_bundle: Path, monkeypatch: pytest.MonkeyPatch, session: str, graph: str
) -> None:
    class Wrong:
        def __init__(self, right: Session) -> None:
            self._right = right
            self.inputs, self.outputs, self.close = right.inputs, right.outputs, right.close

        def run(self) -> dict[str, NDArray[np.float32]]:
            return {name: np.zeros_like(output) for name, output in self._right.run().items()}

    def opened(*args: Any) -> CompiledGraphs:
        right = open_sessions(*args)
        return replace(right, **{session: Wrong(getattr(right, session))})

    monkeypatch.setattr("jepa_runtime.model.world_model.open_sessions", opened)
    parities = golden_parity(Bundle.open(pose_bundle), engine="onnxruntime:CPU")
    assert [parity.graph for parity in parities if not parity.ok] == [graph]


def test_every_stage_is_timed(model: WorldModel, golden: GoldenOutputs) -> None:
    model.encode(golden.frames[0])
    model.energy(model.predict(golden.actions).latents, golden.goal[0])
    took_ms = model.timings
    assert set(took_ms) == {"preprocess", "encode", "predict", "energy", "relative_pose"}
    # This bundle has no relative pose graph.
    assert took_ms["relative_pose"] == 0
    assert all(0 < took_ms[stage] < 1000 for stage in ("preprocess", "encode", "predict", "energy"))


def test_invalid_frame_is_rejected_and_the_next_one_served(model: WorldModel, golden: GoldenOutputs) -> None:
    with pytest.raises(FrameError, check=code("frame.not_rgb")):
        model.encode(np.zeros((SIZE, SIZE), np.uint8))
    assert model.encode(golden.frames[0]) == pytest.approx(golden.latents[0], abs=1e-4)


def test_precision_can_be_selected(toy_bundle: Path, golden: GoldenOutputs) -> None:
    with WorldModel.open(toy_bundle, precision="fp16") as model:
        assert model.precision == "fp16"
        assert model.encode(golden.frames[0]) == pytest.approx(golden.latents[0], abs=0.05)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"precision": "int8"}, "bundle.variant_missing"),
        ({"engine": "onnxruntime", "precision": "fp16"}, "bundle.variant_missing"),
        ({"engine": "onnxruntime:GPU"}, "backend.device_not_found"),
        ({"num_samples": 0}, "model.num_samples_invalid"),
        ({"num_samples": 1 << 24}, "model.num_samples_invalid"),
    ],
)
def test_open_with_unsupported_options_raises(
    toy_bundle: Path, options: dict[str, object], expected: str
) -> None:
    with pytest.raises(JepaRuntimeError, check=code(expected)):
        WorldModel.open(toy_bundle, **options)


def test_number_of_candidates_can_be_selected(toy_bundle: Path, golden: GoldenOutputs) -> None:
    for count in (1, 20):
        with WorldModel.open(toy_bundle, num_samples=count) as model:
            actions = np.resize(golden.actions, (count, HORIZON, ACTIONS))
            futures = model.predict(actions, latents=golden.latents[0])
            assert model.energy(futures.latents, golden.goal[0]).shape == (count, HORIZON)


def test_untrained_bundle_opens_only_if_allowed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "toy", trained=False)
    with pytest.raises(BundleError, check=code("bundle.untrained")):
        WorldModel.open(bundle)
    with WorldModel.open(bundle, allow_untrained=True) as model:
        assert not model.manifest.trained


def test_graph_that_contradicts_the_manifest_is_rejected(toy_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_bundle, tmp_path / "toy"))
    bundle = Bundle.open(folder)
    smaller = bundle.manifest.model_copy(
        update={
            "io": bundle.manifest.io.model_copy(
                update={"latent": {"tokens": 1, "dim": 16, "dtype": "float32"}}
            )
        }
    )
    with np.load(folder / "golden.npz") as arrays:
        reshaped = {
            name: array.reshape(*array.shape[:-2], 1, 16) if name in ("latents", "futures", "goal") else array
            for name, array in arrays.items()
        }
    np.savez(folder / "golden.npz", **reshaped)
    bundle = jepa_runtime.bundle.seal(folder, smaller.model_dump(mode="json", warnings=False))
    with pytest.raises(BackendError, check=code("backend.graph_mismatch")):
        WorldModel.open(bundle)


def test_closed_model_raises(toy_bundle: Path) -> None:
    model = WorldModel.open(toy_bundle)
    model.close()
    model.close()
    with pytest.raises(BackendError, check=code("model.closed")):
        model.encode(np.zeros((SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.encode(np.zeros((SIZE, SIZE, 3), np.uint8)),
        lambda model: model.energy(np.zeros(LATENT, np.float32), np.zeros(LATENT, np.float32)),
        lambda model: model.close(),
    ],
)
def test_another_thread_is_rejected(model: WorldModel, use: Callable[[WorldModel], object]) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(BackendError, check=code("model.wrong_thread")):
        pool.submit(use, model).result()


def test_shipped_bundle_opens_and_plans(two_rooms_bundle: Path) -> None:
    with WorldModel.open(two_rooms_bundle) as model:
        golden = model.bundle.golden()
        latent = model.encode(golden.frames[0])
        futures = model.predict(golden.actions[: model.num_samples], latents=latent)
        assert np.isfinite(model.energy(futures.latents, golden.goal[0])).all()


class Wrapper:
    """An object that only has ``__array__``, as torch tensors and PIL images have."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __array__(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        return self._values


def test_encode_accepts_objects_with_array(model: WorldModel, golden: GoldenOutputs) -> None:
    expected = model.encode(golden.frames[0])
    np.testing.assert_array_equal(model.encode(Wrapper(golden.frames[0])), expected)
    with pytest.raises(FrameError, check=code("frame.not_rgb")):
        model.encode(Wrapper(np.zeros((SIZE, SIZE), np.uint8)))


def test_encode_accepts_torch_tensors_and_pil_images(model: WorldModel, golden: GoldenOutputs) -> None:
    torch, pil = pytest.importorskip("torch"), pytest.importorskip("PIL.Image")
    expected = model.encode(golden.frames[0])
    for frame in (torch.from_numpy(golden.frames[0].copy()), pil.fromarray(golden.frames[0])):
        np.testing.assert_array_equal(model.encode(frame), expected)
    with pytest.raises(FrameError, check=code("frame.not_rgb")):
        model.encode(torch.zeros((SIZE, SIZE, 3), dtype=torch.float32, requires_grad=True))


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_encode_of_a_batch_equals_encode_of_each_frame(two_rooms_bundle: Path, precision: str) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (5, 90, 120, 3), np.uint8)
    with WorldModel.open(two_rooms_bundle, precision=precision) as model:
        expected = np.stack([model.encode(frame) for frame in frames])
        latents = model.encode(frames)
        assert latents.shape == expected.shape and latents.dtype == np.float32
        np.testing.assert_allclose(latents, expected, rtol=0, atol=1e-6)
        # The frames are independent of their order.
        np.testing.assert_allclose(model.encode(frames[::-1]), expected[::-1], rtol=0, atol=1e-6)


def test_encode_accepts_a_batch_of_torch(model: WorldModel, golden: GoldenOutputs) -> None:
    torch = pytest.importorskip("torch")
    latents = model.encode(torch.from_numpy(golden.frames.copy()))
    np.testing.assert_array_equal(latents, model.encode(golden.frames))


def test_encode_times_a_batch_as_a_whole(model: WorldModel, golden: GoldenOutputs) -> None:
    began = time.perf_counter()
    model.encode(np.repeat(golden.frames[:1], 50, axis=0))
    spent_ms = (time.perf_counter() - began) * 1e3
    assert spent_ms / 2 < model.timings["preprocess"] + model.timings["encode"] <= spent_ms


def test_predict_after_a_batch_needs_latents(model: WorldModel, golden: GoldenOutputs) -> None:
    model.encode(golden.frames[0])
    latents = model.encode(golden.frames)
    with pytest.raises(ValueError, match="give latents"):
        model.predict(golden.actions)
    assert np.isfinite(model.predict(golden.actions, latents=latents[0]).latents).all()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, SIZE, SIZE, 3), np.float32),
        np.zeros((2, 3, SIZE, SIZE), np.uint8),
        np.zeros((0, SIZE, SIZE, 3), np.uint8),
        np.zeros((1, 2, SIZE, SIZE, 3), np.uint8),
        np.zeros((SIZE, SIZE, 4), np.uint8),
        np.zeros(3, np.uint8),
        [[[0, 0, 0]]],
        "frame.png",
    ],
    ids=["float", "channels first", "empty", "five axes", "RGBA", "one axis", "list", "file name"],
)
def test_encode_of_anything_else_raises(model: WorldModel, golden: GoldenOutputs, frames: Any) -> None:
    with pytest.raises(FrameError, check=code("frame.not_rgb")):
        model.encode(frames)
    assert model.encode(golden.frames[0]) == pytest.approx(golden.latents[0], abs=1e-4)


def test_repr_of_model_and_futures_is_one_readable_line(toy_bundle: Path, golden: GoldenOutputs) -> None:
    with WorldModel.open(toy_bundle) as model:
        assert repr(model) == f"WorldModel(toy 1.2.3, openvino:CPU, fp32, K={NUM_SAMPLES})"
        futures = model.predict(golden.actions, latents=golden.latents[0])
    assert repr(model).endswith(", closed)")
    shape = [NUM_SAMPLES, HORIZON, TOKENS, DIM]
    assert repr(futures).startswith(f"Futures(latents={shape}, actions=") and "energies=None" in repr(futures)


def test_repr_html_of_model_and_futures_is_a_table(toy_bundle: Path, golden: GoldenOutputs) -> None:
    with WorldModel.open(toy_bundle) as model:
        assert "WorldModel toy 1.2.3" in texts(model._repr_html_()) and "open" in texts(model._repr_html_())
        futures = model.predict(golden.actions, latents=golden.latents[0], goal=golden.goal[0])
    assert "closed" in texts(model._repr_html_())
    assert futures.energies is not None
    best = int(futures.energies[:, -1].argmin())
    assert f"energy of future {best}, the lowest" in texts(futures._repr_html_())
    broken = replace(futures, energies=np.full_like(futures.energies, np.nan))
    assert "energy of future 0, the lowest" in texts(broken._repr_html_())
    assert "error bound" in texts(replace(futures, energies=None)._repr_html_())


def texts(html: str) -> list[str]:
    return list(ElementTree.fromstring(html).itertext())
