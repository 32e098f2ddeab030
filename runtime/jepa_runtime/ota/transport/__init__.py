"""How release files reach the robot: HTTP, folders, limits, deltas."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ota.transport import deltas
    from jepa_runtime.ota.transport.http_source import HttpSource
    from jepa_runtime.ota.transport.repository_sources import FolderSource, Limits
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "": ["deltas"],
            "http_source": ["HttpSource"],
            "repository_sources": ["FolderSource", "Limits"],
        },
    )

__all__ = [
    "FolderSource",
    "HttpSource",
    "Limits",
    "deltas",
]
