"""Release pointers of a channel: malformed ones are rejected; a rollout selects its percentage."""

from __future__ import annotations

from typing import Any

import pytest

from jepa_runtime.errors import TrustError
from jepa_runtime.ota.release import MAX_POINTER_BYTES, Delta, parse_release, rollout_exclusion
from tests.errors import code
from tests.ota.robots import release


def pointer_bytes(**changes: Any) -> bytes:
    return release().model_copy(update=changes).model_dump_json().encode()


def delta(target: str) -> Delta:
    return Delta(path="encoder.bin", base_sha256="c" * 64, target=target, bytes=1)


@pytest.mark.parametrize("path", ["../models", "/models", "models//toy", "models\\toy", "models/../../toy"])
def test_path_outside_the_release_is_rejected(path: str) -> None:
    for content in (pointer_bytes(folder=path), pointer_bytes(deltas=(delta(path),))):
        with pytest.raises(TrustError, check=code("trust.release_invalid")):
            parse_release(content)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"runtime_abi": (2, 1)}, "trust.release_invalid"),
        ({"revoked": (1, 2)}, "trust.release_invalid"),
        ({"schema_version": 2}, "trust.version_unsupported"),
    ],
)
def test_malformed_release_is_rejected(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(TrustError, check=code(expected)):
        parse_release(pointer_bytes(**changes))


def test_oversized_release_is_rejected() -> None:
    longest = pointer_bytes(deltas=(delta("deltas/1"),)).ljust(MAX_POINTER_BYTES)
    assert parse_release(longest).deltas == (delta("deltas/1"),)
    with pytest.raises(TrustError, check=code("trust.too_long")):
        parse_release(longest + b" ")


def test_rollout_selects_its_percentage_of_robots_and_keeps_them_as_it_grows() -> None:
    def reached(percent: float) -> set[int]:
        rollout = release().rollout.model_copy(update={"percent": percent})
        offered = release().model_copy(update={"rollout": rollout})
        return {number for number in range(2000) if rollout_exclusion(offered, f"robot-{number}") == ""}

    tenth, half = reached(10.0), reached(50.0)
    assert len(tenth) == pytest.approx(200, abs=40) and len(half) == pytest.approx(1000, abs=70)
    assert tenth < half
    assert len(reached(100.0)) == 2000 and reached(0.0) == set()
