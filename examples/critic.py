"""Let the world model check the chunks of a policy in Two Rooms: python examples/critic.py [BUNDLE]."""

import sys
from collections import Counter

import numpy as np

from jepa_runtime import WorldModel
from jepa_runtime.critic import Critic, CriticConfig, Response
from jepa_sim.worlds import TwoRooms

STEP_S, STEPS, CANDIDATES, EPISODES = 0.2, 4, 8, 40
rng = np.random.default_rng(0)
world = TwoRooms(seed=0)


def policy(count: int) -> np.ndarray:
    """Return chunks [K, h, A] of your policy; this one drives to the goal, wanders, and ignores the wall."""
    straight = world.straight_line()
    angle = np.arctan2(straight[1], straight[0]) + rng.normal(0.0, 1.0, count)
    velocity = 1.25 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.repeat(velocity[:, None], STEPS, axis=1)


with WorldModel.open(sys.argv[1] if len(sys.argv) > 1 else "models/two_rooms") as model:
    # A chunk is harmless if it brings the robot closer to the goal by at least one step.
    critic = Critic(model, CriticConfig(limit=-1.0, false_veto_rate=0.05, warmup=60))
    responses: Counter[str] = Counter()
    reached = {"warm-up": [], "checked": []}
    for episode in range(EPISODES):
        world.reset(episode)
        critic.set_goal(model.encode(world.render_goal()))
        phase, steps = "warm-up" if critic.is_warming_up else "checked", 0
        while steps < 40 and not world.reached():
            verdict = critic.evaluate(policy(CANDIDATES), latents=model.encode(world.render()))
            # After a veto the robot stands for one step, and the policy is asked again.
            actions = verdict.actions[:1] if verdict.response is Response.VETO else verdict.actions
            for action in actions:
                world.step(action, STEP_S)
            steps += len(actions)
            responses[verdict.response.value] += not critic.is_warming_up
            critic.observe(verdict, model.encode(world.render()))
        reached[phase].append(world.reached())
print(f"{sum(reached['warm-up'])} of {len(reached['warm-up'])} goals reached in the warm-up")
print(f"{sum(reached['checked'])} of {len(reached['checked'])} goals reached after it: {dict(responses)}")
print(f"a chunk is replaced if its predicted score exceeds {critic.veto_threshold:.2f}: {verdict.reason}")
