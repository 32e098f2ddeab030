"""The folder of a route: complete or refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.errors import RouteError
from jepa_runtime.routes.manifest import RouteModel
from jepa_runtime.routes.route import Route
from tests.errors import code
from tests.runtime.routes.drives import MODEL, line, record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    record(line()).save(tmp_path / "route")
    return tmp_path / "route"


def test_route_saved_and_opened_is_the_same(folder: Path) -> None:
    taught, opened = record(line()), Route.open(folder)
    assert (opened.latents == taught.latents).all() and (opened.times_s == taught.times_s).all()
    assert [frame.image for frame in opened.key_frames] == [frame.image for frame in taught.key_frames]
    assert [frame.command for frame in opened.key_frames] == [frame.command for frame in taught.key_frames]
    assert (opened.model, opened.near_energy) == (taught.model, taught.near_energy)
    assert opened.key_frames[0].picture.shape == (MODEL.frame_height, MODEL.frame_width, 3)


def test_route_reversed_twice_is_the_same() -> None:
    route = record(line())
    back = route.reversed()
    assert (back.latents == route.latents[::-1]).all() and back.times_s[0] == 0
    assert back.key_frames[0].command == pytest.approx([-0.5, 0.0])
    again = back.reversed()
    assert again.times_s == pytest.approx(route.times_s)
    assert again.key_frames[3].command == pytest.approx(route.key_frames[3].command)


def _without_manifest(folder: Path) -> None:
    (folder / "route.json").unlink()


def _without_image(folder: Path) -> None:
    (folder / "images" / "000003.png").unlink()


def _truncated_latents(folder: Path) -> None:
    path = folder / "latents.npy"
    path.write_bytes(path.read_bytes()[:-4])


def _changed_image(folder: Path) -> None:
    (folder / "images" / "000000.png").write_bytes((folder / "images" / "000001.png").read_bytes())


def _truncated_manifest(folder: Path) -> None:
    path = folder / "route.json"
    path.write_bytes(path.read_bytes()[:-100])


def _empty_manifest(folder: Path) -> None:
    (folder / "route.json").write_bytes(b"")


def _changed_manifest(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "route.json").read_text())
        (folder / "route.json").write_text(json.dumps(content | fields))

    return change


def _decreasing_times(folder: Path) -> None:
    content = json.loads((folder / "route.json").read_text())
    content["key_frames"][2]["time_s"] = 0.0
    (folder / "route.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_without_manifest, "route.incomplete"),
        (_without_image, "route.incomplete"),
        (_truncated_latents, "route.damaged"),
        (_changed_image, "route.damaged"),
        (_truncated_manifest, "route.damaged"),
        (_empty_manifest, "route.damaged"),
        (_decreasing_times, "route.damaged"),
        (_changed_manifest(key_frames=[]), "route.damaged"),
        (_changed_manifest(near_energy=-1.0), "route.damaged"),
        (_changed_manifest(extra=1), "route.damaged"),
        (_changed_manifest(format_version=2), "route.format_unknown"),
    ],
)
def test_route_damaged_folder_is_refused(folder: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(folder)
    with pytest.raises(RouteError, check=code(reason)):
        Route.open(folder)


def test_route_linked_image_is_refused(folder: Path, tmp_path: Path) -> None:
    image = folder / "images" / "000000.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(RouteError, check=code("route.not_readable")):
        Route.open(folder)


def test_route_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RouteError, check=code("route.not_found")):
        Route.open(tmp_path / "none")


def test_route_existing_folder_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(RouteError, check=code("route.exists")):
        record(line()).save(folder)
    Route.open(folder)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"latent_space": "b" * 64}, "route.encoder_mismatch"),
        ({"tokens": 2}, "route.encoder_mismatch"),
        ({"energy_space": "c" * 64}, "route.energy_mismatch"),
    ],
)
def test_route_of_another_model_is_refused(fields: dict[str, object], reason: str) -> None:
    other = RouteModel(**(MODEL.model_dump() | fields))
    with pytest.raises(RouteError, check=code(reason), match="--from"):
        record(line()).check_model(other, "route")


def test_route_of_the_same_model_in_another_version_is_accepted() -> None:
    record(line()).check_model(RouteModel(**(MODEL.model_dump() | {"version": "2.0.0"})), "route")


_SAVE = """
import sys
from pathlib import Path
from jepa_runtime.util import atomic_files
from tests.runtime.routes.drives import line, record

write, left = atomic_files.write, int(sys.argv[2])


def write_some(path, content):
    global left
    if not left:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(path, content)


atomic_files.write = write_some
record(line(1.0)).save(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("writes", [0, 5, 9])
def test_route_process_killed_while_writing_leaves_no_route(tmp_path: Path, writes: int) -> None:
    done = subprocess.run([sys.executable, "-c", _SAVE, str(tmp_path / "route"), str(writes)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "route").exists()
    with pytest.raises(RouteError, check=code("route.not_found")):
        Route.open(tmp_path / "route")
    (rest,) = tmp_path.iterdir()
    with pytest.raises(RouteError, check=code("route.incomplete")):
        Route.open(rest)


def test_route_disk_error_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError):
        record(line(1.0)).save(tmp_path / "route")
    assert not list(tmp_path.iterdir())
