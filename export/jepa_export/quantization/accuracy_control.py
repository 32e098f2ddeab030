"""INT8 that is held to fp32, on inputs it was not calibrated on where there are any: the layers that hurt
most stay in fp32.

NNCF finds them. It ranks all groups of quantized products by what is gained where one alone is in fp32, then
puts back the first of them for good, one after the other, until the limits hold, at most :data:`MOST_GROUPS`.
It ranks again where putting one back made things worse. A ranking compiles the graph once a group: three
minutes for a ViT-S on a slow core."""

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
    with_whole_bytes,
)
from jepa_runtime.model.parity import cosines

MOST_GROUPS = 10
# Rankings look at those on which INT8 is furthest off.
_RANKED_ON = 16
_PRODUCTS = ("MatMul", "ScaledDotProductAttention")
# These move numbers and leave them as they are: what comes after reads quantized ones as much as they do.
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "VariadicSplit", "Slice", "StridedSlice")
_Pair = tuple[Sample, list[NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """Cosines of the vectors (last axis) of all outputs in INT8 with those in fp32: the least, and their
    mean."""

    worst: float
    mean: float

    def used(self, limits: Closeness) -> float:
        """The share of the distance from 1 that ``limits`` allow; above 1 they do not hold."""
        return max((1 - self.worst) / (1 - limits.worst), (1 - self.mean) / (1 - limits.mean))

    def __str__(self) -> str:
        return f"cosine {self.mean:.4f}, at worst {self.worst:.4f}"


def limits_of(mean: float) -> Closeness:
    """Limits that let the worst be five times as far from 1 as the mean.

    Raises:
        JepaExportError: they would allow everything or nothing.
    """
    if not 0 < mean < 1:
        raise JepaExportError(f"--int8-cosine must be above 0 and below 1 (0: no limit), got {mean:g}")
    return Closeness(worst=1 - 5 * (1 - mean), mean=mean)


DEFAULT_LIMITS = limits_of(0.99)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one graph: ``plain`` is INT8 throughout, ``found`` what the bundle has, with the
    products ``in_fp32`` (by their names in the graph). ``held_out``: it was not calibrated on the frames that
    this is about."""

    graph: str
    plain: Closeness
    found: Closeness
    limits: Closeness
    in_fp32: tuple[str, ...]
    held_out: bool

    @property
    def holds(self) -> bool:
        return self.found.used(self.limits) <= 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}

    def __str__(self) -> str:
        where = "what was held out" if self.held_out else "frames that it was calibrated on"
        said = f"{self.graph} in INT8 on {where}: {self.plain}"
        if self.in_fp32:
            said += f"; {self.found} with these in fp32: {', '.join(self.in_fp32)}"
        if self.holds:
            return said
        training = "distil with --quantization-aware, or " if self.graph == "encoder" else ""
        return f"WARNING: {said}; the limit is {self.limits}: {training}serve fp32"


class Control:
    """Quantizes the graphs of a bundle, and keeps what became of each in ``outcomes``.

    Args:
        progress: told the same in words.
        seen: nothing could be held out, so graphs are held to the limits on frames that they are calibrated
            on; what is told says so.
    """

    def __init__(self, limits: Closeness, progress: Callable[[str], None], *, seen: bool = False) -> None:
        self.limits, self._progress, self._seen = limits, progress, seen
        self.outcomes: list[Outcome] = []

    def quantize(
        self,
        graph: str,
        model: ov.Model,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        *,
        extremes: bool = False,
    ) -> ov.Model:
        """The transformer ``model`` in INT8, calibrated on ``samples`` and held to the limits on
        ``held_out``. (``graph``: what it is called; ``extremes``: see
        :func:`~jepa_export.targets.openvino.transformer_options`.)"""
        plain = quantize_transformer_int8(model, samples, extremes=extremes)
        pairs = _pairs(model, held_out)
        before = after = _closeness(_compiled(plain), pairs)
        best = plain
        if before.used(self.limits) > 1:
            self._progress(f"{graph} in INT8: {before}; looking for what must stay in fp32")
            best = _with_control(
                model, samples, pairs, self.limits, transformer_options(samples, extremes=extremes)
            )
            after = _closeness(_compiled(best), pairs)
        in_fp32 = tuple(sorted(_quantized(plain) - _quantized(best)))
        outcome = Outcome(
            graph=graph,
            plain=before,
            found=after,
            limits=self.limits,
            in_fp32=in_fp32,
            held_out=not self._seen,
        )
        self.outcomes.append(outcome)
        self._progress(str(outcome))
        return best

    def report(self) -> dict[str, Any]:
        """What report.json says of it."""
        return {"int8": [outcome.as_dict() for outcome in self.outcomes]} if self.outcomes else {}


@dataclass(frozen=True)
class Held:
    """Inputs of a graph, by name, that it is not calibrated on: there ``control`` holds INT8 to fp32."""

    samples: Sequence[Sample]
    control: Control

    def of(self, part: Callable[[Sample], Iterable[Sample]]) -> Held:
        """The same for a part of the graph, whose inputs ``part`` makes from those of the whole."""
        return Held([made for sample in self.samples for made in part(sample)], self.control)


def _with_control(
    model: ov.Model,
    samples: Sequence[Sample],
    pairs: Sequence[_Pair],
    limits: Closeness,
    options: dict[str, Any],
) -> ov.Model:
    import nncf

    def left(compiled: ov.CompiledModel, some: Iterable[_Pair]) -> tuple[float, list[float]]:
        """What the limits leave, of all and of each: 1 is fp32 itself, 0 the limit."""
        some = list(some)
        each = [1 - _closeness(compiled, [pair]).used(limits) for pair in some]
        return 1 - _closeness(compiled, some).used(limits), each

    restorer = nncf.AdvancedAccuracyRestorerParameters(
        max_num_iterations=MOST_GROUPS, ranking_subset_size=_RANKED_ON, num_ranking_workers=1
    )
    options["advanced_quantization_parameters"] = options.pop("advanced_parameters")
    # On a thread of its own: it leaves the calling one a stack for signals (sigaltstack) that is no longer
    # there, and the next Ctrl-C would be a segmentation fault.
    with ThreadPoolExecutor(1) as pool:
        controlled: ov.Model = pool.submit(
            nncf.quantize_with_accuracy_control,
            model,
            nncf.Dataset(samples),
            nncf.Dataset(pairs),
            left,
            max_drop=1.0,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_accuracy_restorer_parameters=restorer,
            **options,
        ).result()
    return with_whole_bytes(controlled)


def _pairs(model: ov.Model, samples: Sequence[Sample]) -> list[_Pair]:
    """Inputs, and the outputs that fp32 has for them."""
    compiled = _compiled(model)
    return [(sample, [output.copy() for output in compiled(sample).values()]) for sample in samples]


def _compiled(model: ov.Model) -> ov.CompiledModel:
    """As the runtime compiles it (:mod:`jepa_runtime.backends.openvino.backend`)."""
    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    return ov.compile_model(model, "CPU", properties)


def _closeness(compiled: ov.CompiledModel, pairs: Iterable[_Pair]) -> Closeness:
    found_cosines = np.concatenate(
        [
            cosines(_vectors(found), _vectors(expected))
            for sample, outputs in pairs
            for found, expected in zip(compiled(sample).values(), outputs, strict=True)
        ]
    )
    return Closeness(worst=float(found_cosines.min()), mean=float(found_cosines.mean()))


def _vectors(output: NDArray[np.float32]) -> NDArray[np.float64]:
    return output.reshape(-1, output.shape[-1]).astype(np.float64)


def _quantized(model: ov.Model) -> set[str]:
    """The names of the products that compute in INT8."""
    products = [operation for operation in model.get_ops() if operation.get_type_name() in _PRODUCTS]
    return {product.get_friendly_name() for product in products if _source(product) == "FakeQuantize"}


def _source(product: ov.Node) -> str:
    """The type of the operation whose numbers ``product`` reads first."""
    node = product.input_value(0).get_node()
    while node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    return str(node.get_type_name())
