"""jepa-export atlas: adds an atlas of remembered frames to a bundle, or rejects the input."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from jepa_export.cli import main
from jepa_runtime import WorldModel
from jepa_runtime.bundle import Bundle
from jepa_runtime.sources.factory import open_source
from jepa_runtime.visualization.atlas import ATLAS_NAME, Atlas

SOURCE = "two_rooms?seed=5&layout=fixed"


def make(bundle: Path, out: Path, *further: str) -> int:
    return main(["atlas", str(bundle), "--source", SOURCE, "--output", str(out), "--read", "240", *further])


def test_add_atlas_writes_a_new_bundle_and_leaves_the_old_one(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Bundle.open(two_rooms_bundle).sha256
    assert make(two_rooms_bundle, tmp_path / "new", "--frames", "60") == 0
    output = capsys.readouterr().out
    assert "60 of 240 frames" in output and "MB of at most 64 MB" in output and "the map explains" in output
    assert Bundle.open(two_rooms_bundle).sha256 == before
    atlas = Atlas.from_bundle(Bundle.open(tmp_path / "new"))
    assert atlas is not None and len(atlas.images) == 60
    assert atlas.embedding.explained.sum() > 0.8, "a robot moves in two directions"
    with WorldModel.open(tmp_path / "new") as model:
        frame = next(iter(open_source(SOURCE).frames()))
        nearest, away = atlas.nearest(model.encode(frame.image))
        shown = atlas.image(int(nearest))
    assert float(away) < 0.5 and np.abs(shown.astype(int) - frame.image).mean() < 10


def test_atlas_projection_is_that_of_a_horizon_of_the_source(
    two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lags, build = [], Atlas.build
    monkeypatch.setattr(Atlas, "build", lambda *given: lags.append(given[-1]) or build(*given))
    monkeypatch.setattr(
        "jepa_export.bundling.add_atlas.open_source", lambda spec: open_source(spec, rate_hz=10)
    )
    assert make(two_rooms_bundle, tmp_path / "new", "--frames", "10") == 0
    manifest = Bundle.open(two_rooms_bundle).manifest
    assert manifest.io.frame.rate_hz != 10
    assert lags == [round(manifest.horizon * manifest.io.step_s * 10)]


def test_add_atlas_with_a_full_disk_is_reported_in_one_line(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jepa_export.bundling.add_atlas.copy_files", full)
    assert make(two_rooms_bundle, tmp_path / "new") == 1
    stderr = capsys.readouterr().err
    assert stderr.count("No space left on device") == 1 and "nothing was written" in stderr
    assert list(tmp_path.iterdir()) == []


def test_existing_atlas_is_replaced(two_rooms_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(two_rooms_bundle, tmp_path / "bundle"))
    assert make(bundle, bundle, "--frames", "10") == 0
    assert make(bundle, bundle, "--frames", "20") == 0
    atlas = Atlas.from_bundle(Bundle.open(bundle))
    assert atlas is not None and len(atlas.images) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_output_inside_the_bundle_is_rejected(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(two_rooms_bundle, tmp_path / "bundle"))
    assert make(bundle, bundle / "new") == 1
    assert "which is copied: choose a folder elsewhere" in capsys.readouterr().err
    Bundle.open(bundle)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--max-mb", "0.01"], "fewer frames (--frames) or smaller images (--px), or allow more (--max-mb)"),
        (["--frames", "1000", "--max-mb", "0.01"], "at most 156 frames fit"),
        (["--frames", "0"], "--frames must be a positive number"),
        (["--max-mb", "inf"], "--max-mb must be a positive number"),
    ],
)
def test_atlas_that_is_too_large_or_empty_is_rejected(
    two_rooms_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    assert make(two_rooms_bundle, tmp_path / "new", "--frames", "50", *arguments) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "new" / ATLAS_NAME).exists()


def test_folder_that_is_no_bundle_is_never_replaced(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    assert make(two_rooms_bundle, tmp_path / "mine", "--frames", "5") == 1
    assert "exists and is not a bundle" in capsys.readouterr().err
