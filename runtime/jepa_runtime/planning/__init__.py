"""Search for action sequences: CEM and MPPI, energies and costs, action limits, default candidates."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.planning.action_limits import ActionLimits
    from jepa_runtime.planning.candidates import default_candidates
    from jepa_runtime.planning.cem import CEM, CEMConfig
    from jepa_runtime.planning.energies import ENERGIES, mean_squared, plan_costs
    from jepa_runtime.planning.mppi import MPPI, MPPIConfig
    from jepa_runtime.planning.planner import Plan, Planner, create_search
    from jepa_runtime.planning.search import Search
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "action_limits": ["ActionLimits"],
            "candidates": ["default_candidates"],
            "cem": ["CEM", "CEMConfig"],
            "energies": ["ENERGIES", "mean_squared", "plan_costs"],
            "mppi": ["MPPI", "MPPIConfig"],
            "planner": ["Plan", "Planner", "create_search"],
            "search": ["Search"],
        },
    )

__all__ = [
    "CEM",
    "ENERGIES",
    "MPPI",
    "ActionLimits",
    "CEMConfig",
    "MPPIConfig",
    "Plan",
    "Planner",
    "Search",
    "create_search",
    "default_candidates",
    "mean_squared",
    "plan_costs",
]
