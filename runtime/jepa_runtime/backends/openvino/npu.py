"""Backend for OpenVINO on an Intel NPU.

It uses blobs that were compiled ahead of time if they match, enables turbo, and verifies that the NPU ran
the graph. A blob is compiled for one platform by one compiler, and Intel does not guarantee that another
OpenVINO or driver loads it. Its metadata (:class:`Origin`) is compared before it is imported. If it does not
match, the graph is compiled here, which takes longer and is logged.
"""

from __future__ import annotations

import glob
import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino

from jepa_runtime.backends.base import BackendOptions, Graph, Shape, first_line
from jepa_runtime.backends.openvino.backend import OpenVINOBackend, OpenVINOSession, OpenVINOSplitSession
from jepa_runtime.errors import BackendError

_LOG = logging.getLogger(__name__)
# Exists from Linux 6.10 on.
BUSY_TIME = "/sys/class/accel/accel*/device/npu_busy_time_us"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Represent the metadata of a blob: its source, its compiler and its platform.

    Attributes:
        platform: The platform of the NPU: 3720, 4000 or 5010.
        compiler: The version of the NPU compiler.
        openvino: The release of OpenVINO.
        ir_sha256: The hash of the IR, see :attr:`~jepa_runtime.backends.base.Graph.sha256`.
        requirements: OpenVINO's RUNTIME_REQUIREMENTS of the blob, for OpenVINO's own check on the robot.
    """

    platform: str
    compiler: str
    openvino: str
    ir_sha256: str
    requirements: str

    @classmethod
    def parse(cls, requirements: str, ir_sha256: str) -> Origin:
        """Create the metadata from RUNTIME_REQUIREMENTS.

        Raises:
            BackendError: Platform, compiler or release are missing.
        """
        fields = dict(re.findall(r"(\w+)=([0-9.]+)", requirements))
        try:
            return cls(
                platform=fields["npu"],
                compiler=fields["compiler"],
                openvino=fields["ov"],
                ir_sha256=ir_sha256,
                requirements=requirements,
            )
        except KeyError as error:
            raise BackendError(
                f"the requirements of an NPU blob have no {error}: {requirements!r}",
                code="backend.blob_invalid",
            ) from error

    @classmethod
    def read(cls, content: bytes, where: str) -> Origin:
        """Parse the metadata file of a blob.

        Raises:
            BackendError: It is damaged.
        """
        try:
            found = cls(**json.loads(content))
        except (ValueError, TypeError, RecursionError) as error:
            raise BackendError(
                f"{where}: the blob metadata is damaged: {error}", code="backend.blob_invalid"
            ) from error
        if not all(isinstance(value, str) for value in vars(found).values()):
            raise BackendError(
                f"{where}: the blob metadata is damaged: values must be strings", code="backend.blob_invalid"
            )
        return found

    def mismatches(self, *, platform: str, compiler: str, openvino: str, ir_sha256: str) -> list[str]:
        """Return the reasons why the blob must not be imported; empty if it can be.

        Args:
            platform: The platform of the robot's NPU.
            compiler: The version of the compiler in the robot's driver, whose loader accepts blobs of earlier
                compilers too; empty if the driver has none.
            openvino: The robot's release of OpenVINO, which must be that of the blob: no other is guaranteed
                to read it.
            ir_sha256: The hash of the requested IR.
        """
        found = []
        if platform != self.platform:
            found.append(f"it is for platform {self.platform}, this NPU is {platform}")
        if compiler and _version(compiler) < _version(self.compiler):
            found.append(
                f"it was compiled by NPU compiler {self.compiler}, the driver supports up to {compiler}"
            )
        if openvino != self.openvino:
            found.append(f"it was compiled by OpenVINO {self.openvino}, this is {openvino}")
        if ir_sha256 != self.ir_sha256:
            found.append("it was compiled from another IR")
        return found


class NpuBackend(OpenVINOBackend):
    """OpenVINO on an Intel NPU."""

    targets = ("npu", "openvino", "onnx")

    def __init__(self, device: str, options: BackendOptions) -> None:
        super().__init__(device, options)
        if "NPU_TURBO" in self._property("SUPPORTED_PROPERTIES"):
            self._properties["NPU_TURBO"] = True
        self._platform = str(self._property("DEVICE_ARCHITECTURE"))

    def load(
        self, graph: Graph | Path, shapes: Mapping[str, Shape], rows: Collection[str] = ()
    ) -> OpenVINOSession | OpenVINOSplitSession:
        """Compile a graph, and verify that the NPU runs it.

        Raises:
            BackendError: See :meth:`Backend.load`; also if the NPU was idle while the graph ran.
        """
        session = super().load(graph, shapes)
        before = _busy_time_us()
        session.run()
        after = _busy_time_us()
        name = graph.name if isinstance(graph, Graph) else graph
        if before is None or after is None:
            _LOG.info("%s: cannot verify that the NPU ran it: no %s (Linux 6.10)", name, BUSY_TIME)
        elif after <= before:
            session.close()
            raise BackendError(
                f"{name}: the NPU was idle while the graph ran ({BUSY_TIME} did not increase)",
                code="backend.npu_idle",
            )
        return session

    def _compile(self, graph: Graph, model: Any, **further: Any) -> Any:
        if graph.precision == "fp32":
            _LOG.warning("%s: the NPU computes this fp32 graph in fp16", graph.name)
        # Blobs cannot be profiled, so the graph is compiled here.
        if "PERF_COUNT" not in further and (blob := graph.blob(self._platform)):
            content, origin = blob
            try:
                reasons = self._mismatches(graph, Origin.read(origin, f"blob metadata ({self._platform})"))
                if not reasons:
                    return self._core.import_model(content, self.device, self._properties | further)
            except (BackendError, RuntimeError) as error:
                reasons = [first_line(error)]
            _LOG.warning("%s: ignoring its blob: %s; compiling the graph", graph.name, "; ".join(reasons))
        return super()._compile(graph, model, **further)

    def _mismatches(self, graph: Graph, origin: Origin) -> list[str]:
        reasons = origin.mismatches(
            platform=self._platform,
            compiler=self._compiler(),
            openvino=self.version.partition("-")[0],
            ir_sha256=graph.sha256,
        )
        if "COMPATIBILITY_CHECK" in self._property("SUPPORTED_PROPERTIES"):
            arguments = {"RUNTIME_REQUIREMENTS": origin.requirements}
            answer = self._core.get_property(self.device, "COMPATIBILITY_CHECK", arguments)
            if answer == openvino.properties.CompatibilityCheck.UNSUPPORTED:
                reasons.append("the driver reports that it cannot run it")
        return reasons

    def _compiler(self) -> str:
        """Return the version of the compiler in the driver; empty if there is none, or it is unknown."""
        try:
            version = int(self._property("NPU_COMPILER_VERSION"))
        except BackendError:
            return ""
        return f"{version >> 16}.{version & 0xFFFF}" if version else ""

    def _property(self, name: str) -> Any:
        try:
            return self._core.get_property(self.device, name)
        except RuntimeError as error:
            raise BackendError(
                f"openvino:{self.device}: cannot read the property {name}: {error}",
                code="backend.device_not_found",
            ) from error


def _busy_time_us() -> int | None:
    """Return the busy time of all NPUs since the machine started; None if the kernel does not report it."""
    try:
        found = [int(Path(path).read_text(encoding="ascii")) for path in glob.glob(BUSY_TIME)]
    except (OSError, ValueError):
        return None
    return sum(found) if found else None


def _version(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]
