"""The world model as a critic: check the action chunks of any policy before the robot executes them.

The policy may be a learned one, a planner or a person. The critic predicts the futures of its candidates,
bounds their energy or hazard, and accepts the given one, chooses another, slows it down or vetoes it. The
rate at which it intervenes against harmless chunks has a stated limit, which is maintained while the robot
drives.

Example::

    import numpy as np
    from jepa_runtime import WorldModel
    from jepa_runtime.critic import Critic

    with WorldModel.open("models/two_rooms") as model:
        latent, goal = model.encode(model.bundle.golden().frames[:2])
        critic = Critic(model)
        critic.set_goal(goal)
        chunk = np.full((4, 2), 0.5, np.float32)  # four steps of a policy, in m/s
        verdict = critic.evaluate(chunk[None], latents=latent)
        print(verdict.response, verdict.reason, verdict.actions[0])
        # Execute verdict.actions, encode the image after them, and report it:
        critic.observe(verdict, latent)
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.critic.config import CriticConfig
    from jepa_runtime.critic.critic import Critic, Hazard
    from jepa_runtime.critic.judge import ChunkJudge
    from jepa_runtime.critic.lerobot_policy import LeRobotCriticPolicy
    from jepa_runtime.critic.state_file import read_critic_state, write_critic_state
    from jepa_runtime.critic.thresholds import CriticState
    from jepa_runtime.critic.verdict import ChunkOutcome, CriticVerdict, Response
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "config": ["CriticConfig"],
            "critic": ["Critic", "Hazard"],
            "judge": ["ChunkJudge"],
            "lerobot_policy": ["LeRobotCriticPolicy"],
            "state_file": ["read_critic_state", "write_critic_state"],
            "thresholds": ["CriticState"],
            "verdict": ["ChunkOutcome", "CriticVerdict", "Response"],
        },
    )

__all__ = [
    "ChunkJudge",
    "ChunkOutcome",
    "Critic",
    "CriticConfig",
    "CriticState",
    "CriticVerdict",
    "Hazard",
    "LeRobotCriticPolicy",
    "Response",
    "read_critic_state",
    "write_critic_state",
]
