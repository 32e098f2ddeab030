"""Search for action sequences: CEM, MPPI and steering, energies and costs, action limits, default candidates.

Example::

    from jepa_runtime import WorldModel
    from jepa_runtime.planning import CEM, ActionLimits, CEMConfig, Planner

    with WorldModel.open("models/two_rooms") as model:
        latent, goal = model.encode(model.bundle.golden().frames[:2])
        search = CEM(CEMConfig(num_samples=64, horizon=8), ActionLimits.of(model.manifest), seed=0)
        planner = Planner(search, iterations=3)
        plan = planner.plan(lambda actions: model.predict(actions, latents=latent, goal=goal).energies)
    print(plan.mean[0], plan.cost)
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.planning.action_limits import ActionLimits
    from jepa_runtime.planning.candidates import default_candidates
    from jepa_runtime.planning.cem import CEM, CEMConfig
    from jepa_runtime.planning.differential_drive import DifferentialDrive
    from jepa_runtime.planning.energies import ENERGIES, mean_squared, plan_costs
    from jepa_runtime.planning.mppi import MPPI, MPPIConfig
    from jepa_runtime.planning.planner import Plan, Planner, create_search
    from jepa_runtime.planning.search import Search
    from jepa_runtime.planning.steering import Steering, SteeringConfig
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "action_limits": ["ActionLimits"],
            "candidates": ["default_candidates"],
            "cem": ["CEM", "CEMConfig"],
            "differential_drive": ["DifferentialDrive"],
            "energies": ["ENERGIES", "mean_squared", "plan_costs"],
            "mppi": ["MPPI", "MPPIConfig"],
            "planner": ["Plan", "Planner", "create_search"],
            "search": ["Search"],
            "steering": ["Steering", "SteeringConfig"],
        },
    )

__all__ = [
    "CEM",
    "ENERGIES",
    "MPPI",
    "ActionLimits",
    "CEMConfig",
    "DifferentialDrive",
    "MPPIConfig",
    "Plan",
    "Planner",
    "Search",
    "Steering",
    "SteeringConfig",
    "create_search",
    "default_candidates",
    "mean_squared",
    "plan_costs",
]
