"""``jepa-runtime repeat --to``: a drive to the place of an image, over the graph of a tour."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_runtime.cli import main
from jepa_runtime.errors import SourceError, WorldError
from jepa_runtime.imaging import to_png
from jepa_runtime.reports import read_page_data
from jepa_runtime.routes import PlaceGraph, Route, RouteRecorder, model_of
from jepa_runtime.sources import open_source
from jepa_sim.closed_loop.far_goal import drive_to_image
from jepa_sim.worlds import World, make_world
from jepa_sim.worlds.first_person.world import FirstPersonRooms
from tests.errors import code
from tests.sim.closed_loop.planes import MappedPlane
from tests.sim.first_person.pose_model import PoseModel, SightedModel, show_poses

SEED = 25
WORLD = ["--world", "first_person_tour", "--seed", str(SEED)]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command run with a model that reads exact poses of places that are near."""
    show_poses(monkeypatch)

    @contextmanager
    def opened(*_: Any, **__: Any) -> Iterator[PoseModel]:
        yield SightedModel()

    monkeypatch.setattr("jepa_sim.repeat_command.WorldModel.open", opened)


@pytest.fixture
def tour(exact: None, tmp_path: Path) -> Path:
    model = SightedModel()
    source = open_source(f"first_person_tour?seed={SEED}")
    recorder = RouteRecorder(model_of(model), model.energy)
    for frame in source.frames():
        pose = source.pose
        assert pose is not None
        recorder.add(
            stamp_ns=frame.stamp_ns, latent=model.encode(frame.image), image=frame.image, pose=pose.pose
        )
    recorder.finish(source.name).save(tmp_path / "tour")
    return tmp_path / "tour"


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> list[FirstPersonRooms]:
    """Return the worlds in which commands drive."""
    made: list[FirstPersonRooms] = []

    def make(name: str) -> World:
        world = make_world(name)
        assert isinstance(world, FirstPersonRooms)
        made.append(world)
        return world

    monkeypatch.setattr("jepa_sim.repeat_command.make_world", make)
    return made


def test_tour_source_shows_the_house_of_the_world_from_the_start_of_its_robot() -> None:
    world = make_world("first_person_tour")
    world.reset(SEED)
    frame = next(iter(open_source(f"first_person_tour?seed={SEED}").frames()))
    assert np.abs(frame.image.astype(int) - world.render()).mean() < 4, "but for the noise of the sensor"
    world.reset(SEED + 1)
    assert np.abs(frame.image.astype(int) - world.render()).mean() > 10


def test_tour_source_has_the_commands_that_its_odometry_shows() -> None:
    source = open_source(f"first_person_tour?seed={SEED}", rate_hz=30.0)
    commands, poses = [], []
    for _ in islice(source.frames(), 900):
        assert source.command is not None and source.pose is not None
        commands.append(source.command)
        poses.append(source.pose.pose)
    moved = np.diff(np.array(poses), axis=0)
    speeds = 30 * np.stack([np.hypot(moved[:, 0], moved[:, 1]), moved[:, 2]], axis=1)
    # The robot follows with a lag, and its odometry has errors.
    for axis, least in enumerate((0.7, 0.9)):
        assert np.corrcoef(np.array(commands)[:-1, axis], speeds[:, axis])[0, 1] > least


@pytest.mark.parametrize("spec", ["first_person_tour?seed=x", "first_person_tour?layout=fixed"])
def test_tour_source_with_an_invalid_option_is_rejected(spec: str) -> None:
    with pytest.raises(SourceError, check=code("source.option_invalid")):
        open_source(spec)


def test_repeat_to_an_image_of_the_tour_drives_there(
    tour: Path, worlds: list[FirstPersonRooms], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = Route.open(tour)
    place = 2 * len(taught) // 3
    image = tour / "images" / f"{place:06d}.png"
    figures, page = tmp_path / "drive.json", tmp_path / "drive.html"
    command = ["repeat", str(tour), "models/first_person", *WORLD, "--to", str(image)]
    assert main([*command, "--json", str(figures), "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert f"{image}: nearest to key frame" in shown and "reached: " in shown
    true = SightedModel().encode(taught.key_frames[place].picture)[0, :2]
    assert np.hypot(*(worlds[0].pose[:2] - true)) < 0.3
    drive = json.loads(figures.read_text())
    assert drive["outcome"] == "reached" and drive["places"] == len(taught)
    assert abs(drive["goal"]["time_s"] - taught.key_frames[place].time_s) < 3.0
    assert drive["points"][0]["state"] == "localizing" and drive["points"][-1]["progress"] > 0.9
    assert drive["points"][-1]["time_s"] < taught.duration_s, "shorter than the tour"
    assert read_page_data(page)["points"] == drive["points"]


def test_repeat_to_an_image_of_another_place_names_it_and_does_not_drive(
    tour: Path, worlds: list[FirstPersonRooms], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "elsewhere.png"
    image.write_bytes(to_png(np.full((72, 96, 3), 250, np.uint8)))
    assert main(["repeat", str(tour), "models/first_person", *WORLD, "--to", str(image)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "route.place_unknown" in error and str(image) in error
    assert (worlds[0].read_odometry() == 0).all()


def test_repeat_to_a_missing_image_is_an_error(tour: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(tour), "models/first_person", *WORLD, "--to", str(tour / "missing.png")]) == 1
    assert "source.goal_unreadable" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--planner", "lewm"], ["--reverse"]])
def test_repeat_to_with_an_option_that_contradicts_it_is_a_usage_error(
    tour: Path, options: list[str]
) -> None:
    image = str(tour / "images" / "000000.png")
    with pytest.raises(SystemExit) as ended:
        main(["repeat", str(tour), "models/first_person", *WORLD, "--to", image, *options])
    assert ended.value.code == 2


def test_drive_to_image_in_a_world_without_odometry_is_an_error(tour: Path) -> None:
    model = SightedModel()
    taught = Route.open(tour)
    graph = PlaceGraph.build(taught, model)
    with pytest.raises(WorldError, check=code("sim.no_odometry")):
        drive_to_image(model, MappedPlane(), graph, taught.key_frames[20].picture)
