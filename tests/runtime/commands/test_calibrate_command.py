"""``jepa-runtime calibrate``: error bounds and normal scores from recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from tests.runtime.bags import image, twist, write_bag


def calibrate(bundle: Path, out: Path, *more: str) -> int:
    return main(["calibrate", "--bundle", str(bundle), "--output", str(out), *more])


def test_a_copy_of_the_bundle_says_how_surprising_the_recording_is(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms?seed=3", "--duration", "20") == 0
    )
    before, after = Bundle.open(two_rooms_bundle).manifest, Bundle.open(tmp_path / "new").manifest
    assert after.normal_scores is not None
    # An episode lasts 12 s, the next begins a second later; the first 8 steps of each are not judged.
    blocks = (60 - 8) // 8 + (35 - 8) // 8
    assert len(after.normal_scores.highest) == pytest.approx(blocks, abs=1)
    assert after.normal_scores.data == "20 s of two_rooms (seed 3, random layout)"
    assert after.normal_scores.block == after.horizon and min(after.normal_scores.highest) > 0
    # The shipped bundle's bounds are those of a planner, which drives where the model errs more.
    assert (np.array(after.error_bounds) < before.error_bounds).all() and min(after.error_bounds) > 0
    learnt = {"normal_scores": None, "error_bounds": ()}
    assert after.model_copy(update=learnt) == before.model_copy(update=learnt)
    said = capsys.readouterr().out
    assert "in 2 runs" in said and "throughout" not in said
    assert "Alarms are disabled with this bundle: " in said and "normal scores are too few" in said


def test_several_recordings_are_runs_of_one(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ("--source", "two_rooms?seed=3", "--source", "two_rooms?seed=4", "--duration", "8")
    assert calibrate(two_rooms_bundle, tmp_path / "new", *sources) == 0
    learnt = Bundle.open(tmp_path / "new").manifest.normal_scores
    assert learnt is not None and len(learnt.highest) == 2 * ((40 - 8) // 8)
    names = [f"8 s of two_rooms (seed {seed}, random layout)" for seed in (3, 4)]
    assert learnt.data == ", ".join(names) and "in 2 runs" in capsys.readouterr().out


def test_bounds_can_be_of_one_recording_and_alarms_of_another(two_rooms_bundle: Path, tmp_path: Path) -> None:
    source = ("--source", "two_rooms?seed=3", "--duration", "8")
    assert calibrate(two_rooms_bundle, tmp_path / "both", *source) == 0
    assert calibrate(two_rooms_bundle, tmp_path / "alarms", *source, "--keep-bounds") == 0
    before, both, alarms = (
        Bundle.open(path).manifest for path in (two_rooms_bundle, tmp_path / "both", tmp_path / "alarms")
    )
    assert alarms.error_bounds == before.error_bounds != both.error_bounds
    assert alarms.normal_scores is not None and both.normal_scores is not None
    # The same errors in other units.
    units = np.divide(both.error_bounds, before.error_bounds)
    ratio = np.divide(alarms.normal_scores.highest, both.normal_scores.highest)
    assert units.min() - 1e-3 < ratio.min() <= ratio.max() < units.max() + 1e-3
    assert alarms.normal_scores.highest != both.normal_scores.highest


def test_a_recording_that_is_not_there_is_told_before_another_is_played(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without --duration this world goes on for good.
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms", "--source", "nowhere") == 1
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_a_recording_without_commands_is_refused(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((16, 16, 3), np.uint8))
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", str(tmp_path)) == 1
    assert "[calibration.no_predictions]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_commands_in_another_order_are_refused(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.5), image(0), image(10**8)])
    source = f"{bag}?action=/cmd_vel:linear.y,linear.x"
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", source) == 1
    assert "the model's actions are linear.x [m/s], linear.y [m/s]: select these" in capsys.readouterr().err


@pytest.mark.parametrize("error", [0.0, np.nan])
def test_where_nothing_is_to_be_learnt_nothing_is_written(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: float,
) -> None:
    runs = [[np.array([1.0] * 7 + [error])] * 20]
    monkeypatch.setattr("jepa_runtime.commands.calibrate._errors", lambda *_: iter(runs))
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms") == 1
    assert "[calibration.zero_error]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_recording_of_more_blocks_than_a_bundle_may_hold_is_told_in_longer_ones(
    two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = np.random.default_rng(0).uniform(0.5, 1, (100, 8))
    runs = [list(errors[:60]), list(errors[60:])]
    monkeypatch.setattr("jepa_runtime.commands.calibrate._errors", lambda *_: iter(runs))
    monkeypatch.setattr("jepa_runtime.commands.calibrate.MAX_BLOCKS", 5)
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms") == 0
    normal = Bundle.open(tmp_path / "new").manifest.normal_scores
    assert normal is not None and (normal.block, len(normal.highest)) == (16, 5)


def test_nothing_is_written_over(two_rooms_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(two_rooms_bundle, two_rooms_bundle, "--source", "two_rooms") == 1
    assert "[calibration.output_exists]" in capsys.readouterr().err


def test_a_folder_in_the_bundle_itself_is_refused(
    two_rooms_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(two_rooms_bundle, two_rooms_bundle / "new", "--source", "two_rooms") == 1
    assert "[calibration.output_in_bundle]" in capsys.readouterr().err


@pytest.mark.parametrize("circle", [False, True], ids=["below a file", "below links in a circle"])
def test_a_folder_that_cannot_be_made_is_told_before_anything_is_played(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], circle: bool
) -> None:
    if circle:
        (tmp_path / "notes").symlink_to("notes")
    else:
        (tmp_path / "notes").write_text("kept")
    assert calibrate(two_rooms_bundle, tmp_path / "notes" / "new", "--source", "none.mcap") == 1
    assert "notes/new: cannot be written: " in capsys.readouterr().err


def test_what_came_to_lie_there_while_the_recording_played_stays(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "new" / "the only copy"

    def play(*_: object) -> Iterator[list[NDArray[np.float64]]]:
        other.parent.mkdir()
        other.touch()
        return iter([[np.ones(8)] * 20])

    monkeypatch.setattr("jepa_runtime.commands.calibrate._errors", play)
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms") == 1
    assert "[calibration.write_failed]" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [other.parent, other]


def test_commands_of_another_robot_are_refused(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.5), image(0), image(10**8)])
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", f"{bag}?action=/cmd_vel") == 1
    said = capsys.readouterr().err
    assert "angular.z [rad/s]; the model's actions are linear.x [m/s], linear.y [m/s]: select these" in said


def test_where_it_is_not_known_what_was_executed_nothing_is_learnt(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Somebody drove with the keyboard: while no key is down nothing is sent, and the base stops by itself.
    frames = [image(round(step * 2e8), step % 200, size=(64, 64)) for step in range(150)]
    commands = [twist(round(step * 1e8), 0.5) for step in range(300) if not 80 <= step < 180]
    bag = write_bag(tmp_path / "bag.mcap", [*frames, *commands])
    source = f"{bag}?action=/cmd_vel:linear.x,linear.y"
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", source) == 0
    assert "in 2 runs" in capsys.readouterr().out


def test_numbers_of_the_action_that_never_changed_are_told(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [image(round(step * 2e8), step % 200, size=(64, 64)) for step in range(40)]
    commands = [twist(round(step * 1e8), 0.01 * step) for step in range(80)]
    bag = write_bag(tmp_path / "bag.mcap", [*frames, *commands])
    source = f"{bag}?action=/cmd_vel:linear.x,linear.y"
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", source) == 0
    said = capsys.readouterr().out
    assert "linear.y was 0 m/s throughout" in said
    assert "linear.x was" not in said


def test_a_disk_that_fails_leaves_no_half_of_a_bundle(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        assert not (tmp_path / "new").exists(), "killed here, it would leave the old one by a new name"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jepa_runtime.commands.calibrate.seal", fail)
    source = ("--source", "two_rooms?seed=3", "--duration", "5")
    assert calibrate(two_rooms_bundle, tmp_path / "new", *source) == 1
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_blocks_are_as_long_as_scores_remember(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Errors are alike for 40 steps; in blocks of a horizon, changes would be told falsely too often."""
    rng = np.random.default_rng(0)
    runs = [list(np.repeat(rng.uniform(0.5, 1, (50, 1)), 40, axis=0).repeat(8, axis=1)) for _ in range(4)]
    monkeypatch.setattr("jepa_runtime.commands.calibrate._errors", lambda *_: iter(runs))
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms") == 0
    normal = Bundle.open(tmp_path / "new").manifest.normal_scores
    assert normal is not None and 16 <= normal.block <= 40
    assert f"blocks of {normal.block} steps" in capsys.readouterr().out


def test_scores_that_remember_for_longer_than_a_block_may_last_are_told(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calm, rough = (list(np.full((12_000, 8), level)) for level in (0.5, 1.0))
    monkeypatch.setattr(
        "jepa_runtime.commands.calibrate._errors", lambda *_: iter([calm * 6, rough, calm * 6])
    )
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms") == 0
    said = capsys.readouterr().out
    assert "Scores are correlated over more than" in said
