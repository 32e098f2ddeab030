"""A simulated NPU: OpenVINO's core, with a device NPU that computes on the CPU and reports busy time.

Blobs are those that OpenVINO exports for the CPU. Decisions of the driver (whether a blob matches) are set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino

_REAL = openvino.Core
_EXACT = {"INFERENCE_PRECISION_HINT": openvino.Type.f32}


class SimulatedCore:
    """See the module.

    Attributes:
        busy: The file with the driver's busy time counter, or None.
        idles: Whether the work is done elsewhere.
        breaks: Whether every import of a blob fails, also of a compatible one.
        properties: Properties of the device.
    """

    busy: Path | None = None
    idles = False
    breaks = False
    check = openvino.properties.CompatibilityCheck.SUPPORTED

    def __init__(self) -> None:
        self._core = _REAL()
        self.available_devices = [*self._core.available_devices, "NPU"]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.properties: dict[str, Any] = {
            "SUPPORTED_PROPERTIES": {"NPU_TURBO": "RW", "COMPATIBILITY_CHECK": "RO"},
            "DEVICE_ARCHITECTURE": "4000",
            "NPU_COMPILER_VERSION": (8 << 16) + 4,
        }

    def read_model(self, *arguments: Any) -> Any:
        return self._core.read_model(*arguments)

    def get_property(self, device: str, name: str, request: dict[str, str] | None = None) -> Any:
        assert device == "NPU"
        if request is not None:
            self.calls.append((name, request))
            return self.check
        if name not in self.properties:
            raise RuntimeError(f"{name} is not supported by the driver")
        return self.properties[name]

    def compile_model(self, model: Any, device: str, properties: dict[str, Any]) -> Any:
        self.calls.append(("compile", properties))
        if properties.get("INFERENCE_PRECISION_HINT", "f16") not in ("f16", openvino.Type.f16):
            raise RuntimeError("Wrong value for INFERENCE_PRECISION_HINT; supported values: f16, i8")
        return self._Compiled(
            self, self._core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": openvino.Type.f32})
        )

    def import_model(self, blob: bytes, device: str, properties: dict[str, Any]) -> Any:
        self.calls.append(("import", properties))
        if self.breaks:
            raise RuntimeError("the blob is not accepted by the driver")
        return self._Compiled(self, self._core.import_model(blob, "CPU", _EXACT))

    class _Compiled:
        def __init__(self, core: SimulatedCore, compiled: Any) -> None:
            self._core, self._compiled = core, compiled
            self.inputs, self.outputs = compiled.inputs, compiled.outputs

        def create_infer_request(self) -> Any:
            request, core = self._compiled.create_infer_request(), self._core

            class Request:
                get_tensor = request.get_tensor

                def infer(self, **arguments: Any) -> None:
                    request.infer(**arguments)
                    if core.busy is not None and not core.idles:
                        core.busy.write_text(str(int(core.busy.read_text()) + 40))

            return Request()
