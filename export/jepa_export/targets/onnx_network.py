"""ONNX graphs as torch modules, which :func:`jepa_export.targets.onnx.export_onnx` writes into its graphs.

As a module, a graph runs in ONNX Runtime. The tracing exporter records each call as one operation of the
domain ``jepa_edge``, which :func:`insert_networks` replaces by the operations of the graph. Calls share the
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import torch
from onnx import helper
from torch import Tensor, nn

from jepa_export.errors import JepaExportError

DOMAIN = "jepa_edge"


class OnnxNetwork(nn.Module):
    """One ONNX graph with one output.

    Args:
        name: Name for messages, with the file.
        role: Name of the operation, unique among the networks of a module.
        original: The graph to run; its inputs are in the order of the arguments of a call.
        converted: The same graph in the opset of :func:`~jepa_export.targets.onnx.export_onnx`.
        rows_of: Index of the input whose first axis is that of the output.
        row_by_row: Whether the graph computes one row of its inputs at a time.
        fixed_batch: Number of rows for which the graph was exported, if its first axis was fixed.
    """

    def __init__(
        self,
        name: str,
        role: str,
        original: onnx.ModelProto,
        converted: onnx.ModelProto,
        *,
        rows_of: int = 0,
        row_by_row: bool = False,
        fixed_batch: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.role, self.converted, self.rows_of = name, role, converted, rows_of
        self._row_by_row, self._fixed_batch = row_by_row, fixed_batch
        self._inputs = {value.name: sizes_of(value) for value in original.graph.input}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            original.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        # Of the most recent output, without the first axis: the exporter asks after it has traced a call.
        self.output_sizes: tuple[int, ...] = ()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Run the graph.

        Raises:
            JepaExportError: An input does not have the shape of the graph.
        """
        computed: Tensor = _Call.apply(self, *inputs)  # type: ignore[no-untyped-call]
        return computed

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the output for float32 ``inputs``."""
        self._check_shapes(inputs)
        calls = zip(*(tensor.split(1) for tensor in inputs), strict=True) if self._row_by_row else [inputs]
        computed = [self._run_session(call) for call in calls]
        output = torch.from_numpy(np.concatenate(computed))
        self.output_sizes = tuple(output.shape[1:])
        return output

    def _run_session(self, inputs: tuple[Tensor, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        feeds = {name: tensor.contiguous().numpy() for name, tensor in zip(self._inputs, inputs, strict=True)}
        rows = len(inputs[self.rows_of])
        try:
            (output,) = self._session.run(None, feeds)
        # ONNX Runtime's exceptions have no common base class.
        except Exception as error:
            if self._fixed_batch in (None, rows):
                raise
            raise self._fixed_batch_error(rows) from error
        if self._fixed_batch not in (None, rows) and len(output) != rows:
            raise self._fixed_batch_error(rows)
        found: np.ndarray[Any, np.dtype[np.float32]] = output
        return found

    def _check_shapes(self, inputs: tuple[Tensor, ...]) -> None:
        for (name, sizes), tensor in zip(self._inputs.items(), inputs, strict=True):
            found = list(tensor.shape)
            if self._row_by_row:
                found[0] = 1
            if len(found) != len(sizes) or any(
                size not in (None, given) for size, given in zip(sizes, found, strict=True)
            ):
                declared = ["any" if size is None else size for size in sizes]
                raise JepaExportError(
                    f"{self.name}: the input {name} has the shape {declared}, the bundle needs {found}: "
                    "change frame_size, history or actions, or export the network again",
                    code="network.onnx_shape_mismatch",
                )

    def _fixed_batch_error(self, rows: int) -> JepaExportError:
        return JepaExportError(
            f"{self.name}: was exported for a batch of {self._fixed_batch} and cannot compute {rows} rows: "
            "export it again with a free first axis, for example with dynamic_axes of torch.onnx.export",
            code="network.onnx_fixed_batch",
        )


class _Call(torch.autograd.Function):
    """One call of a network, for the exporter one operation."""

    @staticmethod
    def forward(ctx: Any, network: OnnxNetwork, *inputs: Tensor) -> Tensor:
        return network.run(*inputs)

    @staticmethod
    def symbolic(graph: Any, network: OnnxNetwork, *inputs: Any) -> Any:
        output = graph.op(f"{DOMAIN}::{network.role}", *inputs)
        rows = (inputs[network.rows_of].type().varyingSizes() or [None])[0]
        output.setType(inputs[0].type().with_sizes([rows, *network.output_sizes]))
        return output


def networks_of(module: nn.Module) -> dict[str, OnnxNetwork]:
    """Return the ONNX graphs that a module calls, by role."""
    return {each.role: each for each in module.modules() if isinstance(each, OnnxNetwork)}


def insert_networks(model: onnx.ModelProto, networks: Mapping[str, OnnxNetwork]) -> onnx.ModelProto:
    """Replace each call of a network in an exported graph by the operations of the network.

    Args:
        model: The graph, with operations of the domain :data:`DOMAIN`; it is changed.
        networks: The networks by role.
    """
    for role, network in networks.items():
        graph = network.converted.graph
        shared = {tensor.name: f"{role}.{tensor.name}" for tensor in graph.initializer}
        function = helper.make_function(
            DOMAIN,
            role,
            [*(value.name for value in graph.input), *shared],
            [value.name for value in graph.output],
            graph.node,
            [each for each in model.opset_import if each.domain != DOMAIN],
        )
        model.functions.append(function)
        for tensor in graph.initializer:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = shared[tensor.name]
        for node in model.graph.node:
            if (node.domain, node.op_type) == (DOMAIN, role):
                node.input.extend(shared.values())
    inlined = onnx.inliner.inline_local_functions(model)
    # Converters address operations by name, which must be unique; the inliner copies it.
    for node in inlined.graph.node:
        node.name = f"{next(filter(None, node.output))}/{node.op_type}"
    used = [opset for opset in inlined.opset_import if opset.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(used)
    return inlined


def sizes_of(value: onnx.ValueInfoProto) -> list[int | None]:
    """Return the shape of a tensor; None for a free axis."""
    return [
        axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
    ]
