"""OpenVINO: any x86-64 or ARM CPU, Intel GPUs and Intel NPUs."""

from jepa_runtime.backends.base import Backend, BackendOptions, Engine


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
        modules=("openvino",),
        install="pip install jepa-edge",
    ),
)
