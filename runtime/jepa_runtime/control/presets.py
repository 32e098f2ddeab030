"""Planner settings by name: those of publications, as baselines and starting points, and those of this robot.

What the publications leave to the robot is left to the robot here too: actions are limited by the bundle, and
standard deviations are fractions of half that range. Each plan starts from scratch: V-JEPA 2-AC and eb_jepa
discard the previous plan, LeWM has executed all of it. There every plan sees one image, and the model decides
at once that the goal is reached; V-JEPA 2-AC and LeWM execute their plans without checking them. Here the
robot plans again at every step of the model.

V-JEPA 2-AC and LeWM estimate the spread with n - 1, this package with the n elites: 5 % less per iteration
with 10 elites, 2 % with 30.
"""

from __future__ import annotations

from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.cem import CEMConfig
from jepa_runtime.planning.mppi import MPPIConfig
from jepa_runtime.planning.registry import find_search, search_names
from jepa_runtime.planning.steering import SteeringConfig


def vjepa2_ac() -> ControllerConfig:
    """Return the settings of V-JEPA 2-AC (Assran et al. 2025): 400 candidates of 2 steps, 10 iterations.

    Source: facebookresearch/vjepa2, the defaults of notebooks/utils/world_model_wrapper.py and their use by
    ``cem`` in mpc_utils.py: L1 of the last step, a spread that starts at the limit (0.05 m along each axis)
    and has no floor. There the gripper's spread starts at 1 with a limit of 0.75, here at the limit; and
    there small gripper actions are rounded to 0.
    """
    search = CEMConfig(
        num_samples=400, horizon=2, topk=10, init_std=1.0, min_std=0.0, constant_fraction=0.0,
        momentum_mean=0.15, momentum_std=0.15, warm_start=False,
    )  # fmt: skip
    return ControllerConfig(
        search=search, energy="l1", reduction="last_step", images_per_step=1, extra_iterations=10,
        reached_after=1,
    )  # fmt: skip


def lewm() -> ControllerConfig:
    """Return the settings of LeWM (Maes et al. 2026): 300 candidates of 5 steps, 30 iterations.

    Source: lucas-maes/le-wm, config/eval (solver/cem.yaml, pusht.yaml) as preserved by its forks,
    ``criterion`` of its jepa.py, and ``CEMSolver`` of galilai-group/stable-worldmodel: squared error of the
    last step, no floor, no limits. An action there is five standardized robot actions, and its spread starts
    at 1; here at half the range. There all 5 actions are executed before the next plan.
    """
    search = CEMConfig(
        num_samples=300, horizon=5, topk=30, init_std=1.0, min_std=0.0, constant_fraction=0.0,
        warm_start=False,
    )  # fmt: skip
    return ControllerConfig(
        search=search, energy="mean_squared", reduction="last_step", images_per_step=1, extra_iterations=30,
        reached_after=1,
    )  # fmt: skip


def eb_jepa() -> ControllerConfig:
    """Return the settings of eb_jepa in its Two Rooms: MPPI, 200 candidates of 90 steps, 20 iterations.

    Source: facebookresearch/eb_jepa, examples/ac_video_jepa/cfgs/planning_mppi.yaml and ``MPPIPlanner`` of
    eb_jepa/planning.py: squared error summed over the steps, the spread refitted without a floor from 2 with
    actions up to 2.45. Its ``temperature`` of 0.005 multiplies costs, so it is 1 / 0.005 here. It executes
    one of the elites, drawn at random; this package executes the mean.
    """
    search = MPPIConfig(
        num_samples=200, horizon=90, topk=20, init_std=2 / 2.45, min_std=0.0, constant_fraction=0.0,
        temperature=1 / 0.005, refit_std=True, warm_start=False,
    )  # fmt: skip
    return ControllerConfig(
        search=search, energy="mean_squared", reduction="sum", images_per_step=1, extra_iterations=20,
        reached_after=1,
    )  # fmt: skip


def two_rooms() -> ControllerConfig:
    """Return the settings of the planner node and the demo: the defaults of :class:`ControllerConfig`."""
    return ControllerConfig()


def steering() -> ControllerConfig:
    """Return the settings that steer to the pose of the goal, for models that read poses.

    The energy to a goal behind the robot hardly falls while it turns around, so that it has longer than in
    ``two_rooms`` before it is stuck.
    """
    return ControllerConfig(search=SteeringConfig(), stuck_after_s=4.0)


PRESETS = {create.__name__: create for create in (vjepa2_ac, lewm, eb_jepa, two_rooms, steering)}
"""The functions that create the settings of planners, by name."""


def preset(name: str) -> ControllerConfig:
    """Return the settings of this name: those of a preset, or the defaults with a registered search.

    Raises:
        JepaRuntimeError: There is neither, or the package of the search is broken.
    """
    if name in PRESETS:
        return PRESETS[name]()
    if name not in search_names():
        known = dict.fromkeys([*PRESETS, *search_names()])
        raise JepaRuntimeError(
            f"unknown planner {name!r}: choose one of {', '.join(known)}",
            code="planner.unknown_preset",
        )
    return ControllerConfig(search=find_search(name).config())
