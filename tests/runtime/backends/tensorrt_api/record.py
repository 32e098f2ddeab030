"""Record the Python interface of a version of TensorRT.

    python record.py tensorrt.so > 10.3.0.json

The library is that of NVIDIA's wheels (tensorrt-cu12-bindings on PyPI). It needs libnvinfer,
libnvinfer_plugin and libnvonnxparser to be loaded; empty libraries of these names suffice: nothing is called.
"""

from __future__ import annotations

import importlib.util
import json
import sys

CLASSES = (
    "Builder", "BuilderFlag", "DataType", "EngineInspector", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProfiler",
    "IProgressMonitor", "ITensor", "ITimingCache", "LayerInformationFormat", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "ProfilingVerbosity", "Runtime",
    "TensorIOMode",
)  # fmt: skip


def members(module: object) -> dict[str, list[str]]:
    """Return the names of each class, its own and inherited ones."""
    return {
        name: sorted(
            member
            for member in dir(getattr(module, name))
            if member == "__init__" or not member.startswith("_")
        )
        for name in CLASSES
    }


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(json.dumps(members(module), indent=0))
