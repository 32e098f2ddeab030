"""The critic: its decisions, the stated rates on known streams of scores, and errors of bad input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.critic import Critic, CriticConfig, CriticState, CriticVerdict, Response
from jepa_runtime.errors import CriticError
from tests.bundles import DIM, HORIZON, NUM_SAMPLES, TOKENS, make_bundle
from tests.errors import code

LATENT = np.zeros((TOKENS, DIM), np.float32)
CHUNKS = np.full((3, 2, 2), 0.5, np.float32)


@pytest.fixture(scope="module")
def model(toy_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(toy_bundle) as opened:
        yield opened


class Scores:
    """A hazard that returns given scores: of each row of the next call, constant over the steps."""

    def __init__(self) -> None:
        self.next: list[float] = []

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        return np.repeat(np.array(self.next)[: len(latents), None], latents.shape[1], axis=1)


def learned(model: WorldModel, **values: Any) -> CriticState:
    """Return a state in which a given chunk may exceed the limit 0 by 1, and margins are 1 and 2."""
    state = CriticState(1.0, 1.0, 2.0, 0.0, 0.05, 0.9, model.latent_space, model.energy_space)
    return replace(state, **values)


def critic_with(model: WorldModel, scores: Scores, **settings: Any) -> Critic:
    """Return a critic after its warm-up, without trials."""
    config = CriticConfig(**{"trial_rate": 0.0} | settings)
    return Critic(model, config, hazard=scores, state=learned(model))


def evaluate(critic: Critic, scores: Scores, values: list[float], count: int) -> CriticVerdict:
    scores.next = values
    return critic.evaluate(CHUNKS[:count], latents=LATENT)


@pytest.mark.parametrize(
    ("values", "response", "index", "scale"),
    [
        # Given, two candidates, the given one at half speed; limit 0, threshold 1, margin of alternatives 2.
        ([1.0, -9.0, -9.0, -9.0], Response.ACCEPT, 0, 1.0),
        ([1.1, -2.0, -3.0, -9.0], Response.CHOOSE, 2, 1.0),
        ([1.1, -1.9, -1.8, -2.0], Response.SLOW_DOWN, 0, 0.5),
        ([1.1, -1.9, -1.8, -1.9], Response.VETO, None, 1.0),
        ([np.nan, np.nan, -2.0, -9.0], Response.CHOOSE, 2, 1.0),
        ([np.inf, np.nan, np.nan, np.nan], Response.VETO, None, 1.0),
    ],
)
def test_evaluate_learned_thresholds_decide(
    model: WorldModel, values: list[float], response: Response, index: int | None, scale: float
) -> None:
    scores = Scores()
    verdict = evaluate(critic_with(model, scores), scores, values, 3)
    assert (verdict.response, verdict.index, verdict.scale) == (response, index, scale)
    assert verdict.veto_threshold == 1.0 and not verdict.is_trial
    np.testing.assert_equal(verdict.upper_bounds, np.add(values[:3], [1, 2, 2]))
    expected = 0.0 if response is Response.VETO else 0.5 * scale
    assert (verdict.actions == np.float32(expected)).all() and verdict.actions.shape == (2, 2)


def test_evaluate_without_alternatives_vetoes(model: WorldModel) -> None:
    scores = Scores()
    verdict = evaluate(critic_with(model, scores, scales=()), scores, [1.1], 1)
    assert verdict.response is Response.VETO and np.isnan(verdict.predicted)
    assert "exceeds the veto threshold 1" in verdict.reason


def test_evaluate_in_warmup_accepts_all_but_predictions_that_are_not_finite(model: WorldModel) -> None:
    scores = Scores()
    critic = Critic(model, CriticConfig(warmup=20), hazard=scores)
    verdict = evaluate(critic, scores, [1e6, -9.0, -9.0, -9.0], 3)
    assert verdict.response is Response.ACCEPT and verdict.is_trial and np.isinf(verdict.upper_bound)
    assert evaluate(critic, scores, [np.nan, -9.0, -9.0, -9.0], 3).response is Response.VETO
    assert critic.state is None


def test_observe_harmless_chunks_of_warmup_end_it_at_their_quantiles(model: WorldModel) -> None:
    """Of 39 harmless chunks the 38th smallest excess bounds 5 %, and the 36th smallest error 10 %."""
    scores = Scores()
    critic = Critic(model, CriticConfig(warmup=39, scales=()), hazard=scores)
    for number in range(1, 40):
        # Predicted 1 to 39, observed 0; the margin counts only observed scores above the predicted ones.
        verdict = evaluate(critic, scores, [float(number)], 1)
        scores.next = [0.0]
        assert critic.is_warming_up
        critic.observe(verdict, LATENT)
    assert not critic.is_warming_up and critic.veto_threshold == pytest.approx(38)
    assert critic.state is not None and critic.state.given_margin == pytest.approx(0.01 * 20)


def stream(
    critic: Critic, scores: Scores, chunks: int, *, bias_after: float = 0.0, seed: int = 0
) -> tuple[list[bool], list[bool]]:
    """Run a stream of Gaussian scores with noisy predictions, biased in its second half.

    Returns:
        For each harmless chunk of the second half, whether it was not executed; and for each executed one,
        whether its score was within the bound.
    """
    rng = np.random.default_rng(seed)
    vetoed, within = [], []
    for number in range(chunks):
        late = number >= chunks // 2
        true = rng.normal()
        verdict = evaluate(critic, scores, [true + rng.normal(0.0, 0.7) + bias_after * late], 1)
        scores.next = [true]
        outcome = critic.observe(verdict, LATENT)
        if late and true <= critic.config.limit:
            vetoed.append(verdict.response is Response.VETO)
        if late and outcome is not None and outcome.is_within_bound is not None:
            within.append(outcome.is_within_bound)
    return vetoed, within


def test_observe_stream_keeps_the_stated_rates(model: WorldModel) -> None:
    scores = Scores()
    config = CriticConfig(false_veto_rate=0.1, warmup=100, trial_rate=0.3, scales=())
    vetoed, within = stream(Critic(model, config, hazard=scores), scores, 8000)
    # Trials are executed: 0.7 x 0.1 are stated, and three standard deviations of 1900 chunks are 0.02.
    assert 0.04 < np.mean(vetoed) < 0.1
    assert np.mean(within) == pytest.approx(0.9, abs=0.02)


def test_trials_keep_the_rate_when_predictions_change_and_a_fixed_threshold_does_not(
    model: WorldModel,
) -> None:
    """Predictions become too high by one standard deviation of the scores: harmless chunks look harmful."""
    scores, rates = Scores(), []
    for trial_rate in (0.3, 0.0):
        config = CriticConfig(false_veto_rate=0.1, warmup=100, trial_rate=trial_rate, scales=())
        vetoed, _ = stream(Critic(model, config, hazard=scores), scores, 8000, bias_after=1.0)
        rates.append(np.mean(vetoed))
    assert rates[0] < 0.12 and rates[1] > 0.25


def test_observe_accepted_chunk_does_not_change_the_veto_threshold(model: WorldModel) -> None:
    scores = Scores()
    critic = critic_with(model, scores, scales=())
    verdict = evaluate(critic, scores, [-1.0], 1)
    scores.next = [-1.5]
    outcome = critic.observe(verdict, LATENT)
    assert outcome is not None and outcome.is_harmless and outcome.is_within_bound
    assert critic.state is not None
    assert critic.state.veto_excess == 1.0 and critic.state.given_margin < 1.0
    assert critic.state.alternative_margin == 2.0


def test_observe_alternative_changes_its_own_margin_only(model: WorldModel) -> None:
    scores = Scores()
    critic = critic_with(model, scores)
    verdict = evaluate(critic, scores, [5.0, -2.0, -3.0, -9.0], 3)
    scores.next = [0.5]
    outcome = critic.observe(verdict, LATENT)
    assert outcome is not None and not outcome.is_harmless and outcome.is_within_bound is False
    assert critic.state is not None
    assert (critic.state.veto_excess, critic.state.given_margin) == (1.0, 1.0)
    assert critic.state.alternative_margin > 2.0


def test_observe_veto_learns_nothing(model: WorldModel) -> None:
    scores = Scores()
    critic = critic_with(model, scores, scales=())
    assert critic.observe(evaluate(critic, scores, [5.0], 1), LATENT) is None
    assert critic.state == learned(model)


def test_observe_hazard_counts_the_highest_of_the_steps(model: WorldModel) -> None:
    critic = Critic(model, CriticConfig(warmup=20), hazard=lambda latents: latents[..., 0, 0])
    verdict = critic.evaluate(CHUNKS[:1], latents=LATENT)
    steps = np.stack([LATENT, LATENT + 3, LATENT + 1])
    outcome = critic.observe(verdict, steps)
    assert outcome is not None and outcome.score == 3.0 and not outcome.is_harmless
    assert verdict.energy_now is None


def test_evaluate_goal_scores_are_changes_of_the_energy(model: WorldModel) -> None:
    critic = Critic(model)
    goal, now = LATENT + 1, LATENT - 1
    critic.set_goal(goal)
    verdict = critic.evaluate(CHUNKS, latents=now)
    energies = model.predict(CHUNKS, latents=now, goal=goal).energies
    assert energies is not None
    assert verdict.energy_now == pytest.approx(float(model.energy(now, goal)))
    np.testing.assert_allclose(verdict.scores, energies[:, -1] - verdict.energy_now, atol=1e-5)
    outcome = critic.observe(verdict, goal)
    assert outcome is not None
    assert outcome.score == pytest.approx(float(model.energy(goal, goal)) - verdict.energy_now, abs=1e-5)


def test_evaluate_more_candidates_than_one_call_predicts_scores_all(model: WorldModel) -> None:
    critic = Critic(model)
    critic.set_goal(LATENT + 1)
    many = np.random.default_rng(0).uniform(-1, 1, (2 * NUM_SAMPLES + 3, HORIZON, 2)).astype(np.float32)
    scores = critic.evaluate(many, latents=LATENT).scores
    each = [critic.evaluate(chunk[None], latents=LATENT).scores[0] for chunk in many]
    np.testing.assert_allclose(scores, each, atol=1e-5)


def test_evaluate_history_changes_the_prediction(tmp_path: Path) -> None:
    make_bundle(tmp_path / "toy", history_size=2)
    with WorldModel.open(tmp_path / "toy") as opened:
        critic = Critic(opened)
        critic.set_goal(LATENT + 1)
        history = np.stack([LATENT - 1, LATENT])
        moved = critic.evaluate(CHUNKS, latents=history, history_actions=np.ones((1, 2), np.float32))
        assert moved.energy_now == critic.evaluate(CHUNKS, latents=LATENT).energy_now
        assert (moved.scores != critic.evaluate(CHUNKS, latents=LATENT).scores).all()
        with pytest.raises(CriticError, check=code("critic.shape")):
            critic.evaluate(CHUNKS, latents=history, history_actions=np.ones((2, 2)))


@pytest.mark.parametrize(
    ("candidates", "latents", "expected"),
    [
        (CHUNKS[0], LATENT, "critic.shape"),
        (CHUNKS[:0], LATENT, "critic.shape"),
        (np.zeros((1, HORIZON + 1, 2)), LATENT, "critic.shape"),
        (np.zeros((1, 2, 3)), LATENT, "critic.shape"),
        (CHUNKS * np.nan, LATENT, "critic.not_finite"),
        (np.full((1, 2, 2), 1e300), LATENT, "critic.not_finite"),
        (CHUNKS, LATENT[:1], "critic.shape"),
        (CHUNKS, LATENT + np.inf, "critic.not_finite"),
    ],
)
def test_evaluate_bad_input_raises(
    model: WorldModel, candidates: np.ndarray, latents: np.ndarray, expected: str
) -> None:
    critic = Critic(model)
    critic.set_goal(LATENT)
    with pytest.raises(CriticError, check=code(expected)):
        critic.evaluate(candidates, latents=latents)


def test_goal_and_outcome_are_checked(model: WorldModel) -> None:
    critic = Critic(model)
    with pytest.raises(CriticError, check=code("critic.no_goal")):
        critic.evaluate(CHUNKS, latents=LATENT)
    with pytest.raises(CriticError, check=code("critic.shape")):
        critic.set_goal(LATENT[0])
    critic.set_goal(LATENT)
    verdict = critic.evaluate(CHUNKS, latents=LATENT)
    with pytest.raises(CriticError, check=code("critic.shape")):
        critic.observe(verdict, np.zeros((0, TOKENS, DIM), np.float32))
    with pytest.raises(CriticError, check=code("critic.not_finite")):
        critic.observe(verdict, LATENT + np.nan)


def test_hazard_of_wrong_shape_or_without_a_finite_outcome_raises(model: WorldModel) -> None:
    with pytest.raises(CriticError, check=code("critic.hazard_shape")):
        Critic(model, hazard=lambda latents: latents).evaluate(CHUNKS, latents=LATENT)
    scores = Scores()
    critic = Critic(model, hazard=scores)
    verdict = evaluate(critic, scores, [0.0, 0.0, 0.0, 0.0], 3)
    scores.next = [np.nan]
    with pytest.raises(CriticError, check=code("critic.not_finite")):
        critic.observe(verdict, LATENT)


@pytest.mark.parametrize(
    "other", [{"limit": 1.0}, {"false_veto_rate": 0.1}, {"coverage": 0.8}, {"latent_space": "another"}]
)
def test_state_of_another_model_or_setting_is_rejected(model: WorldModel, other: dict[str, Any]) -> None:
    critic = Critic(model, state=learned(model))
    assert critic.state == learned(model) and not critic.is_warming_up
    with pytest.raises(CriticError, check=code("critic.state_mismatch")):
        Critic(model, state=learned(model, **other))


@pytest.mark.parametrize(
    "setting",
    [
        {"limit": np.nan},
        {"false_veto_rate": 0.0},
        {"coverage": 1.0},
        {"false_veto_rate": 0.01, "warmup": 98},
        {"coverage": 0.99, "warmup": 98},
        {"trial_rate": 1.1},
        {"scales": (1.0,)},
    ],
)
def test_settings_out_of_range_raise(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting)) if len(setting) == 1 else "warmup"):
        CriticConfig(**setting)


def test_chunk_to_the_goal_is_accepted_and_one_away_from_it_is_not(two_rooms_bundle: Path) -> None:
    """With the shipped model, in a room without a wall between the robot and its goal."""
    from jepa_sim.worlds import TwoRooms

    world = TwoRooms(layout="fixed", seed=0)
    with WorldModel.open(two_rooms_bundle) as opened:
        world._position, world._goal = np.array([[0.6, 1.0]]), np.array([[1.4, 1.0]])
        state = replace(learned(opened), veto_excess=0.5)
        critic = Critic(opened, CriticConfig(trial_rate=0.0), state=state)
        critic.set_goal(opened.encode(world.render_goal()))
        latent = opened.encode(world.render())
        towards = np.repeat(np.array([[[1.0, 0.0]]]), 3, axis=1)
        assert critic.evaluate(towards, latents=latent).response is Response.ACCEPT
        replaced = critic.evaluate(np.concatenate([[[[0, 1.2]] * 3], towards]), latents=latent)
        assert replaced.response is Response.CHOOSE and replaced.index == 1


STATE = np.linspace(0.1, 0.7, 7, dtype=np.float32)


@pytest.fixture(scope="module")
def arm(arm_bundle: Path) -> Iterator[WorldModel]:
    with WorldModel.open(arm_bundle, allow_untrained=True) as opened:
        yield opened


def test_evaluate_of_a_model_that_reads_states_predicts_from_them(arm: WorldModel) -> None:
    critic = Critic(arm)
    critic.set_goal(LATENT + 0.5)
    chunks = np.full((2, 2, 7), 0.01, np.float32)
    verdict = critic.evaluate(chunks, latents=LATENT, history_states=STATE[None])
    futures = arm.predict(chunks, latents=LATENT, history_states=STATE[None], goal=LATENT + 0.5)
    assert futures.energies is not None
    expected = futures.energies[:, -1] - arm.energy(LATENT, LATENT + 0.5)
    np.testing.assert_allclose(verdict.scores, expected, atol=1e-6)
    elsewhere = critic.evaluate(chunks, latents=LATENT, history_states=STATE[None] + 1)
    assert np.abs(elsewhere.scores - verdict.scores).max() > 1e-4


@pytest.mark.parametrize(
    ("states", "expected"),
    [(None, "critic.shape"), (STATE, "critic.shape"), (STATE[None] * np.nan, "critic.not_finite")],
)
def test_evaluate_without_the_states_that_the_model_reads_is_rejected(
    arm: WorldModel, states: Any, expected: str
) -> None:
    critic = Critic(arm)
    critic.set_goal(LATENT)
    with pytest.raises(CriticError, check=code(expected)):
        critic.evaluate(np.zeros((1, 2, 7), np.float32), latents=LATENT, history_states=states)


def test_evaluate_with_states_for_a_model_that_reads_none_is_rejected(model: WorldModel) -> None:
    critic = Critic(model)
    critic.set_goal(LATENT)
    with pytest.raises(CriticError, check=code("critic.shape")):
        critic.evaluate(CHUNKS, latents=LATENT, history_states=STATE[None])
