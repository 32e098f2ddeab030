"""The model of Reacher of stable-worldmodel, trained for a few steps on an arm in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.errors import JepaExportError
from jepa_recipes.stable_worldmodel import reacher
from jepa_recipes.stable_worldmodel.reacher import SOURCE, Recipe, train_and_bundle
from jepa_recipes.stable_worldmodel.reacher_networks import (
    HISTORY,
    JOINTS,
    ArmEnergy,
    ArmPredictor,
    angles,
)
from jepa_recipes.stable_worldmodel.recordings import Rows, extract
from jepa_recipes.two_token.networks import LATENT_DIM, JointEstimate
from jepa_runtime import Bundle, WorldModel
from tests.errors import code
from tests.recipes.stable_worldmodel.datasets import arm_dataset

TINY = Recipe(encoder_steps=3, encoder_batch=8, predictor_steps=3, predictor_batch=8)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return extract(arm_dataset([40] * 10), SOURCE, tmp_path_factory.mktemp("recordings"))


def train(out: Path, rows: Rows, recipe: Recipe = TINY) -> Bundle:
    return train_and_bundle(out, rows, command="test", seed=0, recipe=recipe)


@pytest.fixture(scope="module")
def trained(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train(tmp_path_factory.mktemp("trained"), rows)


def test_bundle_predicts_from_the_history_and_its_torques(trained: Bundle) -> None:
    torques = np.zeros((2, reacher.HORIZON, JOINTS), np.float32)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(HISTORY, 1, LATENT_DIM)).astype(np.float32)
    done = rng.uniform(-1, 1, (HISTORY - 1, JOINTS)).astype(np.float32)
    with WorldModel.open(trained) as model:
        assert model.manifest.history_size == HISTORY and model.num_samples == reacher.NUM_SAMPLES
        expected = model.predict(torques, latents=latents, history_actions=done, goal=latents[-1])
        other = model.predict(torques, latents=latents, history_actions=-done, goal=latents[-1])
    assert expected.energies is not None and expected.energies.shape == (2, reacher.HORIZON)
    assert not np.allclose(expected.latents, other.latents)


def test_report_has_the_errors_of_the_joints(trained: Bundle) -> None:
    report = trained.report()
    assert isinstance(report, dict)
    errors = report["joint_errors_rad"]
    assert list(errors) == ["read", "predicted_one_step", f"predicted_{reacher.HORIZON}_steps"]
    assert all(len(each) == JOINTS and 0 < min(each) < np.pi for each in errors.values())


def networks(bundle: Bundle) -> dict[Path, bytes]:
    found = {path.relative_to(bundle.path): path.read_bytes() for path in bundle.path.rglob("*.onnx")}
    assert len(found) >= 3
    return found


def test_interrupted_training_ends_with_the_same_bundle(
    trained: Bundle, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = reacher.PredictorStage.losses

    def interrupt(stage: reacher.PredictorStage, index: int) -> dict[str, torch.Tensor]:
        if index == 1:
            raise KeyboardInterrupt
        return step(stage, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reacher.PredictorStage, "losses", interrupt)
        train(tmp_path, rows)
    assert networks(train(tmp_path, rows)) == networks(trained)


def test_folder_of_other_settings_is_refused(trained: Bundle, rows: Rows) -> None:
    other = Recipe(encoder_steps=4, encoder_batch=8, predictor_steps=3, predictor_batch=8)
    with pytest.raises(JepaExportError, match="encoder_steps 3", check=code("training.settings_mismatch")):
        train(trained.path.parent, rows, other)


def test_torques_of_a_block_are_their_mean(rows: Rows) -> None:
    held = reacher._torques(rows)
    np.testing.assert_allclose(held[5], rows.actions[5:7].mean(axis=0), rtol=1e-6)


def test_rollout_applies_the_predictor_to_its_own_latents() -> None:
    class Sum(torch.nn.Module):
        def forward(self, latents: torch.Tensor, torques: torch.Tensor) -> torch.Tensor:
            return latents.sum(dim=1) + torques[:, -1:, :1]

    history = torch.ones(1, HISTORY, 1, 1)
    torques = torch.zeros(1, HISTORY + reacher.HORIZON - 1, JOINTS)
    torques[0, HISTORY] = 10
    first, second, third = reacher.rollout(Sum(), history, torques)[0, :3, 0, 0]
    assert (first, second, third) == (3, 15, 19)


def test_untrained_predictor_predicts_a_standing_arm() -> None:
    latents = torch.randn(2, HISTORY, 1, LATENT_DIM)
    assert torch.equal(ArmPredictor()(latents, torch.randn(2, HISTORY, JOINTS)), latents[:, -1])


def test_energy_is_the_squared_distance_of_the_joints() -> None:
    joints = JointEstimate(JOINTS)
    with torch.no_grad():
        joints.out.weight.copy_(torch.eye(2 * JOINTS, LATENT_DIM))
        joints.out.bias.zero_()
    turned = torch.tensor([[0.3, -2.0], [0.32, -2.0]])
    latents = torch.zeros(2, 1, LATENT_DIM)
    latents[:, 0, : 2 * JOINTS] = torch.cat([turned.cos(), turned.sin()], dim=-1)
    torch.testing.assert_close(angles(joints(latents[:, 0])), turned)
    energies = ArmEnergy(joints)(latents, latents[:1])
    torch.testing.assert_close(energies, torch.tensor([0.0, 0.02**2]), rtol=1e-3, atol=1e-7)
