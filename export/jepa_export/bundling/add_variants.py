"""More variants for a bundle that exists: for other devices, or in other precisions.

They are made of the bundle's own fp32 ONNX graphs: neither the network nor the code that trained it is
needed. What the bundle has stays as it is, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from jepa_export.bundling.manifest_fields import (
    STAND_INS,
    Actions,
    Settings,
    golden_rows,
    manifest_text,
    prove,
)
from jepa_export.bundling.staging import commit, staged, write_report
from jepa_export.bundling.student_bundle import TOLERANCES, calibration, rollouts
from jepa_export.bundling.variants import (
    Kind,
    fixed_count,
    kind_of,
    model_path,
    write_first_step,
    write_kinds,
)
from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler
from jepa_export.targets.openvino import (
    Sample,
    compress_int8,
    convert,
    multiplies_activations,
    quantize_int8,
    quantize_transformer_int8,
)
from jepa_export.targets.vendor_compilers import ask_vendors
from jepa_runtime import WorldModel
from jepa_runtime.bundle import ROLES, Bundle, Manifest, Role, Variant, seal
from jepa_runtime.model.parity import cosines

SOURCE: Kind = ("onnx", "fp32")
_INT8: Kind = ("openvino", "int8")
# An energy decides when to stop, and is small: one for each target, in the best precision that it has.
_ENERGY: Mapping[str, Kind] = {
    "openvino": ("openvino", "fp32"),
    "npu": ("npu", "fp16"),
    "tensorrt": ("tensorrt", "fp16"),
}
_ENERGY_SAMPLES = 8
_Samples = dict[Role, list[Sample]]


def check_addable(base: Bundle, kinds: Sequence[Kind], *, calibrated: bool) -> None:
    """Refuse what :func:`add_variants` cannot add.

    Args:
        calibrated: whether there are frames to calibrate on.

    Raises:
        JepaExportError: ``base`` has no fp32 ONNX graphs, has one of ``kinds`` already, or one of them needs
            frames to calibrate on.
    """
    there = [kind_of(each) for each in base.manifest.graphs.encoder]
    if SOURCE not in there:
        raise JepaExportError(
            f"{base.path}: has no fp32 ONNX graphs, of which variants are made (it has {_names(there)}): "
            "build it again with --target onnx as well; it was made by: "
            f"{base.manifest.provenance.command}"
        )
    if present := [kind for kind in kinds if kind in there]:
        raise JepaExportError(
            f"{base.path}: has {_names(present)} already: leave it out (--target and --precision choose)"
        )
    needing = [kind for kind in kinds if kind[1] == "int8" and (kind[0] != "npu" or _INT8 not in there)]
    if needing and not calibrated:
        raise JepaExportError(
            f"{base.path}: {_names(needing)} must be calibrated: give --calibration SOURCE, frames such as "
            "the robot will see (a video, a folder of images, a bag)"
        )


def add_variants(
    base: Bundle,
    folder: Path,
    kinds: Sequence[Kind],
    *,
    frames: NDArray[np.uint8] | None,
    command: str,
    progress: Callable[[str], None],
    version: str | None = None,
    compile_blobs: bool = True,
    seed: int = 0,
) -> Bundle:
    """Write the bundle ``folder``: ``base``, and the variants ``kinds``.

    INT8 and TensorRT variants are calibrated on ``frames`` and on actions that a planner proposes within the
    bundle's limits. INT8 for NPUs is the bundle's INT8 for OpenVINO with fixed shapes, where there is one.
    Each variant must reproduce the golden outputs, and on ``frames`` the outputs of the fp32 ONNX graphs,
    within the bundle's tolerances; ONNX Runtime or OpenVINO computes it here, on the CPU.

    Args:
        base: opened, trained or not.
        folder: must not exist.
        kinds: of :data:`~jepa_export.bundling.variants.KINDS`, the preferred first; they come after those of
        ``base``.
        frames: uint8 [n, height, width, 3], ``step_s`` apart; None: the golden frames, which suffice for what
            is not quantized.
        command: for the provenance of the bundle.
        progress: called with the next step in words.
        version: of the new bundle; None: that of ``base``.
        compile_blobs: whether NPU variants are compiled ahead of time, where the compiler is installed.
        seed: of the actions to calibrate on.

    Raises:
        JepaExportError: see :func:`check_addable`; ``folder`` exists or cannot be written; a variant cannot
            be made, or does not compute what the fp32 graphs compute.
        BundleError: ``base`` was changed meanwhile, or the result is not a valid bundle.
    """
    check_addable(base, kinds, calibrated=frames is not None)
    manifest = base.manifest
    progress("whether the ONNX graphs reproduce the golden outputs")
    golden_rows(base, *SOURCE)
    shown = base.golden().frames if frames is None else frames
    with staged(folder, replace=False) as staging:
        _copy(base, staging)
        progress(f"encoding {len(shown)} frames")
        samples = _samples(base, shown, seed)
        added: list[tuple[Role, Variant]] = []
        for role in ROLES:
            wanted = _wanted(manifest, role, kinds)
            added += [(role, _variant(role, kind)) for kind in wanted]
            progress(f"{role}: {_names(wanted) or 'nothing to add'}")
            if source := _of(manifest, role, SOURCE):
                irs = {
                    precision: _ir(manifest, staging, role, precision, samples[role])
                    for precision in ("fp32", "int8")
                }
                shapes = _fixed_shapes(manifest, role)
                write_kinds(staging / source.path, irs, samples[role], staging / role, wanted, shapes=shapes)
            else:
                for kind in wanted:
                    write_first_step(staging, kind)
        note = {
            "variants": ["/".join(kind) for kind in kinds],
            "command": command,
            "commit": commit(),
            "frames": len(shown),
        }
        report: dict[str, Any] = dict(base.report() or {})
        report["added"] = [*report.get("added", ()), note]
        fields = _fields(manifest, added, command, version)
        bundle = prove(staging, fields, added, report, progress, compile_blobs=compile_blobs)
        progress(f"whether each variant computes what fp32 computes on these {len(shown)} frames")
        note["agreement"] = _agreement(bundle, kinds, shown, samples["predictor"])
        write_report(staging, bundle.report() | {"added": report["added"]})
        seal(staging, bundle.manifest)
    return Bundle.open(folder)


def add_blobs(base: Bundle, folder: Path, *, progress: Callable[[str], None]) -> Bundle:
    """Write the bundle ``folder``: ``base``, and blobs for every platform of each of its NPU variants.

    A blob is for one OpenVINO release, the one installed here: blobs that ``base`` has are replaced.

    Args:
        folder: must not exist.
        progress: called with the next step in words.

    Raises:
        JepaExportError: ``base`` has no NPU variant, the compiler is not installed or refuses a graph, or
            ``folder`` exists or cannot be written.
        BundleError: ``base`` was changed meanwhile.
    """
    graphs = [
        (role, each) for role in ROLES for each in base.manifest.graphs.variants(role) if each.target == "npu"
    ]
    if not graphs:
        raise JepaExportError(f"{base.path}: has no NPU variant: add it first (jepa-export add-variant)")
    npu_compiler.find()
    with staged(folder, replace=False) as staging:
        _copy(base, staging)
        said = ask_vendors(staging, graphs, base.manifest.num_samples, progress)
        if refused := [row for row in said["npu"]["graphs"] if "problem" in row]:
            raise JepaExportError(
                f"the NPU compiler does not take the {refused[0]['graph']}: {refused[0]['problem']}; nothing "
                "was written"
            )
        write_report(staging, dict(base.report() or {}) | said)
        seal(staging, base.manifest)
    return Bundle.open(folder)


def _copy(base: Bundle, staging: Path) -> None:
    for record in base.manifest.files:
        path = staging / record.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base.read(record.path))


def _wanted(manifest: Manifest, role: Role, kinds: Sequence[Kind]) -> list[Kind]:
    """The variants of one graph that ``kinds`` of the encoder ask for."""
    if role == "energy":
        there = {each.target for each in manifest.graphs.energy}
        targets = dict.fromkeys(target for target, _ in kinds if there and target not in there)
        return [_ENERGY[target] for target in targets]
    if role == "step" and not _of(manifest, role, SOURCE):
        # Where shapes are fixed, the predictor serves no single candidate.
        return [kind for kind in kinds if kind[0] == "npu" and manifest.num_samples > 1]
    return list(kinds)


def _of(manifest: Manifest, role: Role, kind: Kind) -> Variant | None:
    return next((each for each in manifest.graphs.variants(role) if kind_of(each) == kind), None)


def _variant(role: Role, kind: Kind) -> Variant:
    return Variant(target=kind[0], precision=kind[1], path=model_path(role, kind))


def _ir(
    manifest: Manifest, folder: Path, role: Role, precision: str, samples: Sequence[Sample]
) -> Callable[[], ov.Model]:
    """Makes one graph for OpenVINO: the one that the bundle has, else from ONNX."""
    own = _of(manifest, role, _INT8 if precision == "int8" else ("openvino", "fp32"))
    if own is not None:
        path = folder / own.path
        return lambda: ov.Core().read_model(path)
    source = _of(manifest, role, SOURCE)
    assert source is not None
    path = folder / source.path
    return lambda: convert(path) if precision == "fp32" else _quantize(role, convert(path), samples)


def _quantize(role: Role, model: ov.Model, samples: Sequence[Sample]) -> ov.Model:
    """INT8 as this project's own models have it: a transformer throughout; of other predictors, whose errors
    feed on themselves, only the weights."""
    if multiplies_activations(model):
        return quantize_transformer_int8(model, samples, extremes=role != "encoder")
    return quantize_int8(model, samples) if role == "encoder" else compress_int8(model)


def _fixed_shapes(manifest: Manifest, role: Role) -> dict[str, tuple[int, ...]]:
    """Of the inputs with a free axis, as :mod:`jepa_runtime.model.compiled_graphs` asks an NPU for them."""
    latent = manifest.io.latent
    if role == "predictor":
        return {"actions": (fixed_count(manifest.num_samples), manifest.horizon, manifest.action_size)}
    if role == "step":
        return {"actions": (1, 1, manifest.action_size)}
    if role == "energy":
        return {"latents": (manifest.num_samples * manifest.horizon, latent.tokens, latent.dim)}
    return {}


@torch.no_grad()
def _samples(base: Bundle, frames: NDArray[np.uint8], seed: int) -> _Samples:
    """Inputs of each graph: the frames, their latents, and actions as a planner proposes them."""
    manifest = base.manifest
    size = manifest.io.frame.height, manifest.io.frame.width, manifest.io.frame.channels
    if frames.dtype != np.uint8 or frames.shape[1:] != size:
        raise JepaExportError(
            f"frames to calibrate on must be uint8 [n, {', '.join(map(str, size))}], got {frames.dtype} "
            f"{list(frames.shape)}"
        )
    settings = Settings(
        actions=Actions(**manifest.io.action.model_dump()),
        history_size=manifest.history_size,
        horizon=manifest.horizon,
        num_samples=manifest.num_samples,
        step_s=manifest.io.step_s,
        rate_hz=manifest.io.frame.rate_hz,
        variants=(),
        command="",
    )
    with _open(base, SOURCE) as model:
        latents = np.stack([model.encode(frame) for frame in frames])
    # A history may be longer than what there is.
    film = np.resize(latents, (max(len(latents), manifest.history_size), *latents.shape[1:]))
    followed = calibration(rollouts(torch.from_numpy(film)[None], settings, seed))
    goals = latents[:: max(1, len(latents) // _ENERGY_SAMPLES)]
    return {
        "encoder": [{"frame": frame[None]} for frame in frames],
        "predictor": followed["predictor"],
        "step": followed["step"],
        "energy": [{"latents": latents, "goal": goal[None]} for goal in goals],
    }


def _fields(
    manifest: Manifest, added: Sequence[tuple[Role, Variant]], command: str, version: str | None
) -> dict[str, Any]:
    fields = manifest.to_json_dict()
    for role, variant in added:
        fields["graphs"][role].append(variant.model_dump())
        fields["golden"]["tolerances"].setdefault(variant.precision, TOLERANCES[variant.precision])
    made = f"{fields['provenance']['command']}; {command}"
    fields["provenance"]["command"] = manifest_text(made)
    fields["version"] = version or manifest.version
    return fields


def _open(bundle: Bundle, kind: Kind) -> WorldModel:
    target, precision = kind
    return WorldModel.open(
        bundle, engine=STAND_INS[target], precision=precision, target=target, allow_untrained=True
    )


def _agreement(
    bundle: Bundle, kinds: Sequence[Kind], frames: NDArray[np.uint8], asked: Sequence[Sample]
) -> list[dict[str, Any]]:
    """How closely encoder and predictor of each variant follow the fp32 ONNX graphs on the same inputs.

    Raises:
        JepaExportError: the mean cosine is below what the bundle's tolerance demands of the worst.
    """

    def outputs(kind: Kind) -> dict[str, NDArray[np.float32]]:
        with _open(bundle, kind) as model:
            futures = [
                model.predict(
                    each["actions"],
                    latents=each["history_latents"][0],
                    history_actions=each["history_actions"][0] if "history_actions" in each else None,
                ).latents
                for each in asked
            ]
            return {
                "encoder": np.stack([model.encode(frame) for frame in frames]),
                "predictor": np.stack(futures),
            }

    reference, rows = outputs(SOURCE), []
    for kind in kinds:
        least = bundle.manifest.golden.tolerances[kind[1]].min_cosine
        for graph, computed in outputs(kind).items():
            expected = reference[graph]
            found = cosines(computed.astype(np.float64), expected.astype(np.float64))
            row = {
                "graph": graph,
                "target": kind[0],
                "precision": kind[1],
                "mean_cosine": float(found.mean()),
                "min_cosine": float(found.min()),
                "max_abs": float(np.abs(computed - expected).max()),
            }
            # Not a number is refused as well.
            if not row["mean_cosine"] >= least:
                raise JepaExportError(
                    f"the {kind[1]} {graph} for {kind[0]} does not compute what fp32 computes on the "
                    f"calibration frames: mean cosine {row['mean_cosine']:.4f}, at least {least:g} is "
                    "required; nothing was written"
                )
            rows.append(row)
    return rows


def _names(kinds: Sequence[Kind]) -> str:
    return ", ".join("/".join(kind) for kind in kinds)
