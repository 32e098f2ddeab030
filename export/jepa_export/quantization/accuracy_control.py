"""Accuracy control of INT8: the layers that lose most stay in fp32.

INT8 is compared with fp32, where possible on samples that it was not calibrated on. NNCF ranks all groups of
quantized matrix products by how much accuracy each recovers in fp32, and restores them one by one until the
limits hold, at most :data:`MAX_GROUPS`. It ranks again if a restored group made the result worse. A ranking
compiles the graph once per group: three minutes for a ViT-S on a slow core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_export.targets.openvino import (
    Sample,
    quantize_transformer_int8,
    transformer_options,
    with_full_byte_range,
)
from jepa_runtime.model import cosines

MAX_GROUPS = 10
# A ranking uses the samples with the largest INT8 errors.
_RANKING_SAMPLES = 16
_PRODUCTS = ("MatMul", "Convolution", "ScaledDotProductAttention")
# Operations that move values without changing them: their readers see quantized values where they do.
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "VariadicSplit", "Slice", "StridedSlice")
_Pair = tuple[Sample, list[NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class CosineAgreement:
    """The minimum and the mean cosine between the output vectors (last axis) of INT8 and fp32."""

    worst: float
    mean: float

    def used(self, limits: CosineAgreement) -> float:
        """Return the used fraction of the distance from 1 that ``limits`` allow; above 1 violates them."""
        return max((1 - self.worst) / (1 - limits.worst), (1 - self.mean) / (1 - limits.mean))

    def __str__(self) -> str:
        return f"mean cosine {self.mean:.4f}, minimum {self.worst:.4f}"


def limits_of(mean: float) -> CosineAgreement:
    """Return limits in which the minimum cosine may be five times as far from 1 as the mean.

    Raises:
        JepaExportError: The mean is not between 0 and 1.
    """
    if not 0 < mean < 1:
        raise JepaExportError(
            f"--int8-cosine must be above 0 and below 1 (0: no limit), got {mean:g}",
            code="quantization.invalid_limit",
        )
    return CosineAgreement(worst=1 - 5 * (1 - mean), mean=mean)


DEFAULT_LIMITS = limits_of(0.99)


@dataclass(frozen=True, kw_only=True)
class QuantizationResult:
    """The result for one graph.

    Attributes:
        graph: Name of the graph.
        plain: Agreement of INT8 throughout.
        found: Agreement of the graph in the bundle.
        limits: Required agreement.
        in_fp32: Names of the matrix products and convolutions that stay in fp32.
        held_out: Whether this was measured on samples that were not calibrated on.
    """

    graph: str
    plain: CosineAgreement
    found: CosineAgreement
    limits: CosineAgreement
    in_fp32: tuple[str, ...]
    held_out: bool

    @property
    def holds(self) -> bool:
        """Whether the limits hold."""
        return self.found.used(self.limits) <= 1

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for report.json."""
        return asdict(self) | {"holds": self.holds}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> QuantizationResult:
        """Return the result that :meth:`as_dict` describes."""
        agreements = {name: CosineAgreement(**entry[name]) for name in ("plain", "found", "limits")}
        return cls(
            graph=entry["graph"],
            in_fp32=tuple(entry["in_fp32"]),
            held_out=entry["held_out"],
            **agreements,
        )

    def __str__(self) -> str:
        samples = "held-out samples" if self.held_out else "calibration samples"
        text = f"{self.graph} in INT8 on {samples}: {self.plain}"
        if self.in_fp32:
            text += f"; {self.found} with these layers in fp32: {', '.join(self.in_fp32)}"
        if self.holds:
            return text
        training = "distill with --quantization-aware, or " if self.graph == "encoder" else ""
        return f"WARNING: {text}; the limit is {self.limits}: {training}serve fp32"


