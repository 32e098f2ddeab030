"""The variants of a bundle's graphs: target and precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import openvino as ov

from jepa_export.errors import JepaExportError
from jepa_export.targets.openvino import Sample
from jepa_export.targets.registry import GraphSource, default_target_names, targets
from jepa_runtime.bundle import Precision, Target, Variant, model_suffix

VariantKey = tuple[Target, Precision]
"""What identifies a variant: the target and the precision."""

VARIANTS: tuple[VariantKey, ...] = tuple(
    (each.name, precision) for each in targets().values() for precision in each.precisions
)
# Built only on request.
ON_REQUEST: tuple[VariantKey, ...] = tuple(
    (each.name, precision) for each in targets().values() for precision in each.on_request
)
DEFAULT_TARGETS: tuple[Target, ...] = tuple(default_target_names())
DEFAULT_VARIANTS = tuple(key for key in VARIANTS if key[0] in DEFAULT_TARGETS)


def select_variants(
    names: Sequence[str], only: str | None, *, offered: Sequence[VariantKey] = VARIANTS
) -> tuple[VariantKey, ...]:
    """Return all variants of targets, or one variant.

    Args:
        names: The targets; ignored where ``only`` is given.
        only: One variant as TARGET/PRECISION.
        offered: The variants to select from.

    Raises:
        JepaExportError: There is no such variant.
    """
    found = tuple(key for key in offered if (key[0] in names if only is None else "/".join(key) == only))
    if not found:
        variants = ", ".join("/".join(key) for key in offered)
        raise JepaExportError(f"--only must be one of {variants}, got {only}", code="export.unknown_variant")
    return found


def variants_for(names: Sequence[str], precisions: Sequence[str] | None) -> tuple[VariantKey, ...]:
    """Return the variants of targets in ``precisions`` (None: in every one of :data:`VARIANTS`).

    Raises:
        JepaExportError: A target has none of these precisions.
    """
    every = (*VARIANTS, *ON_REQUEST) if precisions else VARIANTS
    found = tuple(key for key in every if key[0] in names and (not precisions or key[1] in precisions))
    for target in names:
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
    return f"{role}/{target}/model_{precision}{model_suffix(target)}"


def manifest_entries(role: str, keys: Sequence[VariantKey]) -> list[dict[str, str]]:
    """Return the manifest entries of the variants ``keys`` of the graph ``role``."""
    return [{"target": key[0], "precision": str(key[1]), "path": model_path(role, key)} for key in keys]


def goal_variants(variants: Sequence[VariantKey]) -> tuple[VariantKey, ...]:
    """Return the variants of the graphs that compare states with a goal, for encoder ``variants``.

    These graphs decide where the robot drives and when it stops, and are small: one variant for each target,
    in the best precision that it supports.
    """
    names = dict.fromkeys(target for target, _ in variants)
    return tuple((name, targets()[name].energy_precision) for name in names)


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
        samples: Inputs by name, on which variants are calibrated.
        folder: Folder of the graph in the bundle.
        variants: The variants to write.
        shapes: Shapes of the inputs with a free axis, for targets with fixed shapes.

    Raises:
        JepaExportError: A variant cannot be made.
    """
    source = GraphSource(onnx_path, irs, samples, shapes or {})
    for target in dict.fromkeys(target for target, _ in variants):
        paths = {key[1]: folder.parent / model_path(folder.name, key) for key in variants if key[0] == target}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        targets()[target].write(source, paths)


def needs_step(key: VariantKey) -> bool:
    """Return whether the graph ``step`` of a variant is derived from its predictor."""
    return targets()[key[0]].write_step is not None


def write_step(folder: Path, key: VariantKey) -> None:
    """Write the graph ``step`` of a bundle for a target with fixed shapes, derived from the predictor."""
    write = targets()[key[0]].write_step
    assert write is not None
    write(folder / model_path("predictor", key), folder / model_path("step", key), key[1])
