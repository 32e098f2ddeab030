"""Training, conversion, packaging and release of jepa-edge models, on a workstation with torch.

:func:`export_bundle` makes a bundle of your own networks. The names in ``__all__`` are public; others may
change in any release.
"""

from typing import TYPE_CHECKING

# Imported first: it keeps OpenVINO and ONNX Runtime, which modules below import, from sending telemetry.
import jepa_runtime as jepa_runtime
from jepa_runtime.util import lazy_exports

if TYPE_CHECKING:
    from jepa_export.bundling.bundle_networks import IMAGENET, Normalization
    from jepa_export.bundling.export_bundle import export_bundle
    from jepa_export.bundling.manifest_fields import ActionSpace
    from jepa_export.data.array_recording import ArrayRecording
    from jepa_export.errors import JepaExportError
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "bundling.bundle_networks": ["IMAGENET", "Normalization"],
            "bundling.export_bundle": ["export_bundle"],
            "bundling.manifest_fields": ["ActionSpace"],
            "data.array_recording": ["ArrayRecording"],
            "errors": ["JepaExportError"],
        },
    )

__all__ = [
    "IMAGENET",
    "ActionSpace",
    "ArrayRecording",
    "JepaExportError",
    "Normalization",
    "export_bundle",
]