class AccuracyController:
    """Quantize the graphs of a bundle under accuracy control.

    Args:
        limits: Required agreement with fp32.
        progress: Called with each result in words.
        seen: Whether no samples could be held out, so that accuracy is measured on calibration samples.

    Attributes:
        outcomes: The result for each graph.
    """

    def __init__(
        self, limits: CosineAgreement, progress: Callable[[str], None], *, seen: bool = False
    ) -> None:
        self.limits, self._progress, self._seen = limits, progress, seen
        self.outcomes: list[QuantizationResult] = []

    def quantize(
        self,
        graph: str,
        model: ov.Model,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        *,
        extremes: bool = False,
    ) -> ov.Model:
        """Quantize a transformer to INT8.

        Args:
            graph: Name of the graph, for messages.
            model: Model in fp32.
            samples: Samples to calibrate on.
            held_out: Samples on which the limits must hold.
            extremes: See :func:`~jepa_export.targets.openvino.transformer_options`.
        """
        plain = quantize_transformer_int8(model, samples, extremes=extremes)
        pairs = _pairs(model, held_out)
        before = after = _agreement(_compiled(plain), pairs)
        best = plain
        if before.used(self.limits) > 1:
            self._progress(f"{graph} in INT8: {before}; searching for layers to keep in fp32")
            best = _with_control(
                model, samples, pairs, self.limits, transformer_options(samples, extremes=extremes)
            )
            after = _agreement(_compiled(best), pairs)
        in_fp32 = tuple(sorted(_quantized(plain) - _quantized(best)))
        self._add(
            QuantizationResult(
                graph=graph,
                plain=before,
                found=after,
                limits=self.limits,
                in_fp32=in_fp32,
                held_out=not self._seen,
            )
        )
        return best

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add the results of graphs that were quantized earlier, see :meth:`QuantizationResult.as_dict`."""
        for entry in entries:
            self._add(QuantizationResult.from_dict(entry))

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the outcome depends on besides graphs and samples, as JSON values."""
        return asdict(self.limits) | {"seen": self._seen}

    def report(self) -> dict[str, Any]:
        """Return the entry for report.json."""
        return {"int8": [outcome.as_dict() for outcome in self.outcomes]} if self.outcomes else {}

    def _add(self, outcome: QuantizationResult) -> None:
        self.outcomes.append(outcome)
        self._progress(str(outcome))


@dataclass(frozen=True)
class HeldOutSamples:
    """Inputs of a graph, by name, on which ``controller`` measures the accuracy of INT8."""

    samples: Sequence[Sample]
    controller: AccuracyController

    def map(self, inputs_of: Callable[[Sample], Iterable[Sample]]) -> HeldOutSamples:
        """Return the samples of a part of the graph, whose inputs ``inputs_of`` makes from a whole sample."""
        return HeldOutSamples(
            [made for sample in self.samples for made in inputs_of(sample)], self.controller
        )


def _with_control(
    model: ov.Model,
    samples: Sequence[Sample],
    pairs: Sequence[_Pair],
    limits: CosineAgreement,
    options: dict[str, Any],
) -> ov.Model:
    import nncf

    def margin(compiled: ov.CompiledModel, some: Iterable[_Pair]) -> tuple[float, list[float]]:
        """Return the unused part of the limits, of all pairs and of each: 1 is fp32 itself, 0 the limit."""
        some = list(some)
        each = [1 - _agreement(compiled, [pair]).used(limits) for pair in some]
        return 1 - _agreement(compiled, some).used(limits), each

    restorer = nncf.AdvancedAccuracyRestorerParameters(
        max_num_iterations=MAX_GROUPS, ranking_subset_size=_RANKING_SAMPLES, num_ranking_workers=1
    )
    options["advanced_quantization_parameters"] = options.pop("advanced_parameters")
    # In a thread of its own: NNCF leaves the calling thread with a signal stack (sigaltstack) that no longer
    # exists, and the next Ctrl-C would be a segmentation fault.
    with ThreadPoolExecutor(1) as pool:
        controlled: ov.Model = pool.submit(
            nncf.quantize_with_accuracy_control,
            model,
            nncf.Dataset(samples),
            nncf.Dataset(pairs),
            margin,
            max_drop=1.0,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_accuracy_restorer_parameters=restorer,
            **options,
        ).result()
    return with_full_byte_range(controlled)


def _pairs(model: ov.Model, samples: Sequence[Sample]) -> list[_Pair]:
    """Return samples with their outputs in fp32."""
    compiled = _compiled(model)
    return [(sample, [output.copy() for output in compiled(sample).values()]) for sample in samples]


def _compiled(model: ov.Model) -> ov.CompiledModel:
    """Compile as the runtime does (:mod:`jepa_runtime.backends.openvino.backend`)."""
    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return ov.compile_model(model, "CPU", properties)


def _agreement(compiled: ov.CompiledModel, pairs: Iterable[_Pair]) -> CosineAgreement:
    found = np.concatenate(
        [
            cosines(_vectors(computed), _vectors(expected))
            for sample, outputs in pairs
            for computed, expected in zip(compiled(sample).values(), outputs, strict=True)
        ]
    )
    return CosineAgreement(worst=float(found.min()), mean=float(found.mean()))


def _vectors(output: NDArray[np.float32]) -> NDArray[np.float64]:
    return output.reshape(-1, output.shape[-1]).astype(np.float64)


def _quantized(model: ov.Model) -> set[str]:
    """Return the names of the matrix products and convolutions that compute in INT8."""
    products = [operation for operation in model.get_ops() if operation.get_type_name() in _PRODUCTS]
    return {product.get_friendly_name() for product in products if _source(product) == "FakeQuantize"}


def _source(product: ov.Node) -> str:
    """Return the type of the operation that computes the first input of ``product``."""
    node = product.input_value(0).get_node()
    while node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    return str(node.get_type_name())
