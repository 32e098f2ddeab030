"""Reading a run from its bag, and its prediction errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.errors import SourceError
from jepa_runtime.recording import messages
from jepa_runtime.visualization.run_data import read_run
from tests.errors import code
from tests.runtime.bags import write_bag
from tests.runtime.fakes import HORIZON, STEP_S
from tests.runtime.visualization import runs


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_run(tmp_path_factory.mktemp("bags") / "run.mcap", error=0.2)


def test_read_run_has_all_frames(bag: Path) -> None:
    run = read_run(bag)
    assert (run.name, run.prefix, run.namespace, run.frames) == ("run.mcap", "/world_model", "", runs.FRAMES)
    assert run.duration_s == pytest.approx((runs.FRAMES - 1) * runs.PERIOD_S)
    np.testing.assert_array_equal(run.latents, [runs.latent(frame) for frame in range(runs.FRAMES)])
    for frame in (0, 17, 59):
        assert abs(int(run.image(frame).mean()) - runs.gray(frame)) <= 2
    assert run.facts.model == "fake 1.2.3" and run.facts.step_s == STEP_S


def test_read_run_has_series_with_times(bag: Path) -> None:
    run = read_run(bag)
    assert run.surprise.values.max() == pytest.approx(0.9)
    assert run.surprise.times_s[run.surprise.values.argmax()] == pytest.approx(4.0)
    assert run.energy.values[10] == pytest.approx(9.0)
    planner = run.latency_ms["image to futures in the planner"]
    assert planner.values[3] == 8.0 and planner.times_s[3] == pytest.approx(0.3)
    assert set(run.latency_ms) == {"image to futures in the planner", "encode", "predict"}
    assert run.outcomes == ((pytest.approx(3.0), "reached"),)
    assert len(run.goals) == 1


def test_prediction_error_is_that_of_the_executed_candidate(bag: Path) -> None:
    errors = read_run(bag).errors
    # The last frames have no complete future, and none spans the change of the scene.
    whole = runs.FRAMES - 2 * round(HORIZON * STEP_S / runs.PERIOD_S)
    assert errors.examined == len(errors.distances) == whole
    np.testing.assert_allclose(errors.distances, 0.2, rtol=1e-4)
    np.testing.assert_allclose(errors.bounds, runs.BOUND)
    np.testing.assert_allclose(errors.persistence[0], STEP_S * np.arange(1, HORIZON + 1), rtol=1e-4)
    change = runs.stamp(runs.CHANGE)
    assert not ((errors.stamps_ns < change) & (errors.stamps_ns > change - HORIZON * STEP_S * 1e9 + 1)).any()


def test_moments_cover_the_run_and_have_the_executed_candidate(bag: Path) -> None:
    moments = read_run(bag).moments
    assert [moment.executed for moment in moments] == [runs.RIGHT, runs.RIGHT, runs.UP, runs.UP]
    for moment in moments:
        np.testing.assert_array_equal(moment.observed - moment.frame, 2 * np.arange(1, HORIZON + 1))
        assert moment.mismatch == pytest.approx(0.0, abs=1e-6)


def test_nearest_frames_show_the_end_of_a_future(bag: Path) -> None:
    run = read_run(bag)
    moment = run.moments[0]
    result, away = run.atlas.nearest(moment.predictions.latents[runs.RIGHT])
    np.testing.assert_array_equal(run.frames_with_image[result], moment.observed)
    np.testing.assert_allclose(away, 0.2, rtol=1e-2)


def test_run_without_a_goal_has_no_energies(tmp_path: Path) -> None:
    run = read_run(runs.write_run(tmp_path / "run.mcap", goal=False))
    assert not len(run.energy.values) and not run.goals
    assert all(moment.predictions.energies is None for moment in run.moments)


def test_read_run_without_commands_has_moments_and_no_errors(tmp_path: Path) -> None:
    silent = [entry for entry in runs.entries() if entry[1] != "/cmd_vel"]
    run = read_run(write_bag(tmp_path / "run.mcap", silent))
    assert not len(run.errors.distances) and run.errors.examined == 0
    assert len(run.moments) == 4 and all(moment.executed is None for moment in run.moments)


def test_executed_commands_are_those_on_cmd_vel(tmp_path: Path) -> None:
    twist = {"linear": runs.vector(0.5, 0.5), "angular": runs.vector()}
    proposed = [
        (runs.stamp(frame), topic, messages.TWIST, twist)
        for frame in range(runs.FRAMES)
        for topic in ("/arbiter/cmd_vel", "/autonomy", "/cmd_joystick")
    ]
    errors = read_run(write_bag(tmp_path / "run.mcap", [*runs.entries(), *proposed])).errors
    assert len(errors.distances) == errors.examined > 0


def test_executed_commands_can_be_stamped(tmp_path: Path) -> None:
    stamped = [
        (log_ns, topic, messages.TWIST_STAMPED, {"header": messages.header(log_ns, "base"), "twist": fields})
        if topic == "/cmd_vel"
        else (log_ns, topic, kind, fields)
        for log_ns, topic, kind, fields in runs.entries()
    ]
    errors = read_run(write_bag(tmp_path / "run.mcap", stamped)).errors
    assert len(errors.distances) == errors.examined > 0


def test_actions_unlike_all_candidates_have_no_errors(tmp_path: Path) -> None:
    other = [entry for entry in runs.entries() if entry[1] != "/cmd_vel"]
    for frame in range(runs.FRAMES):
        twist = {"linear": runs.vector(0.5, 0.5), "angular": runs.vector()}
        other.append((runs.stamp(frame), "/cmd_vel", messages.TWIST, twist))
    errors = read_run(write_bag(tmp_path / "run.mcap", other)).errors
    assert errors.examined > 0 and not len(errors.distances)


def test_read_run_with_several_world_models_needs_a_choice(tmp_path: Path) -> None:
    both = [*runs.entries(namespace="/one"), *runs.entries(namespace="/two")]
    path = write_bag(tmp_path / "run.mcap", both)
    with pytest.raises(SourceError, check=code("source.topic_ambiguous")) as raised:
        read_run(path)
    assert "--node: /one/world_model, /two/world_model" in str(raised.value)
    with pytest.raises(SourceError, check=code("source.topic_ambiguous")) as raised:
        read_run(path, node="two/world_model")
    assert "--image" in str(raised.value)
    run = read_run(path, node="two/world_model", image="/two/camera/image_raw")
    assert (run.prefix, run.namespace) == ("/two/world_model", "/two")
    assert len(run.surprise.values) == runs.FRAMES
    with pytest.raises(SourceError, check=code("source.topic_not_found")) as raised:
        read_run(path, node="three")
    assert "three; found: /one" in str(raised.value)


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("/world_model/latent", "record --source"),
        ("/world_model/model_info", "model_info for /world_model"),
        ("/camera/image_raw", "camera"),
    ],
)
def test_read_run_without_a_required_topic_names_it(tmp_path: Path, without: str, named: str) -> None:
    stored = [entry for entry in runs.entries() if entry[1] != without]
    with pytest.raises(SourceError, check=code("source.topic_not_found")) as raised:
        read_run(write_bag(tmp_path / "run.mcap", stored))
    assert named in str(raised.value)


def test_read_run_with_images_of_another_camera_is_an_error(tmp_path: Path) -> None:
    stored = [entry for entry in runs.entries() if entry[1] != "/camera/image_raw"]
    stored += [runs.image("/other/image_raw", runs.stamp(frame) + 7, 0) for frame in range(5)]
    with pytest.raises(SourceError, check=code("source.stamps_differ")):
        read_run(write_bag(tmp_path / "run.mcap", stored))


def test_read_run_of_a_truncated_bag_names_the_repair_command(bag: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(bag.read_bytes()[:5000])
    with pytest.raises(SourceError, check=code("source.bag_damaged")):
        read_run(cut)


def test_read_run_progress_reaches_the_total(bag: Path) -> None:
    messages: list[tuple[int, int]] = []
    read_run(bag, progress=lambda done, total: messages.append((done, total)))
    assert messages[-1][0] == messages[-1][1] and [done for done, _ in messages] == list(
        range(1, len(messages) + 1)
    )


@pytest.mark.parametrize(
    ("changed", "reason", "named"),
    [
        (
            messages.tensor("latent", np.zeros((3, 5), np.float32)),
            "latent_shapes_differ",
            "(2, 4), (3, 5)",
        ),
        (
            messages.tensor("latent", np.zeros((3, 5), np.float32)) | {"dtype": 99},
            "message_invalid",
            "dtype code 99",
        ),
        (messages.tensor("latent", np.full((2, 4), np.nan, np.float32)), "message_invalid", "not finite"),
    ],
)
def test_read_run_with_invalid_latents_is_an_error(
    tmp_path: Path, changed: dict[str, object], reason: str, named: str
) -> None:
    entries = [
        (log_ns, topic, kind, fields | {"latent": changed})
        if topic == "/world_model/latent" and log_ns >= runs.stamp(runs.CHANGE)
        else (log_ns, topic, kind, fields)
        for log_ns, topic, kind, fields in runs.entries()
    ]
    with pytest.raises(SourceError, check=code(f"source.{reason}")) as raised:
        read_run(write_bag(tmp_path / "run.mcap", entries))
    assert named in str(raised.value)


@pytest.mark.parametrize("error", [np.nan, np.inf])
def test_read_run_with_futures_not_finite_is_an_error(tmp_path: Path, error: float) -> None:
    with pytest.raises(SourceError, check=code("source.message_invalid")) as raised:
        read_run(runs.write_run(tmp_path / "run.mcap", error=error))
    assert "futures at" in str(raised.value)


def test_read_run_with_undecodable_goal_is_an_error(tmp_path: Path) -> None:
    entries = runs.entries()
    place = next(place for place, entry in enumerate(entries) if entry[1] == "/goal_image")
    *where, fields = entries[place]
    entries[place] = (*where, fields | {"encoding": "rgbx77"})
    with pytest.raises(SourceError, check=code("source.image_invalid")) as raised:
        read_run(write_bag(tmp_path / "run.mcap", entries))
    assert "/goal_image" in str(raised.value) and "rgbx77" in str(raised.value)
