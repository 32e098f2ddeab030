"""The extra state of a stage, and its device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jepa_export.distillation.stages import PredictorStage
from jepa_export.students.encoder import Encoder, EncoderConfig
from jepa_export.students.predictor import Predictor, PredictorConfig

ENCODER = EncoderConfig(px=32, patch=16, width=32, depth=1, heads=2, tokens=2, dim=8)
PREDICTOR = PredictorConfig(tokens=2, dim=8, width=16, depth=1, heads=2, action_scale=(0.5, 2.0))


def stage(*action_scale: float) -> PredictorStage:
    predictor = Predictor(replace(PREDICTOR, action_scale=action_scale))
    return PredictorStage(predictor, Encoder(ENCODER), history=1)


def test_resumed_predictor_keeps_the_scale_of_its_training() -> None:
    predictor = stage(1.0, 1.0)
    predictor.load_state_dict(stage(0.5, 4.0).state_dict())
    assert predictor.predictor.action_scale.tolist() == [0.5, 4.0]


def test_predictor_of_an_unknown_scale_is_rejected() -> None:
    state = stage(0.5, 4.0).state_dict()
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        stage(0.5, 4.0).load_state_dict(state)


@pytest.mark.parametrize("history", [1, 3])
def test_predictor_is_trained_on_the_device_of_its_weights(history: int) -> None:
    """Meta tensors have no values, and cannot be combined with tensors of another device."""
    predictor = PredictorStage(Predictor(PREDICTOR), Encoder(ENCODER), history=history).to("meta")
    terms = predictor(torch.zeros(2, 6, 2, 8, device="meta"), torch.zeros(2, 6, 2, device="meta"))
    assert {term.device.type for term in terms.values()} == {"meta"}
