"""Networks of other projects from ONNX files.

A file is checked before anything is computed: its inputs and outputs, types, operations and opset.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx
import onnx.defs
import onnx.inliner
import onnx.version_converter
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from jepa_export.bundling.bundle_networks import PredictorInputs
from jepa_export.bundling.network_checks import first_line
from jepa_export.data.file_hash import file_hash
from jepa_export.errors import JepaExportError
from jepa_export.targets.onnx import MAX_BYTES, OPSET
from jepa_export.targets.onnx_network import OnnxNetwork, sizes_of

_Inputs = dict[str, tuple[str, ...]]
# The axes of the inputs of each network. Those whose first axis is 1 are the same for every row.
_INPUTS: dict[str, _Inputs] = {
    "encoder": {"images": ("N", "3", "height", "width")},
    "energy": {"latents": ("N", "T", "D"), "goal": ("1", "T", "D")},
}
_PREDICTOR_INPUTS: dict[PredictorInputs, _Inputs] = {
    "one_step": {"latents": ("K", "W", "T", "D"), "actions": ("K", "W", "A")},
    "action_free": {"latents": ("K", "W", "T", "D")},
    "action_prefixes": {
        "latents": ("1", "W", "T", "D"),
        "actions": ("K", "H", "A"),
        "history_actions": ("1", "W-1", "A"),
    },
}
_STANDARD = ("", "ai.onnx")
_RENEW = "export it again with torch.onnx.export"


def load_network(role: str, path: Path, *, predictor: PredictorInputs = "one_step") -> OnnxNetwork:
    """Load a network of a bundle from an ONNX file.

    Inputs are identified by the number of their axes, then by their order; their names are free. A fixed
    first axis is made free, except in an encoder of one image, which encodes images one by one.

    Args:
        role: ``encoder``, ``predictor`` or ``energy``.
        path: The file; weights may be in files next to it.
        predictor: What a predictor reads. One of action prefixes has no ``history_actions`` if W is 1.

    Raises:
        JepaExportError: The file is missing or no valid ONNX file, or a bundle cannot contain its graph.
    """
    name = f"{role} {path}"
    model = _checked_graph(name, role, path, predictor)
    shared = [axes[0] == "1" for axes in _expected_inputs(role, predictor, len(model.graph.input)).values()]
    rows_of = shared.index(False)
    batch = sizes_of(model.graph.input[rows_of])[0]
    row_by_row = role == "encoder" and batch == 1
    if batch is not None and not row_by_row:
        _free_batch(model, shared)
    try:
        return OnnxNetwork(
            name,
            role,
            model,
            _converted(name, model),
            rows_of=rows_of,
            row_by_row=row_by_row,
            fixed_batch=None if row_by_row else batch,
        )
    except JepaExportError:
        raise
    # ONNX Runtime's exceptions have no common base class.
    except Exception as error:
        raise JepaExportError(
            f"{name}: ONNX Runtime cannot open it: {first_line(error)}: {_RENEW}",
            code="network.onnx_not_runnable",
        ) from error


def input_shape(role: str, path: Path, *, predictor: PredictorInputs = "one_step") -> list[int | None]:
    """Return the shape of the first input of a network, see :func:`load_network`; None for a free axis."""
    return sizes_of(_checked_graph(f"{role} {path}", role, path, predictor).graph.input[0])


def file_facts(path: Path) -> dict[str, Any]:
    """Return what the report of a bundle states about the ONNX file of a network: its hashes and origin."""
    model = onnx.load(path, load_external_data=False)
    locations = {
        ExternalDataInfo(tensor).location for tensor in model.graph.initializer if uses_external_data(tensor)
    }
    return {
        "file": path.name,
        "sha256": file_hash(path),
        "external_data": {name: file_hash(path.parent / name) for name in sorted(locations)},
        "opset": _opset(model),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
    }


def _expected_inputs(role: str, predictor: PredictorInputs, count: int) -> _Inputs:
    """Return the inputs that a network must have, given the number of those that it has."""
    expected = _PREDICTOR_INPUTS[predictor] if role == "predictor" else _INPUTS[role]
    without_history = count == 2
    return {
        name: axes for name, axes in expected.items() if not (without_history and name == "history_actions")
    }


def _checked_graph(name: str, role: str, path: Path, predictor: PredictorInputs) -> onnx.ModelProto:
    """Return the graph of a file, with its inputs in the order of :func:`_expected_inputs`."""
    model = _read(name, path)
    _check_operations(name, model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    # The order of inputs with the same number of axes is retained.
    inputs.sort(key=lambda value: -len(value.type.tensor_type.shape.dim))
    _check_inputs(name, _expected_inputs(role, predictor, len(inputs)), inputs)
    _check_output(name, model)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def _read(name: str, path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        size = sum(tensor.ByteSize() for tensor in model.graph.initializer)
        if size < MAX_BYTES:
            onnx.checker.check_model(model)
            model = onnx.inliner.inline_local_functions(model)
    except OSError as error:
        raise JepaExportError(
            f"{name}: cannot be read: {error.strerror or error}: pass the path of an ONNX file",
            code="network.onnx_unreadable",
        ) from error
    # onnx and protobuf raise errors of many classes.
    except Exception as error:
        raise JepaExportError(
            f"{name}: is not a valid ONNX file: {first_line(error)}: {_RENEW}", code="network.onnx_invalid"
        ) from error
    if size >= MAX_BYTES:
        raise JepaExportError(
            f"{name}: has {size / 1e9:.1f} GB of weights, and an ONNX file, the only place for weights in a "
            "bundle, has at most 2.1 GB: use a smaller network",
            code="network.onnx_too_large",
        )
    return model


def _check_operations(name: str, model: onnx.ModelProto) -> None:
    unknown = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _STANDARD}
    )
    if unknown:
        raise JepaExportError(
            f"{name}: has operations outside the ONNX standard, which only some engines run: "
            f"{', '.join(unknown)}: {_RENEW}, without optimizing it for ONNX Runtime",
            code="network.onnx_custom_operation",
        )


def _check_inputs(name: str, expected: _Inputs, found: Sequence[onnx.ValueInfoProto]) -> None:
    if any(not _fits(value, axes) for value, axes in zip_longest(found, expected.values(), fillvalue=None)):
        wanted = " and ".join(f"{key} [{', '.join(axes)}]" for key, axes in expected.items())
        hint = (
            "; for a predictor without actions, pass actions=None (--action-free); for one that returns all "
            "steps, action_prefixes=True (--action-prefixes)"
        )
        raise JepaExportError(
            f"{name}: must have the inputs {wanted} under any names, has {_shown(found)}: wrap the network "
            f"in a module with these inputs, and export that{hint if 'actions' in expected else ''}",
            code="network.onnx_wrong_inputs",
        )
    _check_type(name, found)


def _check_output(name: str, model: onnx.ModelProto) -> None:
    found = model.graph.output
    if len(found) != 1:
        raise JepaExportError(
            f"{name}: must have one output, has {_shown(found)}: select it with onnx.utils.extract_model",
            code="network.onnx_wrong_outputs",
        )
    _check_type(name, found)


def _check_type(name: str, found: Sequence[onnx.ValueInfoProto]) -> None:
    for value in found:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise JepaExportError(
                f"{name}: inputs and outputs must be float32, {_shown([value])} is not: cast inside the "
                f"network, and {_RENEW}",
                code="network.onnx_wrong_type",
            )


def _fits(value: onnx.ValueInfoProto | None, axes: tuple[str, ...] | None) -> bool:
    """Return whether a tensor has these axes; a number is the size of an axis that is not free."""
    if value is None or axes is None:
        return False
    sizes = sizes_of(value)
    return len(sizes) == len(axes) and all(
        not axis.isdigit() or size in (None, int(axis)) for size, axis in zip(sizes, axes, strict=True)
    )


def _free_batch(model: onnx.ModelProto, shared: Sequence[bool]) -> None:
    """Make the first axes of all inputs and of the output free, except for inputs that all rows share."""
    del model.graph.value_info[:]
    inputs = [value for value, same in zip(model.graph.input, shared, strict=True) if not same]
    for value in (*inputs, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes:
            axes[0].dim_param = "rows"


def _converted(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in the opset that bundles have."""
    found = _opset(model)
    if found == OPSET:
        return model
    newer = [("", kind) for kind in {node.op_type for node in model.graph.node} if _is_newer(kind)]
    try:
        # The standard defines most newer operations, such as Gelu, by functions of older ones. They use
        # CastLike, which TensorRT does not have, and which is a function as well.
        for names in (newer, [("", "CastLike")]):
            model = onnx.inliner.inline_selected_functions(model, names, inline_schema_functions=True)
        return onnx.version_converter.convert_version(model, OPSET)
    # The converter raises errors of many classes.
    except Exception as error:
        raise JepaExportError(
            f"{name}: has opset {found} and cannot be converted to opset {OPSET}: {first_line(error)}: "
            f"{_RENEW} and opset_version={OPSET}",
            code="network.onnx_opset",
        ) from error


def _is_newer(kind: str) -> bool:
    """Return whether an operation does not exist in the opset of bundles."""
    try:
        onnx.defs.get_schema(kind, OPSET, "")
    except onnx.defs.SchemaError:
        return True
    return False


def _opset(model: onnx.ModelProto) -> int:
    return max((each.version for each in model.opset_import if each.domain in _STANDARD), default=1)


def _shown(values: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(_description(value) for value in values) or "none"


def _description(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    axes = (str(axis.dim_value) if axis.HasField("dim_value") else axis.dim_param or "?"
            for axis in tensor.shape.dim)  # fmt: skip
    return f"{value.name} {TensorProto.DataType.Name(tensor.elem_type).lower()} [{', '.join(axes)}]"
