"""What a bundle says of its errors is true of all clips that were held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.data.open import open_data
from jepa_export.data.store import Store
from jepa_export.data.windows import Windows
from jepa_export.distillation.fidelity import measure
from jepa_export.distillation.stages import PredictorStage
from jepa_export.students.encoder import Encoder, EncoderConfig
from jepa_export.students.predictor import Predictor, PredictorConfig


def test_of_few_clips_none_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(px=32, patch=16, width=32, depth=1, heads=2, tokens=2, dim=8))
    config = PredictorConfig(tokens=2, dim=8, width=16, depth=1, heads=2, action_scale=(0.5, 2.0))
    predictor = Predictor(config).eval()
    store = Store(tmp_path, height=32, width=32)
    data = open_data(["two_rooms?trajectories=3&frames=8"], store, held_out=0)
    windows = Windows(data.train, frames=4, rate_hz=5)
    found = measure(PredictorStage(predictor, encoder, history=2), windows)

    errors = []
    with torch.no_grad():
        for clip in map(windows.__getitem__, range(15)):
            latents, actions = encoder(torch.from_numpy(clip.frames)), torch.from_numpy(clip.actions)
            futures = predictor(latents[None, :2], actions[None, 1:3], actions[None, :1])[0]
            errors.append((futures - latents[2:]).flatten(1).norm(dim=1).numpy())
    assert found.clips == len(windows) == 15
    assert found.error_bounds == pytest.approx(np.quantile(errors, 0.9, axis=0), rel=1e-4)
    assert found.rmse == pytest.approx(np.sqrt(np.square(errors).mean(axis=0) / 16), rel=1e-4)
