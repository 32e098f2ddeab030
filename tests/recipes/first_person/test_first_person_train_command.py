"""jepa-export train first_person: from the arguments to the bundle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_export.errors import JepaExportError
from jepa_recipes.first_person import closed_loop, train_command
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.metrics import DriveMetrics
from jepa_recipes.first_person.networks import Networks, create_networks
from jepa_recipes.first_person.sizes import STUDENTS, TEACHER
from jepa_recipes.first_person.train_command import train_and_bundle
from jepa_recipes.first_person.training import DistilledNetworks, Recipe, TeacherTraining
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import RouteError
from jepa_sim.closed_loop.first_person.protocol import Drive, drive, mission_of
from jepa_sim.worlds.first_person.levels import LEVELS, Level, Mission
from tests.errors import code


def short_mission(level: Level, seed: int) -> Mission:
    """Return a mission of one second, at any level in a room."""
    return replace(mission_of(LEVELS["L0"], seed), time_limit_s=1.0)


SETTINGS: dict[str, Any] = {
    "size": "base",
    "layouts": 7,
    "seed": 3,
    "frames": 240,
    "prediction_frames": 120,
    "threads": 1,
    "bf16": False,
    "episodes": 0,
    "command": "a test",
}


def test_train_command_with_an_output_that_is_no_bundle_is_rejected_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained first")

    monkeypatch.setattr(train_command, "train", refuse)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(JepaExportError, check=code("export.output_not_a_bundle")):
        train_and_bundle(tmp_path, **SETTINGS)


def test_train_command_ends_with_the_bundle_of_the_trained_networks(
    networks: Networks,
    drives: DriveLibrary,
    written: tuple[Path, DriveMetrics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def write(*given: object, **settings: object) -> None:
        calls.append((given, settings))
        shutil.copytree(written[0], tmp_path / "bundle")

    monkeypatch.setattr(train_command, "train", lambda *_, **__: networks)
    monkeypatch.setattr(train_command, "sample_drives", lambda *_, **__: (drives, drives))
    monkeypatch.setattr(train_command, "write_first_person_bundle", write)
    assert train_and_bundle(tmp_path, **SETTINGS) == 0
    ((given, settings),) = calls
    assert given == (networks, drives, drives, tmp_path / "bundle") and settings["command"] == "a test"
    assert settings["model_id"] == "first_person"
    counts = Bundle.open(tmp_path / "bundle").report()["multiply_adds"]
    assert counts["encoder"] > 30e6 and counts["predictor"] > 36 * 10e6


def test_train_command_trains_the_size_and_names_it_in_the_model_id(
    networks: Networks,
    drives: DriveLibrary,
    written: tuple[Path, DriveMetrics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained, ids = [], []

    def train(*_: object, recipe: Recipe, **__: object) -> Networks:
        trained.append((recipe.student, recipe.library.layouts))
        return networks

    def write(*_: object, model_id: str, **__: object) -> None:
        ids.append(model_id)
        shutil.copytree(written[0], tmp_path / "bundle")

    monkeypatch.setattr(train_command, "train", train)
    monkeypatch.setattr(train_command, "sample_drives", lambda *_, **__: (drives, drives))
    monkeypatch.setattr(train_command, "write_first_person_bundle", write)
    assert train_and_bundle(tmp_path, **SETTINGS | {"size": "small"}) == 0
    assert trained == [(STUDENTS["small"], 7)] and ids == ["first_person_small"]


def test_train_command_scales_the_schedule_of_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes: list[Recipe] = []

    def train(*_: object, recipe: Recipe, **__: object) -> Networks:
        recipes.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "train", train)
    for scale in (1, 0.1):
        with pytest.raises(KeyboardInterrupt):
            train_and_bundle(tmp_path, **SETTINGS | {"schedule_scale": scale})
    whole, tenth = recipes
    assert whole == replace(Recipe(), library=replace(Recipe().library, layouts=7))
    for amount in ("amount", "masked", "prediction"):
        before, after = getattr(whole, amount), getattr(tenth, amount)
        assert after.schedule.decay == before.schedule.decay / 10
        assert after.schedule.pose == tuple(frames / 10 for frames in before.schedule.pose)
        assert replace(after, schedule=before.schedule) == before


def test_train_command_with_a_teacher_writes_both_bundles(
    networks: Networks,
    drives: DriveLibrary,
    written: tuple[Path, DriveMetrics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = create_networks(TEACHER).eval()
    training = TeacherTraining(masked_frames=1, frames=2, odometry_weight=1.0)
    calls = []

    def write(*given: Any, **settings: Any) -> DriveMetrics:
        calls.append((given, settings))
        shutil.copytree(written[0], given[3])
        return written[1]

    def distill(*_: Any, **settings: Any) -> DistilledNetworks:
        assert settings["teacher"] is training and settings["recipe"].student == STUDENTS["base"]
        return DistilledNetworks(teacher, networks)

    monkeypatch.setattr(train_command, "distill", distill)
    monkeypatch.setattr(train_command, "sample_drives", lambda *_, **__: (drives, drives))
    monkeypatch.setattr(train_command, "write_first_person_bundle", write)
    assert train_and_bundle(tmp_path, teacher=training, **SETTINGS) == 0
    (large, large_settings), (small, small_settings) = calls
    assert large == (teacher, drives, drives, tmp_path / "teacher")
    assert large_settings["model_id"] == "first_person_teacher"
    assert large_settings["variants"] == (("onnx", "fp32"),)
    assert small == (networks, drives, drives, tmp_path / "bundle") and small_settings["teacher"]
    report = Bundle.open(tmp_path / "bundle").report()
    assert report["teacher"]["open_loop"]["readings"] == written[1].readings
    assert report["teacher"]["multiply_adds"] == report["multiply_adds"]


def test_train_command_with_episodes_reports_the_goals_reached_at_each_level(
    networks: Networks,
    drives: DriveLibrary,
    written: tuple[Path, DriveMetrics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train_command, "train", lambda *_, **__: networks)
    monkeypatch.setattr(train_command, "sample_drives", lambda *_, **__: (drives, drives))
    monkeypatch.setattr(
        train_command,
        "write_first_person_bundle",
        lambda *_, **__: shutil.copytree(written[0], tmp_path / "bundle"),
    )

    def drive_to_goals_only(level: Level, *given: Any, **settings: Any) -> Drive:
        if level.name == "TR":
            raise RouteError("2 key frames: the robot did not move", code="route.too_short")
        return drive(level, *given, **settings)

    monkeypatch.setattr(closed_loop, "drive", drive_to_goals_only)
    monkeypatch.setattr(closed_loop, "mission_of", short_mission)
    assert train_and_bundle(tmp_path, **SETTINGS | {"episodes": 2}) == 0
    scores = Bundle.open(tmp_path / "bundle").report()["closed_loop"]
    assert list(scores) == ["L0", "L1", "TR"]
    for score in scores.values():
        assert score["episodes"] == 2 and score["rate"] == score["reached"] / 2
        assert score["interval"][0] <= score["rate"] <= score["interval"][1]
    # A model that learned little cannot record a route.
    assert scores["TR"]["reached"] == 0
    assert "goals in held-out layouts" in capsys.readouterr().out
