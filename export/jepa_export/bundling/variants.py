"""The variants of a bundle's graphs (target and precision), and how each is made from an ONNX file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import openvino as ov

from jepa_export.errors import JepaExportError
from jepa_export.targets.npu import first_step, static_ir
from jepa_export.targets.openvino import Sample, save
from jepa_export.targets.tensorrt import calibrate, to_fp16, to_int8
from jepa_runtime.bundle import MODEL_SUFFIX, Precision, Target, Variant

VariantKey = tuple[Target, Precision]
"""What identifies a variant: the target and the precision."""

# The preferred first. NPUs compute in fp16 what is not INT8.
VARIANTS: tuple[VariantKey, ...] = (
    ("openvino", "int8"),
    ("openvino", "fp32"),
    ("onnx", "fp32"),
    ("npu", "int8"),
    ("npu", "fp16"),
    ("tensorrt", "int8"),
    ("tensorrt", "fp16"),
)
# Built only on request, since few CPUs support bf16.
ON_REQUEST: tuple[VariantKey, ...] = (("openvino", "bf16"),)
TARGETS: tuple[Target, ...] = ("onnx", "openvino", "npu", "tensorrt")
DEFAULT_TARGETS: tuple[Target, ...] = ("onnx", "openvino")
DEFAULT_VARIANTS = tuple(key for key in VARIANTS if key[0] in DEFAULT_TARGETS)
# The runtime compiles a predictor for one candidate or for at least this many, see
# jepa_runtime.model.compiled_graphs.
_MIN_CANDIDATES = 16


def select_variants(
    targets: Sequence[str], only: str | None, *, offered: Sequence[VariantKey] = VARIANTS
) -> tuple[VariantKey, ...]:
    """Return all variants of ``targets``, or one variant.

    Args:
        targets: Ignored where ``only`` is given.
        only: One variant as TARGET/PRECISION.
        offered: The variants to select from.

    Raises:
        JepaExportError: There is no such variant.
    """
    found = tuple(key for key in offered if (key[0] in targets if only is None else "/".join(key) == only))
    if not found:
        names = ", ".join("/".join(key) for key in offered)
        raise JepaExportError(f"--only must be one of {names}, got {only}", code="export.unknown_variant")
    return found


def variants_for(targets: Sequence[str], precisions: Sequence[str] | None) -> tuple[VariantKey, ...]:
    """Return the variants of ``targets`` in ``precisions`` (None: in every one of :data:`VARIANTS`).

    Raises:
        JepaExportError: A target has none of these precisions.
    """
    every = (*VARIANTS, *ON_REQUEST) if precisions else VARIANTS
    found = tuple(key for key in every if key[0] in targets and (not precisions or key[1] in precisions))
    for target in targets:
        if all(key[0] != target for key in found):
            offered = ", ".join(precision for name, precision in (*VARIANTS, *ON_REQUEST) if name == target)
            raise JepaExportError(
                f"--target {target} does not support this --precision: it supports {offered}",
                code="export.unknown_variant",
            )
    return found


def key_of(variant: Variant) -> VariantKey:
    """Return the target and precision of a variant in a manifest."""
    return variant.target, variant.precision


def model_path(role: str, key: VariantKey) -> str:
    """Return the path of a variant of the graph ``role`` in its bundle."""
    target, precision = key
    return f"{role}/{target}/model_{precision}{MODEL_SUFFIX[target]}"


def fixed_num_samples(num_samples: int) -> int:
    """Return the number of candidates for which a predictor of fixed shape is built."""
    return num_samples if num_samples == 1 else max(num_samples, _MIN_CANDIDATES)


def write_variants(
    onnx_path: Path,
    irs: Mapping[str, Callable[[], ov.Model]],
    samples: Sequence[Sample],
    folder: Path,
    variants: Sequence[VariantKey],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write the graph ``folder.name`` in each of ``variants``.

    Args:
        onnx_path: The graph in fp32.
        irs: Functions by precision (fp32, int8) that create the OpenVINO IR; called only if needed.
        samples: Inputs by name, on which the TensorRT variants are calibrated.
        folder: Folder of the graph in the bundle.
        variants: The variants to write.
        shapes: Shapes of the inputs with a free axis, for NPUs.

    Raises:
        JepaExportError: A variant cannot be made.
    """
    made: dict[str, ov.Model] = {}
    ranges: dict[str, float] = {}
    for key in variants:
        target, precision = key
        path = folder.parent / model_path(folder.name, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if target == "onnx":
            shutil.copyfile(onnx_path, path)
        elif target == "tensorrt":
            model = onnx.load(onnx_path)
            ranges = ranges or calibrate(model, samples)
            onnx.save((to_int8 if precision == "int8" else to_fp16)(model, ranges), path)
        else:
            source = "int8" if precision == "int8" else "fp32"
            if source not in made:
                made[source] = irs[source]()
            ir = made[source] if target == "openvino" else static_ir(made[source], shapes or {})
            save(ir, path, halve=precision == "fp16")


def write_npu_step(folder: Path, key: VariantKey) -> None:
    """Write the graph ``step`` of a bundle for NPUs, derived from the predictor of the same variant."""
    predictor = ov.Core().read_model(folder / model_path("predictor", key))
    save(first_step(predictor), folder / model_path("step", key), halve=key[1] == "fp16")
