"""Intel NPUs: blobs compiled ahead of time, and what the compiler expects of their speed.

Beside each blob lies what it came from, which the robot compares before it imports one
(:class:`~jepa_runtime.backends.openvino.npu.Origin`)."""

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
from jepa_export.targets.confined_process import Limits
from jepa_runtime.backends import Graph
from jepa_runtime.backends.openvino.npu import Origin
from jepa_runtime.bundle.manifest import blob_metadata_path
from jepa_runtime.errors import BackendError

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


def first_step(predictor: ov.Model) -> ov.Model:
    """The graph ``step`` of a predictor: one candidate, one step.

    Its weights are those of ``predictor``, whatever their precision. The predictor runs for one candidate
    whose later actions are zero, and only the first future is returned: it costs H steps of one candidate.

    Args:
        predictor: actions [K, H, A] -> futures [K, H, T, D]. The first future must depend on the first action
            only.

    Raises:
        JepaExportError: it does not take a single candidate.
    """
    model = predictor.clone()
    horizon, size = (model.input("actions").partial_shape[axis].get_length() for axis in (1, 2))
    try:
        model.reshape({"actions": [1, horizon, size]})
    except RuntimeError as error:
        raise JepaExportError(f"the predictor does not take a single candidate: {error}") from error
    actions, futures = model.input("actions"), model.output("futures").get_node().input_value(0)
    whole = actions.get_node()
    one = ops.parameter([1, 1, size], np.float32, name="actions")
    rest = ops.constant(np.zeros((1, horizon - 1, size), np.float32))
    padded = ops.concat([one, rest], 1)
    for reader in actions.get_target_inputs():
        reader.replace_source_output(padded.output(0))
    futures.get_tensor().set_names(set())
    first = ops.slice(futures, [0], [1], [1], [1])
    for output, name in ((one.output(0), "actions"), (first.output(0), "futures")):
        output.get_tensor().set_names({name})
    others = [each for each in model.get_parameters() if each.get_name() != whole.get_name()]
    return ov.Model([ops.result(first)], [one, *others], "step")


def compile_blob(model_xml: Path, out: Path, platform: str) -> Schedule:
    """Compile a static IR for an NPU; no NPU is needed. Writes ``out``, and its origin beside it.

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
        requirements = compiler.compile(model_xml, platform, Path(scratch), Limits())
        try:
            origin = Origin.parse(requirements, Graph.read(model_xml).sha256)
        except BackendError as error:
            raise JepaExportError(str(error)) from error
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
            f"{name}: an NPU takes fixed shapes only, and these inputs have a free axis: {', '.join(free)}; "
            "fix it with static_ir"
        )
