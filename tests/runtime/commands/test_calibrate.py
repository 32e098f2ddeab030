"""``jepa-runtime calibrate``: error bounds and normal scores from recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from jepa_runtime.sources.factory import open_source
from tests.runtime.bags import image, twist, write_bag


def calibrate(bundle: Path, out: Path, *more: str) -> int:
    return main(["calibrate", str(bundle), "--output", str(out), *more])


def test_calibrate_writes_normal_scores_and_error_bounds(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms?seed=3", "--duration", "20") == 0
    )
    before, after = Bundle.open(two_rooms_bundle).manifest, Bundle.open(tmp_path / "new").manifest
    assert after.normal_scores is not None
    # An episode lasts 12 s, the next begins a second later; the first 8 steps of each have no score.
    blocks = (60 - 8) // 8 + (35 - 8) // 8
    assert len(after.normal_scores.highest) == pytest.approx(blocks, abs=1)
    assert after.normal_scores.data == "20 s of two_rooms (seed 3, random layout)"
    assert after.normal_scores.block == after.horizon and min(after.normal_scores.highest) > 0
    # The bounds of the shipped bundle are from driving with a planner, where errors are larger.
    assert (np.array(after.error_bounds) < before.error_bounds).all() and min(after.error_bounds) > 0
    learned = {"normal_scores": None, "error_bounds": ()}
    assert after.model_copy(update=learned) == before.model_copy(update=learned)
    output = capsys.readouterr().out
    assert "in 2 runs" in output and "throughout" not in output
    assert "Alarms are disabled with this bundle: " in output and "normal scores are too few" in output


def test_calibrate_with_several_sources_combines_their_runs(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ("--source", "two_rooms?seed=3", "--source", "two_rooms?seed=4", "--duration", "8")
    assert calibrate(two_rooms_bundle, tmp_path / "new", *sources) == 0
    learned = Bundle.open(tmp_path / "new").manifest.normal_scores
    assert learned is not None and len(learned.highest) == 2 * ((40 - 8) // 8)
    names = [f"8 s of two_rooms (seed {seed}, random layout)" for seed in (3, 4)]
    assert learned.data == ", ".join(names) and "in 2 runs" in capsys.readouterr().out


def test_calibrate_keep_bounds_changes_scores_only(two_rooms_bundle: Path, tmp_path: Path) -> None:
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


def test_calibrate_rate_is_that_of_a_simulated_world(
    two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def note(spec: str, **options: Any) -> Any:
        opened.append(open_source(spec, **options))
        return opened[-1]

    monkeypatch.setattr("jepa_runtime.commands.calibrate.open_source", note)
    source = ("--source", "two_rooms?seed=3", "--duration", "8", "--rate", "10")
    assert calibrate(two_rooms_bundle, tmp_path / "new", *source) == 0
    assert [source.rate_hz for source in opened] == [10.0]


def test_calibrate_with_missing_source_fails_before_playing_another(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without --duration this world never ends.
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms", "--source", "nowhere") == 1
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_calibrate_without_commands_fails(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.zeros((16, 16, 3), np.uint8))
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", str(tmp_path)) == 1
    assert "[calibration.no_predictions]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_calibrate_with_reordered_commands_fails(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.5), image(0), image(10**8)])
    source = f"{bag}?action=/cmd_vel:linear.y,linear.x"
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", source) == 1
    assert "the model's actions are linear.x [m/s], linear.y [m/s]: select these" in capsys.readouterr().err


@pytest.mark.parametrize("error", [0.0, np.nan])
def test_calibrate_with_zero_or_missing_errors_writes_nothing(
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


def test_calibrate_with_too_many_blocks_uses_longer_ones(
    two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = np.random.default_rng(0).uniform(0.5, 1, (100, 8))
    runs = [list(errors[:60]), list(errors[60:])]
    monkeypatch.setattr("jepa_runtime.commands.calibrate._errors", lambda *_: iter(runs))
    monkeypatch.setattr("jepa_runtime.commands.calibrate.MAX_BLOCKS", 5)
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms") == 0
    normal = Bundle.open(tmp_path / "new").manifest.normal_scores
    assert normal is not None and (normal.block, len(normal.highest)) == (16, 5)


def test_calibrate_with_existing_output_fails(
    two_rooms_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(two_rooms_bundle, two_rooms_bundle, "--source", "two_rooms") == 1
    assert "[calibration.output_exists]" in capsys.readouterr().err


def test_calibrate_with_output_inside_the_bundle_fails(
    two_rooms_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(two_rooms_bundle, two_rooms_bundle / "new", "--source", "two_rooms") == 1
    assert "[calibration.output_in_bundle]" in capsys.readouterr().err


@pytest.mark.parametrize("circle", [False, True], ids=["below a file", "below links in a circle"])
def test_calibrate_with_unwritable_output_fails_before_playing(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], circle: bool
) -> None:
    if circle:
        (tmp_path / "notes").symlink_to("notes")
    else:
        (tmp_path / "notes").write_text("kept")
    assert calibrate(two_rooms_bundle, tmp_path / "notes" / "new", "--source", "none.mcap") == 1
    assert "notes/new: cannot be written: " in capsys.readouterr().err


def test_calibrate_keeps_a_folder_created_meanwhile(
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


def test_calibrate_with_commands_of_another_robot_fails(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.5), image(0), image(10**8)])
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", f"{bag}?action=/cmd_vel") == 1
    output = capsys.readouterr().err
    assert "angular.z [rad/s]; the model's actions are linear.x [m/s], linear.y [m/s]: select these" in output


def test_calibrate_skips_steps_with_unknown_actions(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As with keyboard teleoperation: without a pressed key no command is sent, and the base stops.
    frames = [image(round(step * 2e8), step % 200, size=(64, 64)) for step in range(150)]
    commands = [twist(round(step * 1e8), 0.5) for step in range(300) if not 80 <= step < 180]
    bag = write_bag(tmp_path / "bag.mcap", [*frames, *commands])
    source = f"{bag}?action=/cmd_vel:linear.x,linear.y"
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", source) == 0
    assert "in 2 runs" in capsys.readouterr().out


def test_calibrate_reports_constant_action_components(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [image(round(step * 2e8), step % 200, size=(64, 64)) for step in range(40)]
    commands = [twist(round(step * 1e8), 0.01 * step) for step in range(80)]
    bag = write_bag(tmp_path / "bag.mcap", [*frames, *commands])
    source = f"{bag}?action=/cmd_vel:linear.x,linear.y"
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", source) == 0
    output = capsys.readouterr().out
    assert "linear.y was 0 m/s throughout" in output
    assert "linear.x was" not in output


def test_calibrate_on_failing_disk_leaves_no_partial_bundle(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        assert not (tmp_path / "new").exists(), "if killed here, it would leave an incomplete bundle"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jepa_runtime.commands.calibrate.seal", fail)
    source = ("--source", "two_rooms?seed=3", "--duration", "5")
    assert calibrate(two_rooms_bundle, tmp_path / "new", *source) == 1
    assert "No space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_calibrate_chooses_blocks_as_long_as_the_correlation(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Errors are correlated over 40 steps; blocks of one horizon would cause too many false alarms."""
    rng = np.random.default_rng(0)
    runs = [list(np.repeat(rng.uniform(0.5, 1, (50, 1)), 40, axis=0).repeat(8, axis=1)) for _ in range(4)]
    monkeypatch.setattr("jepa_runtime.commands.calibrate._errors", lambda *_: iter(runs))
    assert calibrate(two_rooms_bundle, tmp_path / "new", "--source", "two_rooms") == 0
    normal = Bundle.open(tmp_path / "new").manifest.normal_scores
    assert normal is not None and 16 <= normal.block <= 40
    assert f"blocks of {normal.block} steps" in capsys.readouterr().out


def test_calibrate_reports_correlation_beyond_the_longest_block(
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
    output = capsys.readouterr().out
    assert "Scores are correlated over more than" in output
