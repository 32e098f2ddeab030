"""``jepa-runtime teach`` and ``jepa-runtime repeat``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jepa_runtime.cli import main
from jepa_runtime.reports import read_page_data
from jepa_runtime.routes import Route

SOURCE = ["--source", "two_rooms?seed=3"]


@pytest.fixture(scope="module")
def route(two_rooms_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routes") / "first"
    assert main(["teach", str(two_rooms_bundle), *SOURCE, "--duration", "5", "--output", str(folder)]) == 0
    return folder


def test_repeat_writes_what_happened(
    route: Path, two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "trace.json", tmp_path / "trace.html"
    command = ["repeat", str(route), str(two_rooms_bundle), "--seed", "3"]
    assert main([*command, "--json", str(figures), "--html", str(page)]) == 0
    assert "reached: the end of the route is reached" in capsys.readouterr().out
    trace = json.loads(figures.read_text())
    assert trace["outcome"] == "reached" and trace["points"][-1]["progress"] > 0.8
    data = read_page_data(page)
    assert data["report"] == "route" and data["points"] == trace["points"]
    assert page.read_text().count("<image") >= 5


def test_repeat_back_with_a_displaced_start_reaches_the_start(route: Path, two_rooms_bundle: Path) -> None:
    command = ["repeat", str(route), str(two_rooms_bundle), "--seed", "3", "--reverse", "--displace", "0.2"]
    assert main(command) == 0


def test_repeat_in_another_world_is_negative(
    route: Path, two_rooms_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repeat", str(route), str(two_rooms_bundle), "--seed", "12"]) == 3
    assert "lost: " in capsys.readouterr().out


def test_teach_route_ends_where_the_images_continue_elsewhere(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["teach", str(two_rooms_bundle), *SOURCE, "--start", "9", "--output", str(tmp_path / "route")]
    assert main([*command, "--rate", "10"]) == 0
    assert "the images continue in another place" in capsys.readouterr().out
    assert 2.5 < Route.open(tmp_path / "route").duration_s < 3.1


def test_teach_from_a_route_encodes_its_images_again(
    route: Path, two_rooms_bundle: Path, tmp_path: Path
) -> None:
    other = ["--engine", "onnxruntime:CPU", "--precision", "fp32"]
    command = ["teach", str(two_rooms_bundle), "--from", str(route), "--output", str(tmp_path / "again")]
    assert main([*command, *other]) == 0
    taught, again = Route.open(route), Route.open(tmp_path / "again")
    assert again.model.latent_space != taught.model.latent_space
    assert [frame.image for frame in again.key_frames] == [frame.image for frame in taught.key_frames]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--output", "{route}"], 1, "exists already"),
        (["--output", "{new}", "--spacing", "0.5"], 2, "spacing must be at least 1"),
        (["--output", "{new}", "--duration", "0.01"], 1, "the robot did not move"),
    ],
)
def test_teach_rejects_what_it_cannot_do(
    route: Path,
    two_rooms_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
    message: str,
) -> None:
    given = [option.format(route=route, new=tmp_path / "new") for option in options]
    command = ["teach", str(two_rooms_bundle), *SOURCE, *given]
    if status == 2:
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
    else:
        assert main(command) == status
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()
