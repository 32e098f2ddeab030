"""Updates that an Eclipse hawkBit server orders, over its Direct Device Integration API (DDI v1).

hawkBit decides which robot installs which version, and when. The signed repository decides what a robot may
install at all, and every file comes from there: a deployment of a version that the repository does not offer
is answered with a failure.
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ota.hawkbit.agent import HawkbitAgent
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "agent": ["HawkbitAgent"],
        },
    )

__all__ = [
    "HawkbitAgent",
]
