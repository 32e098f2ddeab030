"""The wrapper of LeRobot policies: with a policy of known chunks, and with ACT of the real package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.critic import Critic, CriticConfig, LeRobotCriticPolicy, Response
from jepa_runtime.errors import CriticError
from tests.bundles import make_arm_bundle
from tests.errors import code
from tests.runtime.critic.test_critic import LATENT, Scores, learned

torch = pytest.importorskip("torch", reason="torch is not installed (extra export)")

IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def model(toy_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(toy_bundle) as opened:
        yield opened


class Numbered:
    """A policy whose n-th chunk has the values n, n + 0.1, n + 0.2, ... in tenths of a m/s."""

    def __init__(self, observations: int = 1, batch: int = 1) -> None:
        self.config = SimpleNamespace(n_obs_steps=observations)
        self.chunks, self.resets, self._batch = 0, 0, batch

    def reset(self) -> None:
        self.resets += 1

    def predict_action_chunk(self, batch: dict[str, Any]) -> Any:
        del batch
        self.chunks += 1
        values = self.chunks + 0.1 * torch.arange(6.0)
        return values[None, :, None].repeat(self._batch, 1, 2)


def unnormalize(actions: Any) -> Any:
    return actions / 10


def actions_of(wrapped: LeRobotCriticPolicy, steps: int) -> list[float]:
    selected = [wrapped.select_action({}, image=IMAGE) for _ in range(steps)]
    assert all(tuple(action.shape) == (1, 2) for action in selected)
    return [round(float(action[0, 0]), 3) for action in selected]


def test_select_action_in_warmup_returns_the_steps_of_each_chunk(model: WorldModel) -> None:
    critic = Critic(model)
    critic.set_goal(LATENT)
    policy = Numbered()
    wrapped = LeRobotCriticPolicy(policy, critic, model, postprocess=unnormalize, steps=3)
    assert actions_of(wrapped, 7) == [0.1, 0.11, 0.12, 0.2, 0.21, 0.22, 0.3]
    wrapped.reset()
    assert wrapped.verdict is None and policy.resets == 2
    assert actions_of(wrapped, 1) == [0.4]


def test_select_action_after_a_veto_rests_for_one_step(model: WorldModel) -> None:
    scores = Scores()
    config = CriticConfig(trial_rate=0.0, scales=())
    critic = Critic(model, config, hazard=scores, state=learned(model))
    wrapped = LeRobotCriticPolicy(Numbered(), critic, model, postprocess=unnormalize, steps=2)
    scores.next = [9.0, 9.0]
    assert actions_of(wrapped, 2) == [0.0, 0.0]
    scores.next = [-9.0, -9.0]
    assert actions_of(wrapped, 2) == [0.3, 0.31]


def test_select_action_chooses_another_sample_and_reports_every_step(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Scores()
    config = CriticConfig(trial_rate=0.0, scales=())
    critic = Critic(model, config, hazard=scores, state=learned(model))
    reported = []
    observe = critic.observe
    monkeypatch.setattr(
        critic, "observe", lambda verdict, latents: reported.append(len(latents)) or observe(verdict, latents)
    )
    wrapped = LeRobotCriticPolicy(Numbered(), critic, model, postprocess=unnormalize, steps=3, samples=2)
    scores.next = [9.0, -9.0, 0.0]
    assert actions_of(wrapped, 4) == [0.2, 0.21, 0.22, 0.4]
    assert reported == [3]
    assert wrapped.verdict is not None and wrapped.verdict.response is Response.CHOOSE


def test_policy_with_several_observations_or_batches_is_rejected(model: WorldModel) -> None:
    critic = Critic(model)
    critic.set_goal(LATENT)
    with pytest.raises(CriticError, check=code("critic.observation_history")):
        LeRobotCriticPolicy(Numbered(observations=2), critic, model, postprocess=unnormalize, steps=2)
    with pytest.raises(ValueError, match="steps"):
        LeRobotCriticPolicy(Numbered(), critic, model, postprocess=unnormalize, steps=5)
    wrapped = LeRobotCriticPolicy(Numbered(batch=2), critic, model, postprocess=unnormalize, steps=2)
    with pytest.raises(CriticError, check=code("critic.shape")):
        wrapped.select_action({}, image=IMAGE)


def test_act_policy_of_lerobot_drives_in_two_rooms(two_rooms_bundle: Path) -> None:
    """With random weights: executed as predicted in the warm-up, and at rest if all is vetoed."""
    pytest.importorskip("lerobot", reason="lerobot is not installed")
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.act.processor_act import make_act_pre_post_processors

    from jepa_sim.worlds import TwoRooms

    key, state_key = "observation.images.top", "observation.state"
    config = ACTConfig(
        input_features={
            key: PolicyFeature(FeatureType.VISUAL, (3, 128, 128)),
            state_key: PolicyFeature(FeatureType.STATE, (2,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        chunk_size=6, n_action_steps=6, pretrained_backbone_weights=None, dim_model=32, n_heads=2,
        dim_feedforward=32, n_encoder_layers=1, n_vae_encoder_layers=1, latent_dim=4, device="cpu",
    )  # fmt: skip
    images = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
    actions = {"mean": torch.tensor([0.1, -0.1]), "std": torch.tensor([0.5, 0.5])}
    positions = {"mean": torch.full((2,), 2.0), "std": torch.ones(2)}
    torch.manual_seed(0)
    policy = ACTPolicy(config)
    preprocess, postprocess = make_act_pre_post_processors(
        config, {key: images, state_key: positions, "action": actions}
    )
    world = TwoRooms(seed=0)

    def batch(image: np.ndarray) -> dict[str, Any]:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return preprocess({key: pixels, state_key: torch.from_numpy(world.position)[None].float()})

    with WorldModel.open(two_rooms_bundle) as opened, torch.inference_mode():
        for state in (None, learned(opened, limit=-1e6, veto_excess=1e-9)):
            settings = CriticConfig(limit=-1e6 if state else 0.0, trial_rate=0.0, scales=())
            critic = Critic(opened, settings, state=state)
            critic.set_goal(opened.encode(world.render_goal()))
            wrapped = LeRobotCriticPolicy(policy, critic, opened, postprocess=postprocess, steps=4)
            for _ in range(2):
                image = world.render()
                expected = postprocess(policy.predict_action_chunk(batch(image))[0, :4])
                for step in range(4):
                    action = wrapped.select_action(batch(image), image=image)
                    target = torch.zeros(1, 2) if state else expected[step][None]
                    torch.testing.assert_close(action, target)
                    world.step(action[0].numpy(), 0.2)
                    image = world.render()
            assert wrapped.verdict is not None
            assert wrapped.verdict.response is (Response.VETO if state else Response.ACCEPT)


@pytest.mark.parametrize("history_size", [1, 2])
def test_states_of_the_robot_reach_the_critic(
    history_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_arm_bundle(tmp_path / "arm", history_size=history_size)
    with WorldModel.open(tmp_path / "arm", allow_untrained=True) as arm:
        critic, given = Critic(arm), []
        critic.set_goal(LATENT)
        evaluate = critic.evaluate
        monkeypatch.setattr(
            critic,
            "evaluate",
            lambda *chunks, **inputs: given.append(inputs["history_states"]) or evaluate(*chunks, **inputs),
        )
        policy = Numbered()
        policy.predict_action_chunk = lambda batch: torch.zeros(1, 2, 7)
        wrapped = LeRobotCriticPolicy(policy, critic, arm, postprocess=unnormalize, steps=1)
        for number in range(3):
            wrapped.select_action({}, image=IMAGE, state=np.full(7, number))
        with pytest.raises(CriticError, match="measured state", check=code("critic.shape")):
            wrapped.select_action({}, image=IMAGE)
    expected = [[0], [1], [2]] if history_size == 1 else [[0, 0], [0, 1], [1, 2]]
    assert [states[:, 0].tolist() for states in given[:3]] == expected
