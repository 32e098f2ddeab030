"""The bundle of a new predictor on the encoder of an existing bundle, whose latents keep their meaning.

Encoder, energy and relative pose graphs are copied in every variant, with their golden outputs, so that a
robot can keep the latents and goals it has stored, and planners see the same energies and poses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.bundling.builder import BundleBuilder, Progress, build_bundle
from jepa_export.bundling.manifest_fields import (
    ActionSpace,
    BundleSettings,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    create_manifest,
)
from jepa_export.bundling.student_bundle import (
    TOLERANCES,
    calibration_samples,
    golden_futures,
    graph_inputs,
    predictor_writers,
    rollout_samples,
)
from jepa_export.bundling.student_graphs import write_graph
from jepa_export.bundling.variants import VariantKey, key_of
from jepa_export.distillation.frozen_encoders import BundleEncoder
from jepa_export.errors import JepaExportError
from jepa_export.quantization.accuracy_control import (
    DEFAULT_LIMITS,
    AccuracyController,
    CosineAgreement,
    HeldOutSamples,
)
from jepa_export.students.layers import unit_scale
from jepa_export.students.predictor import Predictor, PredictorConfig
from jepa_export.targets.npu import static_ir
from jepa_export.targets.openvino import Sample, compress_int8, save
from jepa_export.training.step_results import StepResults, network_hash
from jepa_runtime.bundle import GOAL_ROLES, Bundle, GoldenOutputs, Target, Variant, check_futures_size

# Lower limit of a component's standard deviation, as a fraction of that of all components.
_MIN_RELATIVE_STD = 1e-2
_UNIT_ATOL = 1e-2


class _Standardize(nn.Module):
    """Standardize components [..., n]."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = (values - self.mean) / self.spread
        return out


class ScaledPredictor(Predictor):
    """A predictor for latents that are not of unit scale.

    It standardizes its inputs, and scales the predicted change, by the standard deviation of each component
    in ``latents`` [N, T, D].
    """

    spread: Tensor

    def __init__(self, config: PredictorConfig, latents: Tensor) -> None:
        super().__init__(config)
        flat = latents.flatten(1)
        spread = flat.std(0).clamp_min(_MIN_RELATIVE_STD * float(flat.std()))
        self.embed = nn.Sequential(_Standardize(flat.mean(0), spread), self.embed)
        self.register_buffer("spread", spread.unflatten(0, latents.shape[1:]))

    def _follow(self, latents: Tensor, tokens: Tensor) -> Tensor:
        change = self.out(self.norm(tokens)).unflatten(-1, (self.config.tokens, self.config.dim))
        following: Tensor = latents + self.spread * change
        return following


def create_predictor(config: PredictorConfig, latents: Tensor) -> Predictor:
    """Create a predictor; it scales its inputs and outputs if ``latents`` [N, T, D] are not of unit scale."""
    if torch.allclose(latents, unit_scale(latents), atol=_UNIT_ATOL):
        return Predictor(config)
    return ScaledPredictor(config, latents)


def select_action_space(found: ActionSpace, bundle: Bundle) -> ActionSpace:
    """Return the action space of a bundle if the data stays within it, else that of the data.

    Only with the same action space can one model be swapped for the other while the robot drives.
    """
    stated = ActionSpace(**bundle.manifest.io.action.model_dump())
    same = (found.names, found.units) == (stated.names, stated.units)
    margins = [
        margin
        for low, high, minimum, maximum in zip(found.low, found.high, stated.low, stated.high, strict=False)
        for margin in (low - minimum, maximum - high)
    ]
    return stated if same and min(margins) >= -1e-6 * max(stated.scale) else found


def check_latent_size(bundle: Bundle, *, history: int, horizon: int, num_samples: int) -> None:
    """Check, before training, that this number of futures of the bundle's latents fits into memory limits.

    Raises:
        JepaExportError: It does not.
    """
    sizes = bundle.manifest.model_copy(update={"history_size": history, "horizon": horizon})
    try:
        check_futures_size(sizes, num_samples)
    except ValueError as error:
        latent = sizes.io.latent
        raise JepaExportError(
            f"{bundle.path}: its latents ({latent.tokens} tokens of {latent.dim}) are too large: {error}: "
            "choose a shorter --history or --horizon or fewer --num-samples, or train on the teacher itself "
            "(--encoder NAME), whose tokens are averaged",
            code="export.latents_too_large",
        ) from error


def encoder_variants(bundle: Bundle, targets: Collection[Target] | None = None) -> tuple[VariantKey, ...]:
    """Return the variants of a bundle's encoder for some targets (None: for all), the preferred first."""
    found = map(key_of, bundle.manifest.graphs.encoder)
    return tuple(key for key in found if targets is None or key[0] in targets)


