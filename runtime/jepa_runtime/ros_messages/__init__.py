"""ROS 2 message definitions, available without ROS."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ros_messages.definitions import build, definition, type_hash, typestore
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "definitions": ["build", "definition", "type_hash", "typestore"],
        },
    )

__all__ = [
    "build",
    "definition",
    "type_hash",
    "typestore",
]
