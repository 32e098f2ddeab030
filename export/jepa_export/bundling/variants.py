"""The forms in which a bundle holds its graphs: which there are, and how each is made of an ONNX file."""

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
from jepa_runtime.bundle.manifest import MODEL_SUFFIX, Precision, Target, Variant

Kind = tuple[Target, Precision]
"""For whom a form is, and how precise it is."""

# The preferred first. NPUs compute in fp16 what is not INT8.
KINDS: tuple[Kind, ...] = (
    ("openvino", "int8"),
    ("openvino", "fp32"),
    ("onnx", "fp32"),
    ("npu", "int8"),
    ("npu", "fp16"),
    ("tensorrt", "int8"),
    ("tensorrt", "fp16"),
)
# Made where it is named and nowhere else: few CPUs have bf16.
ON_REQUEST: tuple[Kind, ...] = (("openvino", "bf16"),)
TARGETS: tuple[Target, ...] = ("onnx", "openvino", "npu", "tensorrt")
DEFAULT_TARGETS: tuple[Target, ...] = ("onnx", "openvino")
DEFAULT_KINDS = tuple(kind for kind in KINDS if kind[0] in DEFAULT_TARGETS)
# For fewer candidates (but one) the runtime does not compile a predictor, see
# jepa_runtime.model.compiled_graphs.
_FEWEST_CANDIDATES = 16


def kinds_for(
    targets: Sequence[str], only: str | None, *, offered: Sequence[Kind] = KINDS
) -> tuple[Kind, ...]:
    """Those of ``offered`` that are asked for: all of some targets, or ``only`` one (TARGET/PRECISION).

    Raises:
        JepaExportError: there is no such form.
    """
    found = tuple(
        kind for kind in offered if (kind[0] in targets if only is None else "/".join(kind) == only)
    )
    if not found:
        names = ", ".join("/".join(kind) for kind in offered)
        raise JepaExportError(f"--only must be one of {names}, got {only}")
    return found


def choose_kinds(targets: Sequence[str], precisions: Sequence[str] | None) -> tuple[Kind, ...]:
    """Those of some targets, in some precisions (None: in each of :data:`KINDS`).

    Raises:
        JepaExportError: a target comes in none of them.
    """
    every = (*KINDS, *ON_REQUEST) if precisions else KINDS
    found = tuple(kind for kind in every if kind[0] in targets and (not precisions or kind[1] in precisions))
    for target in targets:
        if all(kind[0] != target for kind in found):
            offered = ", ".join(precision for name, precision in (*KINDS, *ON_REQUEST) if name == target)
            raise JepaExportError(f"--target {target} has no such --precision: it comes in {offered}")
    return found


def kind_of(variant: Variant) -> Kind:
    """For whom a variant of a bundle is, and how precise it is."""
    return variant.target, variant.precision


def model_path(role: str, kind: Kind) -> str:
    """Where a form of the graph ``role`` lies in its bundle."""
    target, precision = kind
    return f"{role}/{target}/model_{precision}{MODEL_SUFFIX[target]}"


def fixed_count(num_samples: int) -> int:
    """For how many candidates a predictor of fixed shapes is made, so that the runtime can use it."""
    return num_samples if num_samples == 1 else max(num_samples, _FEWEST_CANDIDATES)


def write_kinds(
    onnx_path: Path,
    irs: Mapping[str, Callable[[], ov.Model]],
    samples: Sequence[Sample],
    folder: Path,
    kinds: Sequence[Kind],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write the graph ``folder.name`` in every one of ``kinds``, and nothing else.

    Args:
        onnx_path: the graph in fp32.
        irs: by precision (fp32, int8), makes the same for OpenVINO; called only where it is needed.
        samples: its inputs by name, on which TensorRT's forms are calibrated.
        shapes: of the inputs with a free axis, for NPUs.

    Raises:
        JepaExportError: a form cannot be made; the message says why.
    """
    made: dict[str, ov.Model] = {}
    ranges: dict[str, float] = {}
    for kind in kinds:
        target, precision = kind
        path = folder.parent / model_path(folder.name, kind)
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


def write_first_step(folder: Path, kind: Kind) -> None:
    """Write the graph ``step`` of a bundle for NPUs, from its predictor of the same ``kind``."""
    predictor = ov.Core().read_model(folder / model_path("predictor", kind))
    save(first_step(predictor), folder / model_path("step", kind), halve=kind[1] == "fp16")
