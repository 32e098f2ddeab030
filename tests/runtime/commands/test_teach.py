"""``jepa-runtime teach`` of a bag with odometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.cli import main
from jepa_runtime.recording import messages
from jepa_runtime.routes import Route
from jepa_runtime.sources.factory import open_source
from tests.runtime.bags import IMAGE, Entry, odometry, write_bag

RATE_HZ, IMAGES = 10, 40
JUMP_M, JUMPS_AT = 5.0, 25


def recorded_drive(path: Path, *, jumps: bool = False) -> Path:
    """Record a simulated drive with its true odometry; return the bag."""
    entries: list[Entry] = []
    at = np.zeros(2)
    source = open_source("two_rooms?seed=3", rate_hz=RATE_HZ)
    for frame, _ in zip(source.frames(), range(IMAGES), strict=False):
        entries.append(
            (frame.stamp_ns, "/image", IMAGE, messages.image(frame.image, frame.stamp_ns, "front"))
        )
        x = at[0] + JUMP_M * (jumps and frame.sequence >= JUMPS_AT)
        entries.append(odometry(frame.stamp_ns, x, at[1]))
        assert source.command is not None
        at = at + source.command / RATE_HZ
    return write_bag(path, entries)


def teach(bundle: Path, source: str, output: Path, *options: str) -> int:
    return main(["teach", str(bundle), "--source", source, "--output", str(output), *options])


def test_route_of_a_bag_with_odometry_has_the_poses_of_its_key_frames(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = recorded_drive(tmp_path / "bag.mcap")
    assert teach(two_rooms_bundle, f"{bag}?odometry=/odom", tmp_path / "route") == 0
    assert "with odometry" in capsys.readouterr().out
    route = Route.open(tmp_path / "route")
    assert route.poses is not None and route.traveled_m is not None
    # Two Rooms drives at up to half its speed.
    assert 0.5 < route.traveled_m[-1] < 3.0 and (np.diff(route.traveled_m) < 0.6).all()
    assert teach(two_rooms_bundle, str(bag), tmp_path / "without") == 0
    assert "without odometry" in capsys.readouterr().out
    assert Route.open(tmp_path / "without").poses is None


def test_route_with_a_jump_of_the_odometry_is_rejected_unless_it_ends_before(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"{recorded_drive(tmp_path / 'bag.mcap', jumps=True)}?odometry=/odom"
    assert teach(two_rooms_bundle, source, tmp_path / "route") == 1
    assert f"jumps {JUMPS_AT / RATE_HZ:.1f} s after the start" in capsys.readouterr().err
    assert not (tmp_path / "route").exists()
    assert teach(two_rooms_bundle, source, tmp_path / "route", "--duration", "2.4") == 0
    assert Route.open(tmp_path / "route").poses is not None
