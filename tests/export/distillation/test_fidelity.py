"""The errors and the teacher retention in a bundle cover all held-out clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jepa_export.bundling.teacher_retention import TeacherRetention
from jepa_export.data.clip_windows import Windows
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import open_data
from jepa_export.distillation.clip_metrics import measure, measure_retention
from jepa_export.distillation.data_split import DataSplit
from jepa_export.distillation.stages import PredictorStage
from jepa_export.students.encoder import Encoder, EncoderConfig
from jepa_export.students.predictor import Predictor, PredictorConfig


def clips(folder: Path, trajectories: int, frames: int) -> Windows:
    store = FrameStore(folder, height=32, width=32)
    data = open_data([f"two_rooms?trajectories={trajectories}&frames={frames}"], store, held_out=0)
    return Windows(data.train, frames=4, rate_hz=5)


def student(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a stage whose teacher outputs colors of the last frame; the student applies ``change``."""

    def inputs(batch: Any, _device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.from_numpy(batch.frames)[:, -1].float() / 255
        return frames, frames[:, 8:24:4, 8:24:4].flatten(1, 2)

    return SimpleNamespace(
        parameters=lambda: iter([torch.zeros(1)]),
        inputs=inputs,
        encoder=lambda frames: frames[:, 8:24:4, 8:24:4].flatten(1, 2),
        head=change,
    )


def test_retained_information_is_the_explained_variance_of_the_teacher(tmp_path: Path) -> None:
    windows = clips(tmp_path, 3, 8)
    seen = torch.stack(
        [
            student(lambda x: x).inputs(SimpleNamespace(frames=w.frames[None]), None)[1][0]
            for w in map(windows.__getitem__, range(len(windows)))
        ]
    )
    mean, pair = seen.mean(0, keepdim=True), DataSplit(clips(tmp_path, 1, 4), windows)
    whole = measure_retention(student(lambda tokens: tokens), pair, "some teacher")
    assert (whole.teacher, whole.held_out, whole.clips) == ("some teacher", True, len(windows))
    assert (whole.variance, whole.cosine) == (pytest.approx(1), pytest.approx(1))
    assert measure_retention(student(lambda tokens: mean), pair, "some teacher").variance == pytest.approx(
        0, abs=1e-6
    )
    half = measure_retention(student(lambda tokens: (tokens + mean) / 2), pair, "some teacher")
    assert half.variance == pytest.approx(0.75, abs=1e-6) and half.cosine < 1
    assert measure_retention(student(lambda tokens: 2 * tokens), pair, "some teacher").variance < 0


@pytest.mark.parametrize(("variance", "warns"), [(0.4, False), (-0.1, True), (None, False)])
def test_student_no_better_than_the_mean_is_reported(
    variance: float | None, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[str] = []
    TeacherRetention(teacher="one", clips=9, held_out=True, variance=variance, cosine=0.8).report(
        messages.append
    )
    assert "(mean cosine 0.800) on 9 clips, held out" in messages[0]
    assert ("no more of one than the mean" in caplog.text) is warns


def test_identical_clips_have_no_explained_variance(tmp_path: Path) -> None:
    windows = clips(tmp_path, 1, 4)
    retention = measure_retention(student(lambda tokens: tokens), DataSplit(windows, windows), "some teacher")
    assert (retention.clips, retention.held_out, retention.variance) == (1, False, None)


def test_few_clips_are_all_used(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(px=32, patch=16, width=32, depth=1, heads=2, tokens=2, dim=8))
    config = PredictorConfig(tokens=2, dim=8, width=16, depth=1, heads=2, action_scale=(0.5, 2.0))
    predictor = Predictor(config).eval()
    windows = clips(tmp_path, 3, 8)
    metrics = measure(PredictorStage(predictor, encoder, history=2), windows)

    errors = []
    with torch.no_grad():
        for clip in map(windows.__getitem__, range(15)):
            latents, actions = encoder(torch.from_numpy(clip.frames)), torch.from_numpy(clip.actions)
            futures = predictor(latents[None, :2], actions[None, 1:3], actions[None, :1])[0]
            errors.append((futures - latents[2:]).flatten(1).norm(dim=1).numpy())
    assert metrics.clips == len(windows) == 15
    assert metrics.error_bounds == pytest.approx(np.quantile(errors, 0.9, axis=0), rel=1e-4)
    assert metrics.rmse == pytest.approx(np.sqrt(np.square(errors).mean(axis=0) / 16), rel=1e-4)
