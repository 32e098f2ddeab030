"""A stage of a training run: learning rate, checkpoints, and losses that diverge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.training.stage import ModuleStage, linear_decay, run_stage
from tests.errors import code


class Line(ModuleStage):
    """Fit a line to noise; the loss is multiplied by ``value`` from step ``bad`` on."""

    name = "line"

    def __init__(self, *, steps: int = 6, bad: int | None = None, value: float = float("nan")) -> None:
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)
        super().__init__({"line": self.line}, steps=steps, learning_rate=0.1, clip_norm=1.0)
        self._bad, self._value = bad, value

    def losses(self, step: int) -> dict[str, Tensor]:
        fit = self.line(torch.randn(8, 3)).pow(2).mean()
        return {"fit": fit * (self._value if self._bad is not None and step >= self._bad else 1.0)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverging_loss_is_reported_with_stage_and_step_and_keeps_the_checkpoint(
    tmp_path: Path, value: float
) -> None:
    with pytest.raises(JepaExportError, check=code("training.not_finite")):
        run_stage(Line(bad=5, value=value), tmp_path, checkpoint_every=2)
    saved = torch.load(tmp_path / "line.pt", weights_only=True)
    assert saved["step"] == 4
    assert all(torch.isfinite(weights).all() for weights in saved["modules"].values())


def test_non_finite_gradient_is_reported_before_it_reaches_the_weights(tmp_path: Path) -> None:
    class Rooted(Line):
        def losses(self, step: int) -> dict[str, Tensor]:
            # The square root of zero: a loss of 0 with an infinite gradient.
            return super().losses(step) | {"root": (0 * self.line.weight).sum().abs().sqrt()}

    with pytest.raises(JepaExportError, check=code("training.not_finite")):
        run_stage(Rooted(), tmp_path)
    assert not (tmp_path / "line.pt").exists()


def test_checkpoint_of_another_length_is_rejected(tmp_path: Path) -> None:
    run_stage(Line(), tmp_path)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        run_stage(Line(steps=7), tmp_path)


def test_learning_rate_warms_up_and_decays_to_a_hundredth() -> None:
    stage = Line(steps=1000)
    rates = []
    for step in (0, 99, 500, 999):
        stage.train_step(step)
        rates.append(stage.optimizer.param_groups[0]["lr"] / 0.1)
    assert rates == pytest.approx([0.01, 0.976, 0.505, 0.01], abs=2e-3)


def test_learning_rate_of_a_group_is_multiplied_by_its_factor() -> None:
    stage = Line(steps=1000)
    stage.optimizer.param_groups[0]["lr_factor"] = 10.0
    stage.train_step(99)
    assert stage.optimizer.param_groups[0]["lr"] == pytest.approx(10 * stage.learning_rate(99))


def test_linear_decay_is_constant_and_then_a_line_to_two_hundredths() -> None:
    rates = [linear_decay(step, 60, 100) for step in (0, 59, 60, 80, 99)]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.025])
    assert linear_decay(999, 0, 1000) == 0.02
