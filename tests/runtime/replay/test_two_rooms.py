"""Recording, replay and what-if with the shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.cli import main
from tests.runtime.replay.conftest import record


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_replay_of_a_recorded_drive_is_reproducible_and_its_predictions_come_true(
    two_rooms_bundle: Path, tmp_path: Path, precision: str
) -> None:
    bag, outs = tmp_path / "drive.mcap", [tmp_path / "first.mcap", tmp_path / "second.mcap"]
    model = [str(two_rooms_bundle), "--precision", precision]
    record(bag, *model, "--source", "two_rooms?seed=5", "--duration", "8")
    for out in outs:
        assert main(["replay", str(bag), *model, "--output", str(out), "--compare"]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    within: list[bool] = []
    for at_s in range(1, 6):
        path = tmp_path / "whatif.json"
        moment = ["--at", str(at_s), "--actions", "executed", "--json", str(path)]
        assert main(["whatif", str(bag), *model, *moment]) == 0
        result = json.loads(path.read_text())
        errors, bounds = result["branches"][0]["errors"], result["error_bounds"]
        within += [error <= bound for error, bound in zip(errors, bounds, strict=True)]
    # The stated coverage is nine of ten; these are few steps, and no held-out episodes.
    assert np.mean(within) > 0.7
