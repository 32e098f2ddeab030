"""Add variants for other devices or precisions to an existing bundle.

They are made from the fp32 ONNX graphs of the bundle; neither the network nor its training code is needed.
The existing files stay unchanged, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from jepa_export.bundling.builder import (
    Progress,
    build_bundle,
    verify_golden_outputs,
)
from jepa_export.bundling.manifest_fields import ERROR_QUANTILE, ActionSpace, BundleSettings, manifest_text
from jepa_export.bundling.staging import check_absent, check_outside, copy_files, source_commit
from jepa_export.bundling.student_bundle import TOLERANCES, calibration_samples, rollout_samples
from jepa_export.bundling.variants import (
    VariantKey,
    key_of,
    model_path,
    needs_step,
    write_step,
    write_variants,
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
from jepa_export.targets.registry import SOURCE, targets
from jepa_export.targets.vendor_compilers import run_vendor_compilers
from jepa_runtime import WorldModel
from jepa_runtime.backends import reference_engine
from jepa_runtime.bundle import (
    GOAL_ROLES,
    POSE_BATCH,
    ROLES,
    Bundle,
    ClipSpec,
    Manifest,
    Role,
    Variant,
    compiled_candidates,
)
from jepa_runtime.model import cosines

_INT8_IR: VariantKey = ("openvino", "int8")
_FP32_IR: VariantKey = ("openvino", "fp32")
_GOALS = 8
# Of all caches in the samples of a causal encoder.
_MAX_CACHED_BYTES = 1 << 30
_Samples = dict[Role, list[Sample]]


def check_addable(base: Bundle, folder: Path, variants: Sequence[VariantKey], *, calibrated: bool) -> None:
    """Check that :func:`add_variants` can add these variants.

    Args:
        base: The bundle to extend.
        folder: Destination.
        variants: Variants to add.
        calibrated: Whether calibration frames are available.

    Raises:
        JepaExportError: ``folder`` exists or lies in ``base``; or ``base`` lacks an fp32 ONNX graph or
            already has one of ``variants``, or one of them needs calibration frames.
    """
    check_absent(folder)
    check_outside(folder, base)
    manifest = base.manifest
    existing = [key_of(each) for each in manifest.graphs.encoder]
    # The step graph of a target with fixed shapes is derived from the predictor.
    needed = [role for role in ROLES if role != "step" and manifest.graphs.variants(role)]
    if missing := [role for role in needed if not _find(manifest, role, SOURCE)]:
        raise JepaExportError(
            f"{base.path}: variants are made from fp32 ONNX graphs, and it has no such graph of: "
            f"{', '.join(missing)} (its encoder: {_names(existing)}): build it again with --target onnx as "
            f"well; it was built by: {manifest.provenance.command}",
            code="export.no_onnx_source",
        )
    if present := [key for key in variants if key in existing]:
        raise JepaExportError(
            f"{base.path}: already has {_names(present)}: leave it out (--target and --precision select)",
            code="export.variant_exists",
        )
    uncalibrated = [
        key
        for key in variants
        if key[1] == "int8" and not (targets()[key[0]].uses_ir and _INT8_IR in existing)
    ]
    if uncalibrated and not calibrated:
        raise JepaExportError(
            f"{base.path}: {_names(uncalibrated)} must be calibrated: pass --calibration SOURCE with frames "
            "like those of the robot (a video, a folder of images, a bag)",
            code="export.calibration_needed",
        )


def add_variants(
    base: Bundle,
    folder: Path,
    variants: Sequence[VariantKey],
    *,
    frames: NDArray[np.uint8] | None,
    states: NDArray[np.float32] | None = None,
    command: str,
    progress: Progress,
    version: str | None = None,
    compile_blobs: bool = True,
    seed: int = 0,
) -> Bundle:
    """Write the bundle ``folder``: ``base`` with additional variants.

    INT8 and TensorRT variants are calibrated on ``frames`` and on actions that a planner proposes within the
    bundle's limits. INT8 for NPUs is the bundle's INT8 for OpenVINO with fixed shapes, where that exists.
    Each variant must reproduce the golden outputs, and the outputs of the fp32 ONNX graphs on ``frames``,
    within the bundle's tolerances; ONNX Runtime or OpenVINO computes it on this CPU. Error bounds, thresholds
    and normal scores stay those of ``base``; how far each variant is from fp32, relative to the error bounds,
    is measured, reported to ``progress`` and written to report.json.

    Args:
        base: Opened bundle, trained or not.
        folder: Destination; must not exist.
        variants: Variants of :data:`~jepa_export.bundling.variants.VARIANTS`, the preferred first; they
            follow those of ``base``.
        frames: uint8 [n, height, width, 3], ``step_s`` apart; None: the golden frames, which suffice for
            variants that are not quantized.
        states: [n, S], the states of the robot at ``frames``, if the model reads them; None: those of the
            golden outputs, for all frames.
        command: Command line for the provenance of the bundle.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
        version: Version of the new bundle; None: that of ``base``.
        compile_blobs: Whether NPU variants are compiled ahead of time, where the compiler is installed.
        seed: Seed of the actions to calibrate on.

    Raises:
        JepaExportError: See :func:`check_addable`; or ``folder`` cannot be written; or a variant cannot be
            made, or does not reproduce the fp32 graphs.
        BundleError: ``base`` was changed meanwhile, or the result is not a valid bundle.
    """
    check_addable(base, folder, variants, calibrated=frames is not None)
    manifest = base.manifest
    progress("verifying the ONNX graphs against the golden outputs")
    verify_golden_outputs(base, *SOURCE)
    used = base.golden().frames if frames is None else frames
    with build_bundle(folder, progress, replace=False) as builder:
        copy_files(base, builder.staging)
        progress(f"encoding {len(used)} frames")
        samples = _samples(base, used, states, seed)
        added: list[tuple[Role, Variant]] = []
        for role in ROLES:
            selected = _variants_of_role(manifest, role, variants)
            added += [(role, _variant(role, key)) for key in selected]
            progress(f"{role}: {_names(selected) or 'nothing to add'}")
            if source := _find(manifest, role, SOURCE):
                irs = {
                    precision: _ir(manifest, builder.staging, role, precision, samples[role])
                    for precision in ("fp32", "int8")
                }
                write_variants(
                    builder.staging / source.path,
                    irs,
                    samples[role],
                    builder.staging / role,
                    selected,
                    shapes=_fixed_shapes(manifest, role),
                )
            else:
                for key in selected:
                    write_step(builder.staging, key)
        note = {
            "variants": ["/".join(key) for key in variants],
            "command": command,
            "base_sha256": base.sha256,
            "commit": source_commit(),
            "frames": len(used),
        }
        report: dict[str, Any] = dict(base.report() or {})
        report["added"] = [*report.get("added", ()), note]
        fields = _fields(manifest, added, f"{command} (bundle {base.sha256})", version)
        bundle = builder.finish(fields, report, graphs=added, compile_blobs=compile_blobs)
        progress(f"comparing each variant with fp32 on these {len(used)} frames")
        note["agreement"] = rows = measure_agreement(bundle, variants, used, samples["predictor"])
        progress(_unchanged_bounds(base, variants, rows))
        builder.write_report(bundle.report() | {"added": report["added"]})
        builder.seal(bundle.manifest)
    return Bundle.open(folder)


def add_blobs(base: Bundle, folder: Path, *, progress: Callable[[str], None]) -> Bundle:
    """Write the bundle ``folder``: ``base`` with blobs for every platform of each of its NPU variants.

    Blobs are for one OpenVINO release, the one installed here; they replace the blobs of ``base``.

    Args:
        base: The bundle to extend.
        folder: Destination; must not exist.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.

    Raises:
        JepaExportError: ``base`` has no NPU variant, the compiler is not installed or rejects a graph, or
            ``folder`` exists, lies in ``base`` or cannot be written.
        BundleError: ``base`` was changed meanwhile.
    """
    check_outside(folder, base)
    graphs = [
        (role, each) for role in ROLES for each in base.manifest.graphs.variants(role) if each.target == "npu"
    ]
    if not graphs:
        raise JepaExportError(
            f"{base.path}: has no NPU variant: add one first (jepa-export add-variant)",
            code="export.no_npu_variant",
        )
    npu_compiler.find()
    with build_bundle(folder, progress, replace=False) as builder:
        copy_files(base, builder.staging)
        results = run_vendor_compilers(builder.staging, graphs, base.manifest.num_samples, progress)
        if rejected := [row for row in results["npu"]["graphs"] if "problem" in row]:
            raise JepaExportError(
                f"the NPU compiler rejects the {rejected[0]['graph']}: {rejected[0]['problem']}; nothing was "
                "written",
                code="target.npu_compilation_failed",
            )
        builder.write_report(dict(base.report() or {}) | results)
        builder.seal(base.manifest)
    return Bundle.open(folder)


def _variants_of_role(manifest: Manifest, role: Role, variants: Sequence[VariantKey]) -> list[VariantKey]:
    """Return the variants of one graph that go with these variants of the encoder."""
    if role in GOAL_ROLES:
        existing = {each.target for each in manifest.graphs.variants(role)}
        added = dict.fromkeys(target for target, _ in variants if existing and target not in existing)
        return [(target, targets()[target].energy_precision) for target in added]
    if role == "step" and not _find(manifest, role, SOURCE):
        # With fixed shapes the predictor cannot serve a single candidate.
        return [key for key in variants if needs_step(key) and manifest.num_samples > 1]
    return list(variants)


def _find(manifest: Manifest, role: Role, key: VariantKey) -> Variant | None:
    return next((each for each in manifest.graphs.variants(role) if key_of(each) == key), None)


def _variant(role: Role, key: VariantKey) -> Variant:
    return Variant(target=key[0], precision=key[1], path=model_path(role, key))


def _ir(
    manifest: Manifest, folder: Path, role: Role, precision: str, samples: Sequence[Sample]
) -> Callable[[], ov.Model]:
    """Return a function that loads the bundle's OpenVINO graph, or else converts the ONNX graph."""
    own = _find(manifest, role, _INT8_IR if precision == "int8" else _FP32_IR)
    if own is not None:
        path = folder / own.path
        return lambda: ov.Core().read_model(path)
    source = _find(manifest, role, SOURCE)
    assert source is not None
    path = folder / source.path
    return lambda: convert(path) if precision == "fp32" else _quantize(role, convert(path), samples)


