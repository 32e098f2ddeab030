"""A new predictor on the encoder of a bundle: of that bundle stays what latents and goals mean.

Encoder and energy graph are taken over file by file, in every form, and so are their golden outputs: a robot
can go on with the latents that it has, and planners with the energies they know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.bundling.manifest_fields import Actions, Identity, Measured, Settings, complete, manifest
from jepa_export.bundling.staging import staged
from jepa_export.bundling.student_bundle import TOLERANCES, calibration, golden_futures, rollouts
from jepa_export.bundling.student_graphs import write_predictor, write_step
from jepa_export.bundling.variants import Kind, kind_of, model_path
from jepa_export.distillation.frozen_encoders import BundleEncoder
from jepa_export.errors import JepaExportError
from jepa_export.quantization.accuracy_control import DEFAULT_LIMITS, Closeness, Control, Held
from jepa_export.students.layers import unit_scale
from jepa_export.students.predictor import Predictor, PredictorConfig
from jepa_export.targets.npu import static_ir
from jepa_export.targets.openvino import Sample, save
from jepa_runtime.bundle import Bundle, GoldenOutputs, Role, Tolerance, seal
from jepa_runtime.bundle.manifest import check_futures_size

# Of the spread of all numbers: so little, one that never changes is taken to have.
_LEAST_SPREAD = 1e-2
_UNIT_ATOL = 1e-2


class _Standard(nn.Module):
    """Numbers [..., n] in units of their spread, from their mean."""

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = (values - self.mean) / self.spread
        return out


class ScaledPredictor(Predictor):
    """A predictor of latents that have a scale of their own: it reads them, and says what changes, in units
    of how much each of their numbers varies in ``latents`` [N, T, D]."""

    def __init__(self, config: PredictorConfig, latents: Tensor) -> None:
        super().__init__(config)
        flat = latents.flatten(1)
        spread = flat.std(0).clamp_min(_LEAST_SPREAD * float(flat.std()))
        self.embed = nn.Sequential(_Standard(flat.mean(0), spread), self.embed)
        self.register_buffer("spread", spread.unflatten(0, latents.shape[1:]))

    def _follow(self, latents: Tensor, tokens: Tensor) -> Tensor:
        change = self.out(self.norm(tokens)).unflatten(-1, (self.config.tokens, self.config.dim))
        following: Tensor = latents + self.spread * change
        return following


def predictor_for(config: PredictorConfig, latents: Tensor) -> Predictor:
    """A predictor of latents like ``latents`` [N, T, D]: of unit scale where all of these are."""
    if torch.allclose(latents, unit_scale(latents), atol=_UNIT_ATOL):
        return Predictor(config)
    return ScaledPredictor(config, latents)


def actions_for(found: Actions, bundle: Bundle) -> Actions:
    """The actions of a bundle if those of the data are the same and within its limits: only then can one
    model take the other's place while the robot drives. Else those of the data."""
    stated = Actions(**bundle.manifest.io.action.model_dump())
    same = (found.names, found.units) == (stated.names, stated.units)
    margins = [
        margin
        for low, high, least, most in zip(found.low, found.high, stated.low, stated.high, strict=False)
        for margin in (low - least, most - high)
    ]
    return stated if same and min(margins) >= -1e-6 * max(stated.scale) else found


def check_size(bundle: Bundle, *, history: int, horizon: int, num_samples: int) -> None:
    """Refuse to train on latents of which so many futures do not fit.

    Raises:
        JepaExportError: they do not.
    """
    sizes = bundle.manifest.model_copy(update={"history_size": history, "horizon": horizon})
    try:
        check_futures_size(sizes, num_samples)
    except ValueError as error:
        latent = sizes.io.latent
        raise JepaExportError(
            f"{bundle.path}: its latents ({latent.tokens} tokens of {latent.dim}) are too large for this: "
            f"{error}: ask for a shorter --history or --horizon or fewer --num-samples, or train on the "
            "teacher itself (--encoder NAME), whose tokens are averaged"
        ) from error


def kinds_of(bundle: Bundle) -> tuple[Kind, ...]:
    """The forms of its encoder, the preferred first."""
    return tuple(map(kind_of, bundle.manifest.graphs.encoder))


