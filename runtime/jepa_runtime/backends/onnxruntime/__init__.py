"""ONNX Runtime on a CPU."""

from jepa_runtime.backends.base import Backend, BackendOptions, Engine, Package


def _create(device: str, options: BackendOptions) -> Backend:
    from jepa_runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(device, options)


ENGINES = (
    Engine(
        name="onnxruntime",
        description="ONNX Runtime on a CPU",
        create=_create,
        devices={"onnx": "CPU"},
        modules=("onnxruntime",),
        install="pip install 'jepa-edge[onnxruntime]'",
        packages=(Package(name="onnxruntime", title="ONNX Runtime"),),
        reference_for=("onnx", "tensorrt"),
    ),
)
"""ONNX Runtime."""

__all__ = ["ENGINES"]
