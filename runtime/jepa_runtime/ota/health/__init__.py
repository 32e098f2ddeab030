"""Health of the serving process after a swap, and the interface to it."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ota.health.serving_health import ServingHealth
    from jepa_runtime.ota.health.serving_interface import Health, Serving
    from jepa_runtime.ota.health.trial_counter import TrialCounter
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "serving_health": ["ServingHealth"],
            "serving_interface": ["Health", "Serving"],
            "trial_counter": ["TrialCounter"],
        },
    )

__all__ = [
    "Health",
    "Serving",
    "ServingHealth",
    "TrialCounter",
]
