"""Intel NPUs: blobs compiled ahead of time, what the compiler expects of their speed, and where a blob fits.

A blob is compiled for one platform by one compiler, and Intel does not promise that another OpenVINO or
driver loads it. So beside each lies what it came from (:class:`Origin`), to be compared before it is
imported."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import openvino as ov

from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler
from jepa_export.targets.confined import Limits

PLATFORMS = {"3720": "Meteor Lake", "4000": "Lunar Lake", "5010": "Panther Lake"}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One inference as the compiler's cost model expects it. No measurement: driver, copies of inputs and
    outputs, and what else the machine does are left out. It compares graphs.

    Attributes:
        total_ms: from start to end.
        dma_ms: moving data; this and the next two overlap.
        dpu_ms: matrix products.
        shave_ms: everything else (softmax, GELU, normalisation).
        exposed_dma_ms: moving data while nothing is computed.
    """

    total_ms: float
    dma_ms: float
    dpu_ms: float
    shave_ms: float
    exposed_dma_ms: float

    @classmethod
    def parse(cls, trace: str) -> Schedule:
        """From the compiler's compileTimeScheduleTrace.json.

        Raises:
            JepaExportError: it is not such a trace.
        """
        try:
            found = json.loads(trace)["taskStatistics"]
            total, dma, dpu, shave, exposed = (
                float(found[f"{part} duration{rest}"]) / 1e3
                for part, rest in (
                    ("total", ""),
                    ("DMA", ""),
                    ("DPU", ""),
                    ("SW", ""),
                    ("DMA", " without overlaps"),
                )
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise JepaExportError(
                f"the NPU compiler's schedule trace is not as expected: {error!r}"
            ) from error
        return cls(total_ms=total, dma_ms=dma, dpu_ms=dpu, shave_ms=shave, exposed_dma_ms=exposed)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a blob was made of, by what and for what.

    Attributes:
        platform: of :data:`PLATFORMS`.
        compiler: version of the NPU compiler.
        openvino: release of OpenVINO.
        ir_sha256: of the IR, see :func:`ir_sha256`.
        requirements: OpenVINO's RUNTIME_REQUIREMENTS of the blob, for its own check on the robot:
            ``core.get_property("NPU", "COMPATIBILITY_CHECK", {"RUNTIME_REQUIREMENTS": requirements})``.
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
            JepaExportError: platform, compiler or release are not in it.
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
            raise JepaExportError(f"an NPU blob does not say its {error}: {requirements!r}") from error

    @classmethod
    def read(cls, blob: Path) -> Origin:
        """Of ``blob``, from the file beside it.

        Raises:
            JepaExportError: there is none, or it is damaged.
        """
        path = origin_path(blob)
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise JepaExportError(f"{path}: where the blob comes from cannot be read: {error}") from error

    def mismatches(self, *, platform: str, compiler: str, openvino: str, ir_sha256: str) -> list[str]:
        """Why a blob of this origin must not be imported; nothing where it may.

        Args:
            platform: of the robot's NPU.
            compiler: version of the compiler of the robot's driver: it loads blobs of earlier ones too.
            openvino: the robot's release: the blob's own, since no other is promised to read it.
            ir_sha256: of the IR whose blob is wanted.
        """
        found = []
        if platform != self.platform:
            found.append(f"it is for platform {self.platform}, this NPU is {platform}")
        if _version(compiler) < _version(self.compiler):
            found.append(
                f"it was made by NPU compiler {self.compiler}, the driver here knows up to {compiler}"
            )
        if openvino != self.openvino:
            found.append(f"it was made by OpenVINO {self.openvino}, here is {openvino}")
        if ir_sha256 != self.ir_sha256:
            found.append("it was made of another IR")
        return found


def static_ir(model: ov.Model, shapes: Mapping[str, Sequence[int]]) -> ov.Model:
    """A copy of ``model`` with every shape fixed, as NPUs need it.

    Args:
        shapes: of the inputs that have a free axis.

    Raises:
        JepaExportError: an input is not there, does not take the shape, or a shape is still free.
    """
    fixed = model.clone()
    try:
        fixed.reshape({name: list(shape) for name, shape in shapes.items()})
    except RuntimeError as error:
        raise JepaExportError(f"the graph does not take the shapes {dict(shapes)}: {error}") from error
    _check_static(fixed, model.get_friendly_name())
    return fixed


def compile_blob(model_xml: Path, out: Path, platform: str, *, limits: Limits | None = None) -> Schedule:
    """Compile a static IR for an NPU; no NPU is needed. Writes ``out`` and its origin (:func:`origin_path`).

    Args:
        model_xml: the IR; its .bin lies beside it.
        platform: of :data:`PLATFORMS`.

    Raises:
        JepaExportError: no such platform, the compiler is not here, the IR has a free shape or holds what the
            compiler does not take, or a limit was exceeded; nothing was written.
    """
    if platform not in PLATFORMS:
        known = ", ".join(f"{number} ({name})" for number, name in PLATFORMS.items())
        raise JepaExportError(f"no NPU platform is called {platform!r}; there are: {known}")
    compiler = npu_compiler.find()
    try:
        _check_static(ov.Core().read_model(model_xml), str(model_xml))
    except RuntimeError as error:
        raise JepaExportError(f"{model_xml}: OpenVINO cannot read it: {error}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        requirements = compiler.compile(model_xml, platform, Path(scratch), limits or Limits())
        origin = Origin.parse(requirements, ir_sha256(model_xml))
        schedule = Schedule.parse(Path(scratch, npu_compiler.TRACE).read_text(encoding="utf-8"))
        origin_path(out).write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")
        shutil.move(Path(scratch, npu_compiler.BLOB), out)
    return schedule


def ir_sha256(model_xml: Path) -> str:
    """Of an IR: the .xml, then its .bin."""
    digest = hashlib.sha256(model_xml.read_bytes())
    digest.update(model_xml.with_suffix(".bin").read_bytes())
    return digest.hexdigest()


def origin_path(blob: Path) -> Path:
    """Where the origin of ``blob`` lies."""
    return blob.with_name(f"{blob.name}.json")


def _check_static(model: ov.Model, name: str) -> None:
    free = [port.get_any_name() for port in model.inputs if port.get_partial_shape().is_dynamic]
    if free:
        raise JepaExportError(
            f"{name}: an NPU takes fixed shapes only, and these inputs have a free axis: {', '.join(free)}; "
            "fix it with static_ir"
        )


def _version(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]
