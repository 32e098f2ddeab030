"""Search for action sequences: a registry of searches, energies and costs, action limits, candidates.

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
    from jepa_runtime.planning.energies import ENERGIES, EnergyName, mean_squared, plan_costs
    from jepa_runtime.planning.hierarchical_cem import HierarchicalCEM, HierarchicalCEMConfig
    from jepa_runtime.planning.mppi import MPPI, MPPIConfig
    from jepa_runtime.planning.planner import Plan, Planner
    from jepa_runtime.planning.policy_cem import PolicyCEM, PolicyCEMConfig
    from jepa_runtime.planning.refined_cem import RefinedCEM, RefinedCEMConfig
    from jepa_runtime.planning.registry import create_search, find_search, search_names
    from jepa_runtime.planning.search import LatentFutures, Search, SearchConfig, SearchInputs
    from jepa_runtime.planning.search_method import (
        LatentModel,
        SearchContext,
        SearchInput,
        SearchMethod,
        SearchSettings,
    )
    from jepa_runtime.planning.steering import Steering, SteeringConfig
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "action_limits": ["ActionLimits"],
            "candidates": ["default_candidates"],
            "cem": ["CEM", "CEMConfig"],
            "differential_drive": ["DifferentialDrive"],
            "energies": ["ENERGIES", "EnergyName", "mean_squared", "plan_costs"],
            "mppi": ["MPPI", "MPPIConfig"],
            "hierarchical_cem": ["HierarchicalCEM", "HierarchicalCEMConfig"],
            "planner": ["Plan", "Planner"],
            "policy_cem": ["PolicyCEM", "PolicyCEMConfig"],
            "refined_cem": ["RefinedCEM", "RefinedCEMConfig"],
            "registry": ["create_search", "find_search", "search_names"],
            "search": ["LatentFutures", "Search", "SearchConfig", "SearchInputs"],
            "search_method": [
                "LatentModel",
                "SearchContext",
                "SearchInput",
                "SearchMethod",
                "SearchSettings",
            ],
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
    "EnergyName",
    "HierarchicalCEM",
    "HierarchicalCEMConfig",
    "LatentFutures",
    "LatentModel",
    "MPPIConfig",
    "Plan",
    "Planner",
    "PolicyCEM",
    "PolicyCEMConfig",
    "RefinedCEM",
    "RefinedCEMConfig",
    "Search",
    "SearchConfig",
    "SearchContext",
    "SearchInput",
    "SearchInputs",
    "SearchMethod",
    "SearchSettings",
    "Steering",
    "SteeringConfig",
    "create_search",
    "default_candidates",
    "find_search",
    "mean_squared",
    "plan_costs",
    "search_names",
]
