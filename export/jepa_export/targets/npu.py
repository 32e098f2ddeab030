"""Intel NPUs: graphs with fixed shapes, and blobs compiled ahead of time with an estimate of their speed.

Next to each blob is a file with its origin, which the robot compares before it imports the blob
(:class:`~jepa_runtime.backends.openvino.npu.Origin`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops

from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler
from jepa_export.targets.confined_process import ProcessLimits
from jepa_runtime.backends import Graph
from jepa_runtime.backends.openvino import Origin
from jepa_runtime.bundle import blob_metadata_path
from jepa_runtime.errors import BackendError

PLATFORMS = {"3720": "Meteor Lake", "4000": "Lunar Lake", "5010": "Panther Lake"}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Duration of one inference, as the compiler's cost model estimates it.

    It is not a measurement: the driver, copies of inputs and outputs, and other load are left out. It serves
    to compare graphs.

    Attributes:
        total_ms: Time from start to end.
        dma_ms: Data transfers; these and the next two overlap.
        dpu_ms: Matrix products.
        shave_ms: Everything else (softmax, GELU, normalization).
        exposed_dma_ms: Data transfers while nothing is computed.
    """

    total_ms: float
    dma_ms: float
    dpu_ms: float
    shave_ms: float
    exposed_dma_ms: float

    @classmethod
    def parse(cls, trace: str) -> Schedule:
        """Parse the compiler's compileTimeScheduleTrace.json.

        Raises:
            JepaExportError: It is not such a trace.
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
                f"the NPU compiler's schedule trace has an unexpected format: {error!r}",
                code="target.npu_trace_invalid",
            ) from error
        return cls(total_ms=total, dma_ms=dma, dpu_ms=dpu, shave_ms=shave, exposed_dma_ms=exposed)


def static_ir(model: ov.Model, shapes: Mapping[str, Sequence[int]]) -> ov.Model:
    """Return a copy of ``model`` with every shape fixed, as NPUs require.

    Args:
        model: Model with or without free axes.
        shapes: Shapes of the inputs that have a free axis.

    Raises:
        JepaExportError: An input does not exist or does not accept the shape, or a shape is still free.
    """
    fixed = model.clone()
    try:
        fixed.reshape({name: list(shape) for name, shape in shapes.items()})
    except RuntimeError as error:
        raise JepaExportError(
            f"the graph does not accept the shapes {dict(shapes)}: {error}", code="target.shape_rejected"
        ) from error
    _check_static(fixed, model.get_friendly_name())
    return fixed


def first_step(predictor: ov.Model) -> ov.Model:
    """Return the graph ``step`` of a predictor: one candidate, one step.

    It has the weights of ``predictor``, in their precision. The predictor runs for one candidate whose later
    actions are zero, and only the first predicted step is returned: it costs H steps of one candidate.

    Args:
        predictor: actions [K, H, A] -> futures [K, H, T, D]. The first step must depend on the first action
            only.

    Raises:
        JepaExportError: The predictor does not accept a single candidate.
    """
    model = predictor.clone()
    horizon, size = (model.input("actions").partial_shape[axis].get_length() for axis in (1, 2))
    try:
        model.reshape({"actions": [1, horizon, size]})
    except RuntimeError as error:
        raise JepaExportError(
            f"the predictor does not accept a single candidate: {error}", code="target.shape_rejected"
        ) from error
    actions, futures = model.input("actions"), model.output("futures").get_node().input_value(0)
    all_actions = actions.get_node()
    one = ops.parameter([1, 1, size], np.float32, name="actions")
    zeros = ops.constant(np.zeros((1, horizon - 1, size), np.float32))
    padded = ops.concat([one, zeros], 1)
    for reader in actions.get_target_inputs():
        reader.replace_source_output(padded.output(0))
    futures.get_tensor().set_names(set())
    first = ops.slice(futures, [0], [1], [1], [1])
    for output, name in ((one.output(0), "actions"), (first.output(0), "futures")):
        output.get_tensor().set_names({name})
    others = [each for each in model.get_parameters() if each.get_name() != all_actions.get_name()]
    return ov.Model([ops.result(first)], [one, *others], "step")


def compile_blob(model_xml: Path, out: Path, platform: str) -> Schedule:
    """Compile a static IR for an NPU, without an NPU; write the blob, and its origin next to it.

    Args:
        model_xml: The IR; its .bin is next to it.
        out: Path of the blob.
        platform: One of :data:`PLATFORMS`.

    Raises:
        JepaExportError: The platform is unknown, the compiler is not installed, the IR has a free axis or is
            rejected by the compiler, or a limit was exceeded; nothing was written.
    """
    if platform not in PLATFORMS:
        known = ", ".join(f"{number} ({name})" for number, name in PLATFORMS.items())
        raise JepaExportError(
            f"unknown NPU platform {platform!r}: choose one of {known}", code="target.unknown_npu_platform"
        )
    compiler = npu_compiler.find()
    try:
        _check_static(ov.Core().read_model(model_xml), str(model_xml))
    except RuntimeError as error:
        raise JepaExportError(
            f"{model_xml}: OpenVINO cannot read it: {error}", code="target.ir_unreadable"
        ) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        requirements = compiler.compile(model_xml, platform, Path(scratch), ProcessLimits())
        try:
            origin = Origin.parse(requirements, Graph.read(model_xml).sha256)
        except BackendError as error:
            raise JepaExportError(str(error), code=error.code) from error
        schedule = Schedule.parse(Path(scratch, npu_compiler.TRACE).read_text(encoding="utf-8"))
        Path(blob_metadata_path(str(out))).write_text(
            json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8"
        )
        shutil.move(Path(scratch, npu_compiler.BLOB), out)
    return schedule


def _check_static(model: ov.Model, name: str) -> None:
    free = [port.get_any_name() for port in model.inputs if port.get_partial_shape().is_dynamic]
    if free:
        raise JepaExportError(
            f"{name}: NPUs require fixed shapes, and these inputs have a free axis: {', '.join(free)}: fix "
            "them with static_ir",
            code="target.free_axis",
        )