def _quantize(role: Role, model: ov.Model, samples: Sequence[Sample]) -> ov.Model:
    """Quantize as this project's own models are.

    All of a transformer is quantized; of other predictors, whose errors accumulate, only the weights.
    """
    if multiplies_activations(model):
        return quantize_transformer_int8(model, samples, extremes=role != "encoder")
    return quantize_int8(model, samples) if role == "encoder" else compress_int8(model)


def _fixed_shapes(manifest: Manifest, role: Role) -> dict[str, tuple[int, ...]]:
    """Return the shapes that :mod:`jepa_runtime.model.compiled_graphs` requests from an NPU."""
    latent = manifest.io.latent
    if role == "predictor":
        return {
            "actions": (compiled_candidates(manifest.num_samples), manifest.horizon, manifest.action_size)
        }
    if role == "step":
        return {"actions": (1, 1, manifest.action_size)}
    if role == "energy":
        return {"latents": (manifest.num_samples * manifest.horizon, latent.tokens, latent.dim)}
    if role == "relative_pose":
        return {"latents": (POSE_BATCH, latent.tokens, latent.dim)}
    return {}


@torch.no_grad()
def _samples(
    base: Bundle, frames: NDArray[np.uint8], states: NDArray[np.float32] | None, seed: int
) -> _Samples:
    """Return inputs of each graph: the frames, their latents and states, and actions of a planner."""
    manifest = base.manifest
    size = manifest.io.frame.height, manifest.io.frame.width, manifest.io.frame.channels
    if frames.dtype != np.uint8 or frames.shape[1:] != size:
        raise JepaExportError(
            f"calibration frames must be uint8 [n, {', '.join(map(str, size))}], got {frames.dtype} "
            f"{list(frames.shape)}",
            code="export.invalid_frames",
        )
    settings = BundleSettings(
        actions=ActionSpace(**manifest.io.action.model_dump()),
        history_size=manifest.history_size,
        horizon=manifest.horizon,
        num_samples=manifest.num_samples,
        step_s=manifest.io.step_s,
        rate_hz=manifest.io.frame.rate_hz,
        variants=(),
        command="",
    )
    clip, inputs = manifest.io.clip, frames[:, None]
    if clip is not None:
        windows = np.lib.stride_tricks.sliding_window_view(frames, clip.frames, axis=0)
        inputs = np.moveaxis(windows[:: clip.frames_per_step], -1, 1)
    encoder_samples: list[Sample] = [{"frame": np.ascontiguousarray(each)} for each in inputs]
    with _open(base, SOURCE) as model:
        if clip is not None and clip.cached_steps:
            encoder_samples, latents = _causal_samples(model, clip, frames)
        else:
            latents = np.stack([model.encode_clip(each) for each in inputs])
    # The history may be longer than the frames: repeat them.
    known = np.resize(latents, (max(len(latents), manifest.history_size), *latents.shape[1:]))
    rollouts = rollout_samples(torch.from_numpy(known)[None], settings, seed)
    if manifest.io.state is not None:
        for rollout, measured in zip(rollouts, _state_histories(base, states, len(known)), strict=True):
            rollout["history_states"] = measured[None]
    predicted = calibration_samples(rollouts)
    goals = latents[:: max(1, len(latents) // _GOALS)]
    to_goals = [{"latents": latents, "goal": goal[None]} for goal in goals]
    return {
        "encoder": encoder_samples,
        "predictor": predicted["predictor"],
        "step": predicted["step"],
        "energy": to_goals,
        "relative_pose": to_goals,
    }


def _state_histories(base: Bundle, states: NDArray[np.float32] | None, count: int) -> NDArray[np.float32]:
    """Return the states [n, W, S] at every history in ``count`` latents."""
    size = base.manifest.history_size
    if states is None:
        golden = base.golden().history_states
        assert golden is not None
        return np.broadcast_to(golden, (count - size + 1, *golden.shape))
    known = np.resize(states, (count, states.shape[1]))
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(known, size, axis=0), -1, 1)


def _causal_samples(
    model: WorldModel, clip: ClipSpec, frames: NDArray[np.uint8]
) -> tuple[list[Sample], NDArray[np.float32]]:
    """Return inputs of a causal encoder with full caches, and the latents [n, T, D] of the stream."""
    cache = model.create_cache()
    assert cache is not None
    steps = len(frames) // clip.frames_per_step
    latents = []
    samples: list[Sample] = []
    count = max(1, min(steps - clip.cached_steps, _MAX_CACHED_BYTES // cache.entries.nbytes))
    chosen = set(np.linspace(clip.cached_steps, steps - 1, count).round().astype(int).tolist())
    for step in range(steps):
        images = frames[step * clip.frames_per_step :][: clip.frames_per_step]
        if step in chosen:
            positions = cache.positions(step)
            samples.append({"frame": images, "cache": cache.entries.copy(), "positions": positions})
        latents.append(model.encode_clip(list(images), cache, step))
    return samples, np.stack(latents[clip.cached_steps :])


def _fields(
    manifest: Manifest, added: Sequence[tuple[Role, Variant]], command: str, version: str | None
) -> dict[str, Any]:
    fields = manifest.to_json_dict()
    for role, variant in added:
        fields["graphs"][role].append(variant.model_dump())
        fields["golden"]["tolerances"].setdefault(variant.precision, TOLERANCES[variant.precision])
    commands = f"{fields['provenance']['command']}; {command}"
    fields["provenance"]["command"] = manifest_text(commands)
    fields["version"] = version or manifest.version
    return fields


def _open(bundle: Bundle, key: VariantKey) -> WorldModel:
    target, precision = key
    return WorldModel.open(
        bundle, engine=reference_engine(target), precision=precision, target=target, allow_untrained=True
    )


def measure_agreement(
    bundle: Bundle, variants: Sequence[VariantKey], frames: NDArray[np.uint8], rollouts: Sequence[Sample]
) -> list[dict[str, Any]]:
    """Compare encoder and predictor of each variant with the fp32 ONNX graphs on the same inputs.

    ``error_of_bound`` is the 90 % quantile of the norm of the difference, as a fraction of the error bound of
    its step (the first, for latents of the encoder), at the worst step; None if the bounds are zero.

    Args:
        bundle: Bundle with fp32 ONNX graphs.
        variants: Variants to compare.
        frames: uint8 [n, height, width, 3].
        rollouts: Inputs of the predictor by name.

    Returns:
        The rows for report.json.

    Raises:
        JepaExportError: The mean cosine is below the minimum cosine of the bundle's tolerance.
    """

    def outputs(key: VariantKey) -> dict[str, NDArray[np.float32]]:
        with _open(bundle, key) as model:
            futures = [
                model.predict(
                    np.asarray(each["actions"], np.float32),
                    latents=each["history_latents"][0],
                    history_actions=each["history_actions"][0] if "history_actions" in each else None,
                    history_states=each["history_states"][0] if "history_states" in each else None,
                ).latents
                for each in rollouts
            ]
            return {
                "encoder": np.stack([model.encode(frame) for frame in frames]),
                "predictor": np.stack(futures),
            }

    bounds = np.array(bundle.manifest.error_bounds)
    reference, rows = outputs(SOURCE), []
    for key in variants:
        minimum = bundle.manifest.golden.tolerances[key[1]].min_cosine
        for graph, computed in outputs(key).items():
            expected = reference[graph]
            found = cosines(computed.astype(np.float64), expected.astype(np.float64))
            mean = float(found.mean())
            row = {
                "graph": graph,
                "target": key[0],
                "precision": key[1],
                "mean_cosine": mean,
                "min_cosine": float(found.min()),
                "max_abs": float(np.abs(computed - expected).max()),
                "error_of_bound": None,
            }
            if (bounds > 0).all():
                of_steps = bounds[:1] if graph == "encoder" else bounds
                norms = np.linalg.norm(computed - expected, axis=(-2, -1)).reshape(-1, len(of_steps))
                fractions = np.quantile(norms, ERROR_QUANTILE, axis=0) / of_steps
                row["error_of_bound"] = float(fractions.max())
            # Written so that NaN is rejected as well.
            if not mean >= minimum:
                raise JepaExportError(
                    f"the {key[1]} {graph} for {key[0]} does not reproduce fp32 on recorded frames: "
                    f"mean cosine {mean:.4f}, required: {minimum:g}; nothing was written",
                    code="export.parity_failed",
                )
            rows.append(row)
    return rows


def _unchanged_bounds(base: Bundle, variants: Sequence[VariantKey], rows: Sequence[dict[str, Any]]) -> str:
    """Return the message that error bounds and thresholds were not measured with the new variants."""
    text = (
        f"error bounds, thresholds and normal scores are those of {base.path.name} (jepa-runtime calibrate "
        "measures error bounds and normal scores with a variant)"
    )
    if any(row["error_of_bound"] is None for row in rows):
        return text
    return f"{text}; {describe_agreement(variants, rows)}"


def describe_agreement(variants: Sequence[VariantKey], rows: Sequence[dict[str, Any]]) -> str:
    """Return the result of :func:`measure_agreement` for error bounds above zero, in words."""
    largest = {
        key: max(row["error_of_bound"] for row in rows if (row["target"], row["precision"]) == key)
        for key in variants
    }
    found = ", ".join(f"{_names([key])} {fraction:.1%}" for key, fraction in largest.items())
    return f"deviation from fp32 relative to the error bounds: {found}"


def _names(variants: Sequence[VariantKey]) -> str:
    return ", ".join("/".join(key) for key in variants)
