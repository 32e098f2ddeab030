"""The bundle of any encoder and predictor that torch can export, or that ONNX files contain."""

from __future__ import annotations

import copy
import inspect
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import jepa_runtime
from jepa_export.bundling.add_variants import describe_agreement, measure_agreement
from jepa_export.bundling.builder import BundleBuilder, build_bundle
from jepa_export.bundling.bundle_networks import (
    ActionFreePredictor,
    L1Energy,
    Normalization,
    NormalizedEncoder,
    PredictorInputs,
    PrefixPredictor,
    UnrolledPredictor,
)
from jepa_export.bundling.manifest_fields import (
    NO_ACTIONS,
    ActionSpace,
    BundleSettings,
    MeasuredErrors,
    ModelIdentity,
    create_manifest,
    report_fields,
    validate_manifest,
)
from jepa_export.bundling.network_checks import (
    check_encoder,
    check_energy,
    check_predictor,
    check_prefix_predictor,
    export_errors,
    run_errors,
)
from jepa_export.bundling.network_files import file_facts, load_network
from jepa_export.bundling.staging import check_output, source_commit
from jepa_export.bundling.student_bundle import (
    GOLDEN_FRAMES,
    TOLERANCES,
    calibration_samples,
    golden_futures,
    rollout_samples,
    sample_candidates,
)
from jepa_export.bundling.student_graphs import write_graph
from jepa_export.bundling.variants import (
    DEFAULT_TARGETS,
    VariantKey,
    goal_variants,
    manifest_entries,
    needs_step,
    variants_for,
)
from jepa_export.data.action_statistics import measure as measure_actions
from jepa_export.data.batches import Batch
from jepa_export.data.clip_windows import Windows
from jepa_export.data.recording import Recording
from jepa_export.distillation import clip_metrics
from jepa_export.errors import JepaExportError
from jepa_export.quantization.accuracy_control import AccuracyController, HeldOutSamples, limits_of
from jepa_export.targets.openvino import Sample, compress_int8
from jepa_export.targets.registry import SOURCE
from jepa_export.targets.registry import targets as all_targets
from jepa_runtime.bundle import Bundle
from jepa_runtime.imaging import Image

_NUM_SAMPLES = 64
_ROLES = ("encoder", "predictor")
_PACKAGES = ("torch", "onnx", "openvino", "nncf", "numpy")
_COMPARED_CLIPS = 2
# Of the range of an action component: rounding.
_OUTSIDE = 1e-6
_PREDICTORS: dict[
    PredictorInputs, type[UnrolledPredictor] | type[ActionFreePredictor] | type[PrefixPredictor]
] = {
    "one_step": UnrolledPredictor,
    "action_free": ActionFreePredictor,
    "action_prefixes": PrefixPredictor,
}


