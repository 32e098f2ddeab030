"""A bundle of a trained student: INT8 is compared with fp32 on frames outside the calibration, and its report
states the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_export.bundling.manifest_fields import BundleSettings, MeasuredErrors, ModelIdentity
from jepa_export.bundling.student_bundle import rollout_samples, write_student_bundle
from jepa_export.commands.build_student import TWO_ROOMS_ACTIONS
from jepa_export.students.family import FAMILY, Sizes, create, randomize
from jepa_runtime import Bundle, WorldModel

GRAPHS = ["encoder", "step", "predictor (history)", "predictor (a step)"]


def write(
    folder: Path,
    precisions: tuple[str, ...] = ("int8",),
    strength: float = 1.0,
    goal: float = 1.0,
    **further: Any,
) -> tuple[Bundle, list[str]]:
    """Write a bundle for OpenVINO; return it and the messages. ``strength`` scales the effect of actions."""
    student = create("tiny", px=32, action_scale=TWO_ROOMS_ACTIONS.scale, seed=0)
    randomize(student.predictor, 0)
    for layer in (*(block.modulation for block in student.predictor.blocks), student.predictor.out):
        layer.weight.data *= strength
    settings = settings_for(precisions)
    identity = ModelIdentity(
        model_id="tiny",
        version="1.0.0",
        trained=True,
        description="a test",
        licence="Apache-2.0",
        data="noise",
        teacher=None,
    )
    measured = MeasuredErrors(error_bounds=(1.0, 1.0), surprise_threshold=1.0, goal_threshold=goal)
    messages: list[str] = []
    bundle = write_student_bundle(
        student,
        noise(0)[None],
        folder,
        settings,
        identity,
        measured,
        seed=0,
        progress=messages.append,
        **further,
    )
    return bundle, messages


def settings_for(precisions: tuple[str, ...] = ("int8",)) -> BundleSettings:
    return BundleSettings(
        actions=TWO_ROOMS_ACTIONS,
        history_size=2,
        horizon=2,
        num_samples=4,
        step_s=0.2,
        rate_hz=30.0,
        variants=tuple(("openvino", precision) for precision in precisions),
        command="a test",
    )


def noise(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (12, 32, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(encoder=(32, 1, 2), predictor=(16, 1, 2), tokens=2, dim=8)
    monkeypatch.setitem(FAMILY, "tiny", sizes)


def test_calibration_context_does_not_cross_clips() -> None:
    latents = torch.arange(15.0).reshape(3, 5, 1, 1)
    samples = rollout_samples(latents, settings_for(), 0)
    contexts = [sample["history_latents"].flatten().tolist() for sample in samples]
    assert contexts == [[first, first + 1] for first in range(15) if first % 5 != 4]


@pytest.mark.slow
def test_every_graph_is_measured_on_held_out_frames(tmp_path: Path) -> None:
    bundle, messages = write(tmp_path / "bundle", held_out=noise(1)[None])
    int8 = bundle.report()["int8"]
    assert [each["graph"] for each in int8] == GRAPHS
    for each in int8:
        assert each["holds"] and each["held_out"] and each["in_fp32"] == []
        assert each["limits"]["worst"] < each["found"]["worst"] <= each["found"]["mean"] < 1
        assert any(line.startswith(f"{each['graph']} in INT8 on held-out samples") for line in messages)


def test_int8_actions_change_the_next_frame_as_in_fp32(tmp_path: Path) -> None:
    bundle, _ = write(tmp_path / "bundle", precisions=("fp32", "int8"), strength=5.0)
    low, high = (
        np.array([[limits]], np.float32) for limits in (TWO_ROOMS_ACTIONS.low, TWO_ROOMS_ACTIONS.high)
    )
    moved = {}
    for precision in ("fp32", "int8"):
        with WorldModel.open(bundle, precision=precision) as model:
            moving, still = (
                np.stack([model.encode(frame) for frame in noise(1)[:2]]),
                np.zeros((1, 2), np.float32),
            )
            ends = [
                model.predict(action, latents=moving, history_actions=still).latents.copy()
                for action in (low, high)
            ]
        moved[precision] = ends[1] - ends[0]
    assert np.linalg.norm(moved["int8"] - moved["fp32"]) < 0.4 * np.linalg.norm(moved["fp32"])


@pytest.mark.slow
def test_report_without_held_out_data_does_not_claim_any(tmp_path: Path) -> None:
    bundle, messages = write(tmp_path / "bundle", held_out=noise(0)[None], seen=True)
    for each in bundle.report()["int8"]:
        assert each["held_out"] is False
        assert any(line.startswith(f"{each['graph']} in INT8 on calibration samples") for line in messages)
    assert not any("held-out" in line for line in messages)


def test_unreachable_goal_threshold_is_reported(tmp_path: Path) -> None:
    for goal, reported in ((1e-12, True), (1e-3, False)):
        _, messages = write(tmp_path / "bundle", precisions=("fp32",), goal=goal)
        assert any("no goal will count as reached" in line for line in messages) == reported


@pytest.mark.slow
def test_int8_without_held_out_frames_is_not_tuned(tmp_path: Path) -> None:
    bundle, messages = write(tmp_path / "bundle")
    assert "int8" not in bundle.report()
    assert not any("held-out" in line for line in messages)