def write_grafted(
    base: Bundle,
    encoder: BundleEncoder,
    predictor: Predictor,
    clips: NDArray[np.uint8],
    folder: Path,
    settings: Settings,
    identity: Identity,
    measured: Measured,
    *,
    seed: int,
    progress: Callable[[str], None],
    report: dict[str, Any],
    held_out: NDArray[np.uint8] | None = None,
    limits: Closeness = DEFAULT_LIMITS,
    seen: bool = False,
) -> Bundle:
    """Write the bundle ``folder`` (replaced if it exists) of the encoder of ``base`` and another predictor.

    Args:
        clips: uint8 [C, n, px, px, 3] to calibrate the predictor on, of at least ``history_size`` frames.
        seed: of the actions to calibrate on.
        progress: told in words what comes next.
        report: for report.json, besides what is found here.
        held_out, limits, seen: see :func:`~jepa_export.bundling.student_bundle.write_student`.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not compute what the network
            does.
        BundleError: what was made is not a valid bundle, or ``base`` was changed meanwhile.
    """
    if base.manifest.graphs.energy:
        measured = replace(measured, goal_threshold=base.manifest.goal_threshold)
    kinds, known, control = settings.variants, base.golden(), Control(limits, progress, seen=seen)
    given = golden_futures(predictor, torch.tensor(known.latents), settings, seed)
    # The base may have had a history, and this none.
    fresh = {"history_actions": None} | {name: tensor.numpy() for name, tensor in given.items()}
    golden = replace(known, **fresh)

    def followed(films: NDArray[np.uint8], seed: int) -> dict[str, list[Sample]]:
        latents = torch.stack([encoder(torch.from_numpy(film)) for film in films])
        return calibration(rollouts(latents, settings, seed))

    with staged(folder) as staging:
        _take_over(base, "encoder", staging)
        samples = followed(clips, seed)
        unseen = {} if held_out is None else followed(held_out, seed + len(samples["step"]))
        held = {role: Held(each, control) for role, each in unseen.items()}
        progress(f"step: its graphs, calibrated on {len(samples['step'])} samples")
        write_step(predictor, samples["step"], staging / "step", kinds, held=held.get("step"))
        progress(f"predictor: the same, calibrated on {len(samples['predictor'])} rollouts")
        write_predictor(
            predictor, samples["predictor"], staging / "predictor", kinds, held=held.get("predictor")
        )
        _write_golden(staging, replace(golden, energy=None))
        io = base.manifest.io
        fields = manifest(
            identity,
            settings,
            measured,
            px=io.frame.height,
            latent=(io.latent.tokens, io.latent.dim),
            roles=("encoder", "predictor", "step"),
            tolerances={precision: _tolerance(base, precision) for _, precision in kinds},
        )
        fields["io"]["frame"] |= {"mean": list(io.frame.mean), "std": list(io.frame.std)}
        complete(staging, fields, report | control.report(), progress)
        if base.manifest.graphs.energy:
            # Neither its graph nor what it computes has changed since the bundle was proved.
            fields["graphs"]["energy"] = _take_over(base, "energy", staging)
            for form in fields["graphs"]["energy"]:
                known = base.manifest.golden.tolerances[form["precision"]]
                fields["golden"]["tolerances"].setdefault(form["precision"], known.model_dump())
            _fix_states(staging, fields)
            _write_golden(staging, golden)
            seal(staging, fields)
    return Bundle.open(folder)


def _take_over(base: Bundle, role: Role, staging: Path) -> list[dict[str, str]]:
    """Copy every form of a graph to where this bundle has it, and say where."""
    forms = []
    for each in base.manifest.graphs.variants(role):
        where = model_path(role, kind_of(each))
        for source in each.paths:
            target = (staging / where).with_suffix(Path(source).suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(base.read(source))
        forms.append({"target": each.target, "precision": each.precision, "path": where})
    return forms


def _fix_states(staging: Path, fields: dict[str, Any]) -> None:
    """Give the energies for NPUs, whose shapes are fixed, the number of states of this bundle."""
    latent = fields["io"]["latent"]
    shape = fields["num_samples"] * fields["horizon"], latent["tokens"], latent["dim"]
    for form in fields["graphs"]["energy"]:
        if form["target"] == "npu":
            path = staging / form["path"]
            model = ov.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
            save(static_ir(model, {"latents": shape}), path, halve=form["precision"] == "fp16")


def _tolerance(base: Bundle, precision: str) -> dict[str, float]:
    """The wider of what the encoder and what the predictor need."""
    tolerances: dict[str, Tolerance] = dict(base.manifest.golden.tolerances)
    known, own = tolerances[precision], TOLERANCES[precision]
    return {
        "min_cosine": min(known.min_cosine, own["min_cosine"]),
        "max_abs": max(known.max_abs, own["max_abs"]),
    }


def _write_golden(folder: Path, golden: GoldenOutputs) -> None:
    arrays = {name: array for name, array in vars(golden).items() if array is not None}
    np.savez_compressed(folder / "golden.npz", **arrays)
