"""OpenVINO on an Intel NPU: blobs that were compiled ahead of time where they fit, turbo, and proof that the
NPU did the work.

A blob is compiled for one platform by one compiler, and Intel does not promise that another OpenVINO or
driver loads it. So beside each lies what it came from (:class:`Origin`), to be compared before it is
imported. Where it does not fit, the graph is compiled here, which takes longer and is said.
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
# Linux 6.10 and later.
BUSY_TIME = "/sys/class/accel/accel*/device/npu_busy_time_us"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a blob was made of, by what and for what.

    Attributes:
        platform: of the NPU: 3720, 4000 or 5010.
        compiler: version of the NPU compiler.
        openvino: release of OpenVINO.
        ir_sha256: of the IR, see :attr:`~jepa_runtime.backends.base.Graph.sha256`.
        requirements: OpenVINO's RUNTIME_REQUIREMENTS of the blob, for its own check on the robot.
    """

    platform: str
    compiler: str
    openvino: str
    ir_sha256: str
    requirements: str

    @classmethod
    def parse(cls, requirements: str, ir_sha256: str) -> Origin:
        """From what the compiler says of a blob.

        Raises:
            BackendError: platform, compiler or release are not in it.
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
            raise BackendError(f"an NPU blob does not say its {error}: {requirements!r}") from error

    @classmethod
    def read(cls, content: bytes, where: str) -> Origin:
        """From the file beside a blob.

        Raises:
            BackendError: it is damaged.
        """
        try:
            found = cls(**json.loads(content))
        except (ValueError, TypeError, RecursionError) as error:
            raise BackendError(f"{where}: where the blob comes from cannot be read: {error}") from error
        if not all(isinstance(value, str) for value in vars(found).values()):
            raise BackendError(f"{where}: where the blob comes from cannot be read: not all are texts")
        return found

    def mismatches(self, *, platform: str, compiler: str, openvino: str, ir_sha256: str) -> list[str]:
        """Why a blob of this origin must not be imported; nothing where it may.

        Args:
            platform: of the robot's NPU.
            compiler: version of the compiler of the robot's driver, whose loader takes blobs of earlier ones
                too; empty: it has none, and does not need one for that.
            openvino: the robot's release: the blob's own, since no other is promised to read it.
            ir_sha256: of the IR whose blob is wanted.
        """
        found = []
        if platform != self.platform:
            found.append(f"it is for platform {self.platform}, this NPU is {platform}")
        if compiler and _version(compiler) < _version(self.compiler):
            found.append(
                f"it was made by NPU compiler {self.compiler}, the driver here knows up to {compiler}"
            )
        if openvino != self.openvino:
            found.append(f"it was made by OpenVINO {self.openvino}, here is {openvino}")
        if ir_sha256 != self.ir_sha256:
            found.append("it was made of another IR")
        return found


class NpuBackend(OpenVINOBackend):
    """OpenVINO on an Intel NPU. See :class:`~jepa_runtime.backends.openvino.backend.OpenVINOBackend`."""

    targets = ("npu", "openvino", "onnx")

    def __init__(self, device: str, options: BackendOptions) -> None:
        super().__init__(device, options)
        if "NPU_TURBO" in self._told("SUPPORTED_PROPERTIES"):
            self._properties["NPU_TURBO"] = True
        self._platform = str(self._told("DEVICE_ARCHITECTURE"))

    def load(
        self, graph: Graph | Path, shapes: Mapping[str, Shape], rows: Collection[str] = ()
    ) -> OpenVINOSession | OpenVINOSplitSession:
        """See :class:`~jepa_runtime.backends.base.Backend`.

        Raises:
            BackendError: also if the NPU was not busy while the graph ran.
        """
        session = super().load(graph, shapes)
        before = _busy_time_us()
        session.run()
        after = _busy_time_us()
        name = graph.name if isinstance(graph, Graph) else graph
        if before is None or after is None:
            _LOG.info("%s: whether the NPU ran it cannot be told: no %s (Linux 6.10)", name, BUSY_TIME)
        elif after <= before:
            session.close()
            raise BackendError(f"{name}: ran, but the NPU was not busy meanwhile ({BUSY_TIME} stood still)")
        return session

    def _compile(self, graph: Graph, model: Any, **further: Any) -> Any:
        if graph.precision == "fp32":
            _LOG.warning("%s: an NPU computes in fp16 what is not quantized, also this", graph.name)
        # Blobs count no operations: for that, the graph is compiled here.
        if "PERF_COUNT" not in further and (blob := graph.blob(self._platform)):
            content, origin = blob
            try:
                reasons = self._mismatches(graph, Origin.read(origin, f"its origin ({self._platform})"))
                if not reasons:
                    return self._core.import_model(content, self.device, self._properties | further)
            except (BackendError, RuntimeError) as error:
                reasons = [first_line(error)]
            _LOG.warning("%s: its blob is left out: %s; compiling it here", graph.name, "; ".join(reasons))
        return super()._compile(graph, model, **further)

    def _mismatches(self, graph: Graph, origin: Origin) -> list[str]:
        reasons = origin.mismatches(
            platform=self._platform,
            compiler=self._compiler(),
            openvino=self.version.partition("-")[0],
            ir_sha256=graph.sha256,
        )
        if "COMPATIBILITY_CHECK" in self._told("SUPPORTED_PROPERTIES"):
            asked = {"RUNTIME_REQUIREMENTS": origin.requirements}
            said = self._core.get_property(self.device, "COMPATIBILITY_CHECK", asked)
            if said == openvino.properties.CompatibilityCheck.UNSUPPORTED:
                reasons.append("the driver says that it cannot run it")
        return reasons

    def _compiler(self) -> str:
        """Version of the compiler in the driver; empty: there is none, or it does not tell."""
        try:
            version = int(self._told("NPU_COMPILER_VERSION"))
        except BackendError:
            return ""
        return f"{version >> 16}.{version & 0xFFFF}" if version else ""

    def _told(self, name: str) -> Any:
        try:
            return self._core.get_property(self.device, name)
        except RuntimeError as error:
            raise BackendError(f"openvino:{self.device}: does not tell {name}: {error}") from error


def _busy_time_us() -> int | None:
    """How long the NPUs of this machine worked since it started, for whomever; None: nobody counts it."""
    try:
        found = [int(Path(path).read_text(encoding="ascii")) for path in glob.glob(BUSY_TIME)]
    except (OSError, ValueError):
        return None
    return sum(found) if found else None


def _version(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]
