"""Check graphs with NVIDIA's ONNX parser and engine builder, on a machine without a GPU.

The engine is built as on a robot (:mod:`jepa_runtime.backends.tensorrt.builder`). TensorRT for RTX (extra
``tensorrt-check``) builds for a compute capability, and its networks are strongly typed like those of
TensorRT 11. It shows that a graph parses and builds; it tells nothing about speed, and a Jetson builds its
own engine with its own TensorRT.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from jepa_export.errors import JepaExportError
from jepa_export.targets.confined_process import ProcessLimits, run_confined
from jepa_runtime.backends import Graph
from jepa_runtime.backends.tensorrt import builder
from jepa_runtime.errors import BackendError

NEEDED = ("tensorrt_rtx_libs", "tensorrt_rtx_bindings")
_REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The result of checking one graph.

    Attributes:
        version: Version of TensorRT for RTX.
        layers: Number of layers after parsing; 0 where no engine was built.
        engine_bytes: Size for compute capability 8.6; 0 where no engine was built.
        problems: Errors of parser and builder; empty if an engine was built.
    """

    version: str
    layers: int
    engine_bytes: int
    problems: tuple[str, ...]

    @property
    def built(self) -> bool:
        """Whether an engine was built."""
        return self.engine_bytes > 0


def missing() -> str | None:
    """Return what is not installed and how to install it; None if graphs can be checked."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed: pip install 'jepa-edge[tensorrt-check]'" if absent else None


def check(path: Path, *, count: int = 64, limits: ProcessLimits | None = None) -> CheckReport:
    """Parse an ONNX file and build an engine from it, in a separate process.

    Args:
        path: ONNX file.
        count: Length of free axes (candidates).
        limits: Limits of the process.

    Raises:
        JepaExportError: TensorRT is not installed, crashed or exceeded a limit.
    """
    if reason := missing():
        raise JepaExportError(f"TensorRT cannot check {path}: {reason}", code="target.tensorrt_missing")
    with tempfile.TemporaryDirectory() as scratch:
        status, output = run_confined(
            [sys.executable, "-m", __name__, str(path.resolve()), str(count)],
            folder=Path(scratch),
            limits=limits or ProcessLimits(),
            what=f"{path}: TensorRT",
        )
        try:
            found = json.loads(Path(scratch, _REPORT).read_text(encoding="utf-8"))
        except OSError as error:
            raise JepaExportError(
                f"{path}: TensorRT ended with status {status}: {output.strip()}",
                code="target.tensorrt_failed",
            ) from error
    return CheckReport(**found | {"problems": tuple(found["problems"])})


def _check_here(path: str, count: int) -> CheckReport:
    # The first loads the shared libraries that the second needs.
    _, trt = map(importlib.import_module, NEEDED)
    graph = Graph(Path(path).name, Path(path).read_bytes())
    shapes = {
        port.name: tuple(size.dim_value or count for size in port.type.tensor_type.shape.dim)
        for port in onnx.load_model_from_string(graph.model).graph.input
    }
    try:
        built = builder.build(
            trt,
            builder.listener(trt),
            graph,
            shapes,
            progress=lambda *_: True,
            capability=trt.ComputeCapability.SM86,
        )
    except BackendError as error:
        return CheckReport(version=trt.__version__, layers=0, engine_bytes=0, problems=(str(error),))
    return CheckReport(
        version=trt.__version__,
        layers=built.layers,
        engine_bytes=len(built.engine),
        problems=(),
    )


if __name__ == "__main__":
    Path(_REPORT).write_text(json.dumps(asdict(_check_here(sys.argv[1], int(sys.argv[2])))), encoding="utf-8")
