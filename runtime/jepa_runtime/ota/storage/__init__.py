"""Release files on the robot's disk: slots, partial downloads, file ownership."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ota.storage.slots import SlotStore, find_slot
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "slots": ["SlotStore", "find_slot"],
        },
    )

__all__ = [
    "SlotStore",
    "find_slot",
]
