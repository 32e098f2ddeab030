"""Settings of the field by name, to compare with and to begin from.

What they leave to the robot they leave here too: actions are limited as the bundle says, and standard
deviations are in fractions of half that range. Plans of the field each begin anew: in V-JEPA 2-AC and eb_jepa
whatever was planned before, in LeWM because nothing is left of a plan of which all is executed. V-JEPA 2-AC
and LeWM refit the spread as an estimate (divided by n - 1), here it is that of the n elites: with 10 of them
5 % less at each iteration, with 30 of them 2 %."""

from __future__ import annotations

from jepa_runtime.control.synchronous_controller import ControlConfig
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.cem import CEMConfig
from jepa_runtime.planning.mppi import MPPIConfig


def vjepa2_ac() -> ControlConfig:
    """V-JEPA 2-AC (Assran et al. 2025): 400 candidates of 2 steps, 10 iterations.

    Source: facebookresearch/vjepa2, the defaults of notebooks/utils/world_model_wrapper.py, and what
    ``cem`` in mpc_utils.py does with them: L1 of the last step, a spread that begins at the limit (0.05 m
    along each axis) and has no floor. There the gripper's spread begins at 1 with a limit of 0.75, here at
    the limit; and there small gripper actions are rounded to 0.
    """
    search = CEMConfig(
        num_samples=400, horizon=2, topk=10, init_std=1.0, min_std=0.0, constant_fraction=0.0,
        momentum_mean=0.15, momentum_std=0.15, warm_start=False,
    )  # fmt: skip
    return ControlConfig(search=search, iterations=10, energy="l1", reduction="last_step", patience=None)


def lewm() -> ControlConfig:
    """LeWM (Maes et al. 2026): 300 candidates of 5 steps, 30 iterations, all 5 actions executed.

    Source: lucas-maes/le-wm, config/eval (solver/cem.yaml, pusht.yaml) as its forks keep it, ``criterion``
    of its jepa.py, and ``CEMSolver`` of galilai-group/stable-worldmodel: squared error of the last step, no
    floor, no limits. An action there is five of the robot's, standardised, and its spread begins at 1; here
    at half the range.
    """
    search = CEMConfig(
        num_samples=300, horizon=5, topk=30, init_std=1.0, min_std=0.0, constant_fraction=0.0,
        warm_start=False,
    )  # fmt: skip
    return ControlConfig(
        search=search, iterations=30, energy="mean_squared", reduction="last_step", replan_every=5,
        patience=None,
    )  # fmt: skip


def eb_jepa() -> ControlConfig:
    """eb_jepa in its Two Rooms: MPPI, 200 candidates of 90 steps, 20 iterations.

    Source: facebookresearch/eb_jepa, examples/ac_video_jepa/cfgs/planning_mppi.yaml and ``MPPIPlanner`` of
    eb_jepa/planning.py: squared error summed along the way, the spread refitted without a floor from 2 with
    actions up to 2.45. Its ``temperature`` of 0.005 multiplies costs, so it is 1 / 0.005 here. In the end it
    draws one of the elites, where we execute the mean.
    """
    search = MPPIConfig(
        num_samples=200, horizon=90, topk=20, init_std=2 / 2.45, min_std=0.0, constant_fraction=0.0,
        temperature=1 / 0.005, refit_std=True, warm_start=False,
    )  # fmt: skip
    return ControlConfig(search=search, iterations=20, energy="mean_squared", reduction="sum", patience=None)


def two_rooms() -> ControlConfig:
    """Ours, of the demo: 64 candidates of 8 steps, 6 iterations, the bundle's own energy summed along the
    way; a stuck robot escapes. They are what :class:`ControlConfig` has without another word.
    """
    return ControlConfig()


PRESETS = {made.__name__: made for made in (vjepa2_ac, lewm, eb_jepa, two_rooms)}


def preset(name: str) -> ControlConfig:
    """The settings of this name.

    Raises:
        JepaRuntimeError: there are none.
    """
    if name not in PRESETS:
        raise JepaRuntimeError(f"no planner settings are called {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]()
