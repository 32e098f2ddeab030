"""The names that the backend uses exist in each supported version of TensorRT, and in TensorRT for RTX.

``tensorrt_api/`` lists the names in NVIDIA's bindings of these versions (see record.py there).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_runtime.backends import tensorrt
from tests.runtime.backends.tensorrt_api.record import members

_RECORDED = Path(__file__).parent / "tensorrt_api"
_SOURCES = Path(tensorrt.__file__).parent
_CALLED = {"create_engine_inspector": "EngineInspector", "get_error": "ParserError"}
# The variables in the sources, and names that the module has from Python, not from the library.
_NAMES = {
    "builder.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "cache": "ITimingCache",
        "measured": "ITimingCache",
        "engine": "ICudaEngine",
        "port": "ITensor",
    },
    "backend.py": {"engine": "ICudaEngine", "_context": "IExecutionContext", "_runtime": "Runtime"},
}
_PYTHON = {"__name__", "__version__", "nptype"}
_FOR_RTX_ALONE = {"num_compute_capabilities", "set_compute_capability"}


def uses(source: str) -> Iterator[tuple[str, str | None]]:
    """Return the classes and members that a source file uses."""
    names = _NAMES[source]
    for node in ast.walk(ast.parse((_SOURCES / source).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        match node.value:
            case ast.Name(id="trt") | ast.Attribute(attr="_trt"):
                yield node.attr, None
            case ast.Attribute(value=ast.Name(id="trt") | ast.Attribute(attr="_trt"), attr=kind):
                yield kind, node.attr
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in names:
                yield names[name], node.attr
            case ast.Call(func=ast.Attribute(attr=called)) if called in _CALLED:
                yield _CALLED[called], node.attr


def missing(offered: dict[str, list[str]]) -> set[tuple[str, str | None]]:
    requests = {use for source in _NAMES for use in uses(source) if use[0] not in _PYTHON}
    assert len(requests) > 40
    return {
        (kind, member)
        for kind, member in requests
        if kind not in offered or (member is not None and member not in offered[kind])
    }


@pytest.mark.parametrize("recorded", sorted(_RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_tensorrt_has_every_function_in_use(recorded: Path) -> None:
    assert {member for _, member in missing(json.loads(recorded.read_text()))} == _FOR_RTX_ALONE


def test_api_recordings_show_removals_in_tensorrt_11() -> None:
    flags = {path.stem: json.loads(path.read_text())["BuilderFlag"] for path in _RECORDED.glob("*.json")}
    assert {version for version, names in flags.items() if "FP16" in names} == {
        "10.3.0",
        "10.13.0.35",
        "10.16.1.11",
    }
    offered = json.loads((_RECORDED / "11.4.0.106.json").read_text())
    offered["IExecutionContext"].remove("execute_async_v3")
    assert ("IExecutionContext", "execute_async_v3") in missing(offered)


def test_tensorrt_for_rtx_has_every_function_in_use() -> None:
    pytest.importorskip(
        "tensorrt_rtx_libs", reason="TensorRT for RTX is not installed (extra tensorrt-check)"
    )
    assert missing(members(pytest.importorskip("tensorrt_rtx_bindings"))) == set()