def write_predictor_bundle(
    base: Bundle,
    encoder: BundleEncoder,
    predictor: nn.Module,
    clips: NDArray[np.uint8],
    folder: Path,
    settings: BundleSettings,
    identity: ModelIdentity,
    measured: MeasuredErrors,
    *,
    seed: int,
    progress: Progress,
    report: dict[str, Any],
    held_out: NDArray[np.uint8] | None = None,
    limits: CosineAgreement = DEFAULT_LIMITS,
    seen: bool = False,
    results: StepResults | None = None,
) -> Bundle:
    """Write the bundle ``folder`` with the encoder of ``base`` and another predictor.

    An existing bundle is replaced.

    Args:
        base: Bundle of the encoder.
        encoder: The same encoder as a module.
        predictor: New predictor, with the inputs and the output of the graph ``predictor``. That of a student
            gets a graph ``step`` in every variant; for any other, ``step`` is derived from ``predictor`` for
            targets with fixed shapes, and INT8 quantizes weights alone.
        clips: uint8 [C, n, px, px, 3] to calibrate the predictor on, of at least ``history_size`` frames.
        folder: Destination.
        settings: Settings of the bundle.
        identity: Identity of the weights.
        measured: Error statistics.
        seed: Seed of the actions to calibrate on.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
        report: Content of report.json, extended by the results of the build.
        held_out: See :func:`~jepa_export.bundling.student_bundle.write_student_bundle`.
        limits: Likewise.
        seen: Likewise.
        results: Likewise.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle, or ``base`` was changed meanwhile.
    """
    if base.manifest.graphs.energy:
        measured = replace(measured, goal_threshold=base.manifest.goal_threshold)
    variants, base_golden = settings.variants, base.golden()
    controller = AccuracyController(limits, progress, seen=seen)
    futures = golden_futures(predictor, torch.tensor(base_golden.latents), settings, seed)
    # The base may have a history that this predictor has not.
    history_actions = futures["history_actions"].numpy() if "history_actions" in futures else None
    golden = replace(
        base_golden,
        actions=futures["actions"].numpy(),
        futures=futures["futures"].numpy(),
        history_actions=history_actions,
    )

    def samples_of(films: NDArray[np.uint8], seed: int) -> dict[str, list[Sample]]:
        latents = torch.stack([encoder(torch.from_numpy(film)) for film in films])
        return calibration_samples(rollout_samples(latents, settings, seed))

    @cache
    def samples() -> dict[str, list[Sample]]:
        return samples_of(clips, seed)

    @cache
    def unseen() -> dict[str, HeldOutSamples]:
        found = {} if held_out is None else samples_of(held_out, seed + len(samples()["step"]))
        return {role: HeldOutSamples(each, controller) for role, each in found.items()}

    networks = f"{encoder.identity} {network_hash(predictor)}"
    targets = {target for target, _ in variants}
    steps = isinstance(predictor, Predictor)
    if isinstance(predictor, Predictor):
        writers = predictor_writers(predictor, samples, unseen, variants, progress)
    else:
        writers = {"predictor": _sequence_writer(predictor, samples, variants, progress)}
    inputs = graph_inputs(networks, clips, held_out, settings, controller, seed=seed)
    with build_bundle(folder, progress, results=results) as builder:
        builder.copy_graph(base, "encoder", targets)
        for role, write in writers.items():
            builder.write_graphs(role, write, inputs, controller)
        derived = {} if steps else {"step": builder.write_steps(variants)}
        _save_golden(builder, replace(golden, energy=None, relative_pose=None))
        io = base.manifest.io
        fields = create_manifest(
            identity,
            settings,
            measured,
            frame=FrameFormat(io.frame.height, io.frame.width, io.frame.mean, io.frame.std),
            latent=(io.latent.tokens, io.latent.dim),
            roles=("encoder", "predictor", *(("step",) if steps else ())),
            tolerances={precision: _tolerance(base, precision) for _, precision in variants},
            others=derived,
        )
        builder.finish(fields, report | controller.report())
        # Copied after the verification: neither these graphs nor their outputs changed since ``base``.
        for role in GOAL_ROLES:
            fields["graphs"][role] = builder.copy_graph(base, role, targets)
            for entry in fields["graphs"][role]:
                tolerance = base.manifest.golden.tolerances[entry["precision"]]
                fields["golden"]["tolerances"].setdefault(entry["precision"], tolerance.model_dump())
        _reshape_fixed_energy(builder.staging, fields)
        _save_golden(builder, golden)
        builder.seal(fields)
    return Bundle.open(folder)


def _sequence_writer(
    predictor: nn.Module,
    samples: Callable[[], dict[str, list[Sample]]],
    variants: Sequence[VariantKey],
    progress: Progress,
) -> Callable[[Path], None]:
    """Return the function that writes a predictor of whole action sequences into a folder."""

    def write(folder: Path) -> None:
        progress("predictor: writing graphs")
        write_graph(
            predictor,
            samples()["predictor"],
            "futures",
            folder,
            variants,
            free_axis=("actions",),
            quantize=compress_int8,
        )

    return write


def _reshape_fixed_energy(staging: Path, fields: dict[str, Any]) -> None:
    """Reshape the energy graphs that have fixed shapes to the number of states of this bundle."""
    latent = fields["io"]["latent"]
    shape = fields["num_samples"] * fields["horizon"], latent["tokens"], latent["dim"]
    for entry in fields["graphs"]["energy"]:
        if Variant(**entry).has_fixed_shapes:
            path = staging / entry["path"]
            model = ov.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
            save(static_ir(model, {"latents": shape}), path, halve=entry["precision"] == "fp16")


def _tolerance(base: Bundle, precision: str) -> dict[str, float]:
    """Return the wider of the tolerances of the encoder and the predictor."""
    tolerances = base.manifest.golden.tolerances.items()
    encoder = next(tolerance for name, tolerance in tolerances if name == precision)
    predictor = TOLERANCES[precision]
    return {
        "min_cosine": min(encoder.min_cosine, predictor["min_cosine"]),
        "max_abs": max(encoder.max_abs, predictor["max_abs"]),
    }


def _save_golden(builder: BundleBuilder, golden: GoldenOutputs) -> None:
    builder.save_golden_arrays({name: array for name, array in vars(golden).items() if array is not None})
