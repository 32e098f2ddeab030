"""The parameters of the planner node."""

from __future__ import annotations

from jepa_ros.common.parameters import ODOMETRY_TIMEOUT, REPORT_PATH, STAMPED_CMD_VEL, Parameter
from jepa_runtime.control import ControllerConfig, PolicyConfig
from jepa_runtime.critic import CriticConfig
from jepa_runtime.planning import CEMConfig, SteeringConfig, find_search, search_names

# Searches that compute with latents need the model in their process.
_SEARCHES = [find_search(name) for name in search_names()]
SEARCH_METHODS = tuple(each.name for each in _SEARCHES if "latents" not in each.requires)
_DEFAULTS, _CEM, _STEERING = ControllerConfig(), CEMConfig(), SteeringConfig()
_POLICY, _CRITIC = PolicyConfig(), CriticConfig()

PARAMETERS = (
    Parameter(
        name="search_method",
        default=CEMConfig.METHOD,
        description="How the planner finds its plan. "
        + " ".join(f"{each.name}: {each.summary}." for each in _SEARCHES if each.name in SEARCH_METHODS)
        + " policy: none; it executes the candidates that the critic allows. Those of a policy arrive on "
        "~/policy_candidates.",
        choices=(*SEARCH_METHODS, PolicyConfig.METHOD),
        read_only=True,
    ),
    Parameter(
        name="topk",
        default=_CEM.topk,
        description="Number of best candidates from which the next sampling distribution is computed.",
        low=1,
        high=65536,
        read_only=True,
    ),
    Parameter(
        name="max_speed_mps",
        default=_STEERING.max_speed_mps,
        description="With steering, maximum forward speed [m/s]. The model's action limits apply too.",
        low=0.1,
        high=10.0,
        read_only=True,
    ),
    Parameter(
        name="max_turn_radps",
        default=_STEERING.max_turn_radps,
        description="With steering, maximum turning rate [rad/s]. The model's action limits apply too.",
        low=0.1,
        high=10.0,
        read_only=True,
    ),
    Parameter(
        name="planner_seed",
        default=_DEFAULTS.seed,
        description="Seed of the random candidates.",
        low=0,
        high=2**31 - 1,
        read_only=True,
    ),
    Parameter(
        name="futures_timeout_s",
        default=_DEFAULTS.futures_timeout_s,
        description="Maximum age of the futures and of their image before the robot is stopped [s]. It must "
        "exceed the latency of the futures plus the image period.",
        low=0.02,
        high=60.0,
    ),
    Parameter(
        name="compensate_latency",
        default=_DEFAULTS.compensate_latency,
        description="Whether plans start from the state that the model predicts for the moment when "
        "their first command takes effect, instead of the image.",
        read_only=True,
    ),
    Parameter(
        name="actuation_delay_s",
        default=_DEFAULTS.actuation_delay_s,
        description="Time from a command on its topic to its effect on the robot [s], by which steering "
        "advances the pose of the goal. Set the same for the world_model node.",
        low=0.0,
        high=10.0,
        read_only=True,
    ),
    Parameter(
        name="surprise_window_s",
        default=_DEFAULTS.surprise_window_s,
        description="Length of the window in which surprising and discontinuous images are counted [s].",
        low=0.1,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="surprise_ratio",
        default=_DEFAULTS.surprise_ratio,
        description="Proportion of surprising images in the window above which the robot is stopped. 1: "
        "check disabled.",
        low=0.05,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="frozen_after_s",
        default=_DEFAULTS.frozen_after_s,
        description="Commanded motion that the images do not show before the robot is stopped [s at full "
        "speed, at least four model steps]. 0: this check and the check for repeated images, which a "
        "simulator without noise sends, are disabled.",
        low=0.0,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="max_change",
        default=_DEFAULTS.max_change,
        description="Maximum change of each action component per model step, as a proportion of its range. "
        "Velocities are limited in proportion to the elapsed time. 1: no limit.",
        low=0.001,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="reached_after",
        default=_DEFAULTS.reached_after,
        description="Number of consecutive images below the goal threshold before a goal counts as reached.",
        low=1,
        high=1000,
        read_only=True,
    ),
    Parameter(
        name="stuck_after_s",
        default=_DEFAULTS.stuck_after_s,
        description="Time without progress before the status becomes STUCK and the planner plans from "
        "scratch, after a recovery motion if enabled [s].",
        low=0.1,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="recovery_s",
        default=_DEFAULTS.recovery_s,
        description="Duration of the recovery motion of a stuck robot [s]. The motion is slow, in a random "
        "direction for which the model predicts at most 10 % more energy to the goal. 0: disabled.",
        low=0.0,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="recovery_speed",
        default=_DEFAULTS.recovery_speed,
        description="Speed of the recovery motion, as a proportion of the model's action limits.",
        low=0.01,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="goal_timeout_s",
        default=_DEFAULTS.goal_timeout_s,
        description="Time after which a latched goal ends, reached or not, until a goal with another stamp "
        "is latched [s]. 0: no timeout.",
        low=0.0,
        high=86400.0,
        read_only=True,
    ),
    Parameter(
        name="stop_timeout_s",
        default=_DEFAULTS.stop_timeout_s,
        description="Maximum time between messages on ~/stop before the robot is stopped [s]. 0: the last "
        "message stays in force.",
        low=0.0,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="give_up_after",
        default=3,
        description="Number of times the robot may be stuck without coming nearer before a ~/reach_goal "
        "goal ends as stuck.",
        low=1,
        high=1000,
        read_only=True,
    ),
    Parameter(
        name="failure_tolerance_s",
        default=5.0,
        description="Maximum time for which safety checks may stop the robot before a ~/reach_goal goal is "
        "aborted [s].",
        low=0.1,
        high=3600.0,
        read_only=True,
    ),
    Parameter(
        name="camera",
        default="",
        description="Image topic of the camera that the planner uses, as in the world model's parameter "
        "cameras. Empty: its only camera.",
        read_only=True,
    ),
    Parameter(
        name="action_frame",
        default="base_link",
        description="frame_id of pose deltas and of stamped velocities.",
        read_only=True,
    ),
    Parameter(
        name="policy_steps",
        default=_POLICY.steps,
        description="With a policy, number of steps of each chunk that are judged and executed; the rest is "
        "dropped. 0: all.",
        low=0,
        high=65536,
        read_only=True,
    ),
    Parameter(
        name="policy_timeout_s",
        default=_POLICY.timeout_s,
        description="With a policy, maximum time from the arrival of candidates to their verdict; later they "
        "are not judged, and no search starts from them [s].",
        low=0.02,
        high=60.0,
        read_only=True,
    ),
    Parameter(
        name="policy_commands",
        default=_POLICY.commands,
        description="With a policy, whether the planner commands the robot. false: it only publishes "
        "verdicts, with the thresholds in critic_state, and another node executes them.",
        read_only=True,
    ),
    Parameter(
        name="critic_limit",
        default=_CRITIC.limit,
        description="Change of the energy to the goal up to which a chunk is harmless. 0: the robot ends no "
        "further from the goal.",
        low=-1e9,
        high=1e9,
        read_only=True,
    ),
    Parameter(
        name="critic_false_veto_rate",
        default=_CRITIC.false_veto_rate,
        description="Maximum proportion of harmless chunks that are not executed as given.",
        low=0.001,
        high=0.999,
        read_only=True,
    ),
    Parameter(
        name="critic_coverage",
        default=_CRITIC.coverage,
        description="Target coverage of the upper bounds of scores.",
        low=0.001,
        high=0.999,
        read_only=True,
    ),
    Parameter(
        name="critic_warmup",
        default=_CRITIC.warmup,
        description="Number of harmless chunks that are executed unchecked before the first intervention. 0: "
        "none; without thresholds in critic_state, candidates are not judged.",
        low=0,
        high=100000,
        read_only=True,
    ),
    Parameter(
        name="critic_trial_rate",
        default=_CRITIC.trial_rate,
        description="Probability that a chunk is executed whatever its prediction, to learn from its "
        "outcome. 0: the veto threshold is that of the warm-up.",
        low=0.0,
        high=1.0,
        read_only=True,
    ),
    Parameter(
        name="critic_slow_down",
        default=_CRITIC.scales[0],
        description="Factor of the slower variant of a chunk. 0: chunks are never slowed down.",
        low=0.0,
        high=0.99,
        read_only=True,
    ),
    Parameter(
        name="critic_state",
        default="",
        description="File with the learned thresholds, which is read at the start and written while the "
        "robot drives. Empty: each start begins with a warm-up.",
        read_only=True,
    ),
    ODOMETRY_TIMEOUT,
    STAMPED_CMD_VEL,
    REPORT_PATH,
)
