"""OpenVINO: any x86-64 or ARM CPU, Intel GPUs and Intel NPUs."""

from typing import TYPE_CHECKING

from jepa_runtime.backends.base import Backend, BackendOptions, Engine, Package
from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.backends.openvino.npu import Origin
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "npu": ["Origin"],
        },
    )

__all__ = [
    "ENGINES",
    "Origin",
]


def _create(device: str, options: BackendOptions) -> Backend:
    if device.startswith("NPU"):
        from jepa_runtime.backends.openvino.npu import NpuBackend

        return NpuBackend(device, options)
    from jepa_runtime.backends.openvino.backend import OpenVINOBackend

    return OpenVINOBackend(device, options)


ENGINES = (
    Engine(
        name="openvino",
        description="OpenVINO on a CPU, an Intel GPU or an Intel NPU",
        create=_create,
        devices={"openvino": "CPU", "npu": "NPU", "onnx": "CPU"},
        further_devices=("GPU",),
        modules=("openvino",),
        install="pip install jepa-edge",
        packages=(Package(name="openvino", title="OpenVINO", at_least=(2025, 0)),),
        reference_for=("openvino", "npu"),
        preferred_targets={"intel_npu": ("npu", "openvino"), "plain": ("openvino", "onnx")},
    ),
)
"""OpenVINO."""