def export_bundle(
    path: Path | str,
    *,
    encoder: nn.Module | Path | str,
    predictor: nn.Module | Path | str,
    energy: nn.Module | Path | str | None = None,
    frame_size: tuple[int, int],
    normalize: Normalization,
    actions: ActionSpace | None,
    action_prefixes: bool = False,
    step_s: float,
    horizon: int,
    history: int = 1,
    num_samples: int | None = None,
    calibration: Sequence[Recording],
    held_out: Sequence[Recording],
    targets: Sequence[str] = DEFAULT_TARGETS,
    model_id: str,
    version: str,
    description: str,
    license: str,
    data: str,
    teacher: str | None = None,
    trained: bool = True,
    int8_cosine: float = 0.99,
    seed: int = 0,
    command: str | None = None,
    commit: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Bundle:
    """Write the bundle ``path`` of an encoder and a predictor; an existing bundle is replaced.

    Each network is a torch module, or the path of an ONNX file with the same inputs and output under any
    names. Modules are copied to the CPU, in fp32 and evaluation mode. All networks are checked. Error bounds
    and thresholds are measured on ``held_out``. Every variant must reproduce the outputs of the networks, as
    `jepa-runtime verify` checks it, or nothing is written.

    Args:
        path: Folder of the bundle.
        encoder: Network from float32 images [N, 3, height, width] to latents [N, T, D].
        predictor: Network of one step, from latents [K, W, T, D] and actions [K, W, A], oldest first, to the
            next latent [K, T, D]. Action i is in force from latent i on, in the units of ``actions``: a
            network that was trained on scaled actions must scale them itself. It is applied ``horizon``
            times. Without actions, it gets the latents alone. For all steps in one call, see
            ``action_prefixes``.
        energy: Network from latents [N, T, D] and a goal [1, T, D] to energies [N], which are low at the goal
            (default: the mean absolute difference, as in V-JEPA 2-AC).
        frame_size: Height and width of the images in pixels.
        normalize: Normalization that the encoder expects.
        actions: Names, units and limits of an action; None: the predictor predicts from the history alone,
            and recordings need no actions. The manifest then has one action that can only be 0.
        action_prefixes: The predictor returns the latents after every prefix of the actions in one call
            (Fast-LeWM, arXiv:2606.26217): from latents [1, W, T, D], which all candidates share, actions
            [K, H, A], the first in force from the newest latent on, and, if W is not 1, the actions between
            the latents [1, W-1, A], to [K, H, T, D]. Latent i must depend on no action after action i.
        step_s: Duration of one step in seconds.
        horizon: H, predicted steps.
        history: W, latents that the predictor sees.
        num_samples: K, candidates that are predicted at once (default: 64; without actions 1, because all
            candidates have the same future).
        calibration: Recordings to calibrate on, such as :class:`~jepa_export.ArrayRecording`.
        held_out: Recordings to measure on, none of which the networks were trained or calibrated on.
        targets: Targets of the bundle. All but ``onnx`` have an INT8 variant.
        model_id: Id of the model: lower case letters, digits and underscores.
        version: Version, as in Semantic Versioning.
        description: What the model is for.
        license: SPDX identifier of the license of the weights.
        data: What the networks were trained on.
        teacher: What they were distilled from.
        trained: Whether the weights are trained; the runtime serves others only on request, and no errors are
            measured.
        int8_cosine: Minimum of the mean cosine between the encoder in INT8 and fp32 on ``held_out``.
        seed: Seed of the candidates to calibrate on.
        command: What the provenance states as the command (default: this function and the calling file).
        commit: Commit of the code of the networks (default: that of the calling file, or ``unknown``).
        progress: Called with each step in words.

    Returns:
        The bundle, opened.

    Raises:
        JepaExportError: An argument or a network is not usable (``network.*``, ``export.*``), a recording is
            not (``data.*``), or a variant does not reproduce the networks.
        BundleError: The result is not a valid bundle.
    """
    folder = Path(path)
    caller = _calling_file()
    check_output(folder)
    action_free = actions is None
    if action_free and action_prefixes:
        raise JepaExportError(
            "action_prefixes: without actions there are no prefixes of them: pass a predictor of one step",
            code="export.invalid_settings",
        )
    inputs: PredictorInputs = (
        "action_free" if action_free else "action_prefixes" if action_prefixes else "one_step"
    )
    if num_samples is None:
        num_samples = 1 if action_free else _NUM_SAMPLES
    settings = BundleSettings(
        actions=NO_ACTIONS if actions is None else actions,
        history_size=history,
        horizon=horizon,
        num_samples=num_samples,
        step_s=step_s,
        rate_hz=1.0,
        variants=_variants(targets),
        command=f"jepa_export.export_bundle in {caller.name}" if command is None else command,
    )
    identity = ModelIdentity(
        model_id=model_id,
        version=version,
        trained=trained,
        description=description,
        licence=license,
        data=data,
        teacher=teacher,
    )
    fields_of = _ManifestFields(
        identity, normalize, frame_size, source_commit(caller) if commit is None else commit
    )
    limits = limits_of(int8_cosine)
    # Before anything is read: these errors need no data.
    validate_manifest(fields_of(settings, MeasuredErrors.zero(horizon), (1, 1)))
    given = {
        "encoder": encoder,
        "predictor": predictor,
        "energy": L1Energy() if energy is None else energy,
    }
    parts = {role: _network(role, network, inputs) for role, network in given.items()}
    files = {role: file_facts(Path(each)) for role, each in given.items() if not isinstance(each, nn.Module)}
    _check_recordings(calibration, held_out, frame_size, actions)
    clips, unseen = (
        Windows(recordings, frames=history + horizon, rate_hz=1 / step_s, actions=not action_free)
        for recordings in (calibration, held_out)
    )
    settings = replace(settings, rate_hz=clips.camera_hz)
    if actions is not None:
        _warn_of_limits(clips, actions, progress)
    networks = _Networks(
        NormalizedEncoder(parts["encoder"], fields_of.frame),
        _PREDICTORS[inputs](parts["predictor"]),
        parts["energy"],
        history,
    ).eval()
    progress("checking the networks")
    latent = _check_networks(networks, unseen, settings, progress)
    validate_manifest(fields_of(settings, MeasuredErrors.zero(horizon), latent))
    controller = AccuracyController(limits, progress)
    with build_bundle(folder, progress) as builder:
        measured = MeasuredErrors.zero(horizon)
        report: dict[str, Any] = {}
        if trained:
            count = min(len(unseen), clip_metrics.MEASURED_CLIPS)
            progress(f"measuring on {count} held-out clips of {history + horizon} frames")
            measured, report = _measure(networks, unseen, progress)
        _write_graphs(networks, clips, unseen, builder, settings, controller, seed)
        golden = _golden_outputs(networks, unseen, settings, seed)
        builder.write_golden_outputs(**golden)
        report |= {
            "normalization": {"mean": normalize.mean, "std": normalize.std},
            "versions": _versions(),
            **({"onnx_files": files} if files else {}),
        }
        fields = fields_of(settings, measured, latent, scale=_scale(golden))
        with run_errors():
            bundle = builder.finish(fields, report | controller.report())
        if trained:
            report = bundle.report() | _agreement(networks, unseen, bundle, settings, progress, seed)
            builder.write_report(report)
            builder.seal(bundle.manifest)
    return Bundle.open(folder)


class _Networks(nn.Module):
    """The graphs of the bundle; a :class:`~jepa_export.distillation.clip_metrics.ClipPredictor`."""

    def __init__(
        self,
        encoder: NormalizedEncoder,
        predictor: UnrolledPredictor | ActionFreePredictor | PrefixPredictor,
        energy: nn.Module,
        history: int,
    ) -> None:
        super().__init__()
        self.encoder, self.predictor, self.energy = encoder, predictor, energy
        self.history = history

    def encode(self, clips: Image) -> Tensor:
        """Return the latents [B, n, T, D] of clips uint8 [B, n, height, width, 3]."""
        return torch.stack([self.encoder(torch.from_numpy(clip)) for clip in clips])

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        latents = self.encode(batch.frames)
        if batch.actions is None:
            return latents, latents.new_zeros(*latents.shape[:2], len(NO_ACTIONS.names))
        return latents, torch.from_numpy(batch.actions)

    def roll_out(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Predict one clip."""
        size = self.history
        between = actions[:, : size - 1] if size > 1 else None
        futures: Tensor = self.predictor(latents[:, :size], actions[:, size - 1 : -1], between)
        return futures


class _ManifestFields:
    """Create the manifest of this model from what becomes known in the course of the export."""

    def __init__(
        self,
        identity: ModelIdentity,
        normalize: Normalization,
        frame_size: tuple[int, int],
        commit: str,
    ) -> None:
        self.frame = normalize.frame_format(*frame_size)
        self._identity, self._commit = identity, commit

    def __call__(
        self,
        settings: BundleSettings,
        measured: MeasuredErrors,
        latent: tuple[int, int],
        *,
        scale: float = 1.0,
    ) -> dict[str, Any]:
        """Return the fields; tolerances, which are for outputs of unit scale, are multiplied by ``scale``."""
        tolerances = {
            precision: tolerance | {"max_abs": tolerance["max_abs"] * scale}
            for precision, tolerance in TOLERANCES.items()
        }
        steps = [key for key in settings.variants if needs_step(key)]
        return create_manifest(
            self._identity,
            settings,
            measured,
            frame=self.frame,
            latent=latent,
            roles=_ROLES,
            tolerances=tolerances,
            others={
                "step": manifest_entries("step", steps),
                "energy": manifest_entries("energy", goal_variants(settings.variants)),
            },
            commit=self._commit,
        )


def _calling_file() -> Path:
    """Return the file that called :func:`export_bundle`; in an interactive session a name without a file."""
    return Path(inspect.stack(0)[2].filename)


def _variants(names: Sequence[str]) -> tuple[VariantKey, ...]:
    if not names or (unknown := [name for name in names if name not in all_targets()]):
        raise JepaExportError(
            f"targets: {', '.join(unknown) if names else 'none given'}: choose from "
            f"{', '.join(all_targets())}",
            code="export.unknown_target",
        )
    return variants_for(tuple(dict.fromkeys(names)), None)


def _network(role: str, network: nn.Module | Path | str, inputs: PredictorInputs) -> nn.Module:
    """Return what computes a network: a copy of a module, or a loaded ONNX file."""
    if isinstance(network, nn.Module):
        return _copied(role, network)
    return load_network(role, Path(network), predictor=inputs)


def _copied(role: str, module: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in fp32 and without gradients: the caller's network stays as it is."""
    try:
        return copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    # A network may hold anything, such as an open file.
    except Exception as error:
        raise JepaExportError(
            f"{role}: cannot be copied: {error}: pass a torch.nn.Module that holds only parameters, buffers "
            "and settings",
            code="network.not_copyable",
        ) from error


def _check_recordings(
    calibration: Sequence[Recording],
    held_out: Sequence[Recording],
    frame_size: tuple[int, int],
    actions: ActionSpace | None,
) -> None:
    """Check that recordings fit the model and each other; a model without actions ignores those recorded."""
    for which, recordings in (("calibration", calibration), ("held_out", held_out)):
        if not recordings:
            raise JepaExportError(
                f"{which}: contains no recording: pass at least one"
                f"{'' if actions is None else ' with actions'}",
                code="data.no_recordings",
            )
        for recording in recordings:
            if (recording.height, recording.width) != tuple(frame_size):
                raise JepaExportError(
                    f"{recording.name}: frames are {recording.width} x {recording.height}, the encoder "
                    f"expects {frame_size[1]} x {frame_size[0]} (width x height): "
                    "resize the frames",
                    code="data.size_mismatch",
                )
            found = recording.action_names, recording.action_units
            if actions is not None and found != (actions.names, actions.units):
                raise JepaExportError(
                    f"{recording.name}: actions are {found[0] or 'none'} in {found[1] or 'no unit'}, those "
                    f"of the model {actions.names} in {actions.units}: select the same components in the "
                    "same order and units",
                    code="data.action_mismatch",
                )
    known = {recording.identity for recording in calibration}
    if twice := [recording.name for recording in held_out if recording.identity in known]:
        raise JepaExportError(
            f"held_out: {twice[0]} is a calibration recording as well, so its errors are not those of unseen "
            "data: pass other recordings",
            code="data.held_out_overlap",
        )


def _warn_of_limits(clips: Windows, actions: ActionSpace, progress: Callable[[str], None]) -> None:
    found = measure_actions(clips)
    assert found is not None
    limits = zip(actions.names, actions.low, actions.high, actions.scale, found.low, found.high, strict=True)
    for name, low, high, scale, lowest, highest in limits:
        if lowest < low - _OUTSIDE * scale or highest > high + _OUTSIDE * scale:
            progress(
                f"WARNING: recorded actions {name} reach from {lowest:g} to {highest:g}, outside the limits "
                f"{low:g} to {high:g}: the planner never proposes these"
            )


@torch.no_grad()
def _check_networks(
    networks: _Networks, clips: Windows, settings: BundleSettings, progress: Callable[[str], None]
) -> tuple[int, int]:
    """Check all networks on one clip, and return the tokens of a latent and their width."""
    clip = clip_metrics.some_clips(clips, 1)
    frames = torch.from_numpy(clip.frames[0])
    latents = check_encoder(networks.encoder, frames)
    size = settings.history_size
    histories = latents.unfold(0, size, 1).movedim(-1, 1)[:2]
    predictor = networks.predictor
    if isinstance(predictor, ActionFreePredictor):
        check_predictor(predictor.step, histories, None)
        depends = True
    elif isinstance(predictor, PrefixPredictor):
        before, candidates = _executed(settings, size - 1), _executed(settings, settings.horizon)
        known = before[:1] if size > 1 else None
        depends = check_prefix_predictor(predictor.network, histories[:1], candidates, known)
    else:
        depends = check_predictor(predictor.step, histories, _executed(settings, size))
    if not depends:
        progress("WARNING: the prediction does not depend on the action, so planning cannot choose one")
    check_energy(networks.energy, latents)
    return latents.shape[1], latents.shape[2]


def _executed(settings: BundleSettings, count: int) -> Tensor:
    """Return two different sequences of actions [2, count, A]."""
    candidates = sample_candidates(replace(settings, horizon=max(settings.horizon, count)), 2, 1)
    return torch.from_numpy(candidates[:, :count])


@torch.no_grad()
def _measure(
    networks: _Networks, clips: Windows, progress: Callable[[str], None]
) -> tuple[MeasuredErrors, dict[str, Any]]:
    """Return the errors on held-out clips, and the entries of the report.

    A goal is reached at half the median energy between two frames one step apart.
    """
    metrics = clip_metrics.measure(networks, clips)
    metrics.report("held-out", progress)
    latents = networks.encode(clip_metrics.some_clips(clips, clip_metrics.COMPARED_CLIPS).frames)
    changes = [
        networks.energy(now, following)
        for clip in latents
        for now, following in zip(clip[:-1].split(1), clip[1:].split(1), strict=True)
    ]
    measured = MeasuredErrors(
        error_bounds=tuple(metrics.error_bounds),
        surprise_threshold=metrics.surprise_threshold,
        goal_threshold=float(torch.cat(changes).median()) / 2,
    )
    names = {"held_out": True, "recordings": [recording.name for recording in clips.used]}
    return measured, {"open_loop": report_fields(metrics) | names}


@torch.no_grad()
def _write_graphs(
    networks: _Networks,
    clips: Windows,
    unseen: Windows,
    builder: BundleBuilder,
    settings: BundleSettings,
    controller: AccuracyController,
    seed: int,
) -> None:
    folder, variants = builder.staging, settings.variants
    seen = clip_metrics.calibration_clips(clips)
    with export_errors("encoder"):
        write_graph(
            networks.encoder,
            _frames(seen),
            "latent",
            folder / "encoder",
            variants,
            held_out=HeldOutSamples(_frames(clip_metrics.calibration_clips(unseen)), controller),
        )
    latents = networks.encode(seen)
    with export_errors("predictor"):
        write_graph(
            networks.predictor,
            calibration_samples(rollout_samples(latents, settings, seed))["predictor"],
            "futures",
            folder / "predictor",
            variants,
            free_axis=("actions",),
            # Errors accumulate over the steps: activations stay in fp32.
            quantize=compress_int8,
        )
        builder.write_steps(variants)
    with export_errors("energy"):
        count = settings.num_samples * settings.horizon
        flat = latents.flatten(0, 1).numpy()
        pairs = {"latents": np.resize(flat, (count, *flat.shape[1:])), "goal": flat[-1:]}
        write_graph(
            networks.energy,
            [pairs],
            "energy",
            folder / "energy",
            goal_variants(variants),
            free_axis=("latents",),
        )


def _frames(clips: Image) -> list[Sample]:
    return [{"frame": frame[None]} for clip in clips for frame in clip]


@torch.no_grad()
def _golden_outputs(
    networks: _Networks, clips: Windows, settings: BundleSettings, seed: int
) -> dict[str, Tensor]:
    found = clip_metrics.calibration_clips(clips)
    frames = found.reshape(-1, *found.shape[2:])
    frames = np.ascontiguousarray(frames[:: max(1, len(frames) // GOLDEN_FRAMES)][:GOLDEN_FRAMES])
    latents = networks.encoder(torch.from_numpy(frames))
    return {
        "frames": torch.from_numpy(frames),
        "latents": latents,
        "energy": networks.energy(latents, latents[-1:]),
        **golden_futures(networks.predictor, latents, settings, seed + 1),
    }


@torch.no_grad()
def _agreement(
    networks: _Networks,
    clips: Windows,
    bundle: Bundle,
    settings: BundleSettings,
    progress: Callable[[str], None],
    seed: int,
) -> dict[str, Any]:
    """Compare the variants with fp32 on held-out clips; return the entry of the report.

    Without fp32 ONNX graphs in the bundle there is nothing to compare with.
    """
    others = [key for key in settings.variants if key != SOURCE]
    if SOURCE not in settings.variants or not others:
        return {}
    found = clip_metrics.some_clips(clips, _COMPARED_CLIPS).frames
    frames = found.reshape(-1, *found.shape[2:])
    progress(f"comparing each variant with fp32 on {len(frames)} held-out frames")
    rollouts = rollout_samples(networks.encode(found), settings, seed + 2)
    rows = measure_agreement(bundle, others, frames, calibration_samples(rollouts)["predictor"])
    if all(row["error_of_bound"] is not None for row in rows):
        progress(describe_agreement(others, rows))
    return {"agreement": rows}


def _scale(golden: dict[str, Tensor]) -> float:
    """Return the root mean square of the largest outputs, at least 1."""
    outputs = (golden[name] for name in ("latents", "futures", "energy"))
    return max(1.0, *(float(output.square().mean().sqrt()) for output in outputs))


def _versions() -> dict[str, str]:
    """Return the versions of what exported the networks."""
    packages = {name: installed_version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "jepa-edge": jepa_runtime.__version__} | packages
