"""Golden parity: verification that a model computes the same on this machine as when it was exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.registry import create_backend, engines_for, requires_build
from jepa_runtime.bundle import Bundle, GoldenOutputs, Role, Target, Tolerance
from jepa_runtime.errors import (
    BackendError,
    BundleError,
    JepaRuntimeError,
    UnsupportedPrecisionError,
)
from jepa_runtime.model.world_model import Futures, WorldModel
from jepa_runtime.util.opencv import load_opencv

# The largest relative error of the change that actions cause; a model that ignores actions has 1.
MAX_CHANGE_ERROR = 0.8
# Relative to the futures: smaller changes are below rounding. (With random weights, actions change 0.3 % in a
# step, and INT8 has errors of the same size.)
_MIN_CHANGE: dict[str, float] = {"fp32": 1e-4, "fp16": 3e-3, "bf16": 1e-2, "int8": 1e-2}
_TINY = 1e-12
# The column of the yaw in relative poses.
_YAW = 2
# A graph, its outputs, and the reference outputs.
_Compared = tuple[Role, NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """Represent how closely one graph reproduces its reference outputs.

    Attributes:
        graph: encoder, predictor, step, energy or relative_pose.
        precision: The requested precision.
        mean_cosine: The mean over all vectors; NaN if an output is not finite.
        min_cosine: The cosine of the worst vector (a token, all energies together, or all relative poses
            together); NaN if an output is
            not finite.
        max_abs: The largest difference of two numbers; NaN if an output is not finite.
        tolerance: The tolerance of the bundle.
        change_error: For graphs that take actions: the relative error of the change that actions cause (the
            norm of the difference, divided by that of the reference; NaN if an output is not finite). None if
            actions change almost nothing.
        dynamic_quantization_group_size: See :class:`~jepa_runtime.bundle.manifest.Variant`.
    """

    graph: str
    precision: str
    mean_cosine: float
    min_cosine: float
    max_abs: float
    tolerance: Tolerance
    change_error: float | None = None
    dynamic_quantization_group_size: int = 0

    @property
    def ok(self) -> bool:
        """Whether the graph is within the tolerance, and depends on actions as the reference does."""
        follows = self.change_error is None or self.change_error <= MAX_CHANGE_ERROR
        return follows and (
            self.min_cosine >= self.tolerance.min_cosine and self.max_abs <= self.tolerance.max_abs
        )

    @property
    def figures(self) -> str:
        """The measured and the allowed deviations, for messages."""
        changes = ""
        if self.change_error is not None:
            changes = (
                f", error of the change by actions {self.change_error:.4g} (at most {MAX_CHANGE_ERROR:g})"
            )
        return (
            f"worst cosine {self.min_cosine:.6f} (at least {self.tolerance.min_cosine:g}), "
            f"largest difference {self.max_abs:.4g} (at most {self.tolerance.max_abs:g}){changes}"
        )

    @property
    def fault(self) -> str:
        """The reason why :attr:`ok` is False, for messages."""
        what = f"{self.precision} {self.graph}"
        if math.isnan(self.max_abs):
            return f"{what} computes NaN or infinity on this machine"
        return f"{what} does not reproduce its golden outputs on this machine: {self.figures}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with null for NaN."""
        finite = not math.isnan(self.max_abs)
        return {
            "graph": self.graph,
            "precision": self.precision,
            "dynamic_quantization_group_size": self.dynamic_quantization_group_size,
            "min_cosine": self.min_cosine if finite else None,
            "max_abs": self.max_abs if finite else None,
            "change_error": self.change_error if finite else None,
            "tolerance": self.tolerance.model_dump(),
            "ok": self.ok,
        }


@dataclass(frozen=True)
class VariantCheck:
    """Represent the verification of one variant of a model: its graphs for one target in one precision.

    Attributes:
        target: The target of the variant.
        precision: The precision of the variant.
        engine: The engine that ran its graphs; None if none did.
        engine_version: The version of that engine.
        unchecked: The reason why the variant was not verified on its own device; empty if it was.
        error: The error that makes the variant unusable; None if it can be used.
        parities: The results of its graphs.
    """

    target: Target
    precision: str
    engine: str | None = None
    engine_version: str | None = None
    unchecked: str = ""
    error: BundleError | None = None
    parities: tuple[Parity, ...] = ()

    @property
    def status(self) -> str:
        """``failed``, ``not checked`` or ``checked``."""
        return "failed" if self.error else "not checked" if self.unchecked else "checked"

    @property
    def reason(self) -> str:
        """The reason for :attr:`status`; empty if the variant was checked."""
        return str(self.error or self.unchecked)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "target": self.target,
            "precision": self.precision,
            "status": self.status,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "reason": self.reason or None,
            "code": self.error.code if self.error else None,
        }


def check_variants(
    bundle: Bundle,
    *,
    engine: str | None = None,
    precision: str | None = None,
    options: BackendOptions | None = None,
) -> list[VariantCheck]:
    """Verify each variant of a bundle by golden parity, on its own device.

    If this machine has no such device, the default engine opens and runs the graphs on the CPU. This detects
    graphs that cannot be opened; the results of the device remain unverified. Variants for a target that no
    installed package declares are not opened.

    Args:
        bundle: The bundle, trained or not.
        engine: Verify only the variants that this engine uses; None: all.
        precision: Verify only this precision; None: all.
        options: The options of all engines.

    Raises:
        BackendError: The engine or device does not exist.
        BundleError: The bundle has no variant for this engine and precision.
        JepaRuntimeError: OpenCV cannot be imported.
    """
    load_opencv()
    kinds = [(variant.target, variant.precision) for variant in bundle.manifest.graphs.encoder]
    served = None if engine is None else _served(kinds, engine, options)
    requested = [
        kind
        for kind in kinds
        if (served is None or kind in served) and (precision is None or kind[1] == precision)
    ]
    if not requested:
        offered = ", ".join(f"{kind} for {target}" for target, kind in kinds)
        by = engine or "an engine"
        within = "" if precision is None else f" in {precision}"
        raise BundleError(
            f"{bundle.path}: no variant that {by} can run{within}; the bundle has: {offered}",
            code="bundle.variant_missing",
        )
    found = []
    for target, kind in kinds:
        if (target, kind) not in requested:
            other = precision is not None and kind != precision
            why = f"only {precision} was requested" if other else f"{engine} does not use it"
            found.append(VariantCheck(target, kind, unchecked=why))
        elif engine is not None:
            found.append(_check(bundle, VariantCheck(target, kind, engine), options))
        else:
            found.append(_check_on_its_device(bundle, target, kind, options))
    return found


def _served(
    kinds: Sequence[tuple[Target, str]], engine: str, options: BackendOptions | None
) -> list[tuple[Target, str]]:
    """Return the variants that an engine uses: in each precision, the one for its preferred target."""
    with closing(create_backend(engine, options)) as backend:
        order = backend.targets
    best: dict[str, Target] = {}
    for target, precision in kinds:
        if target in order:
            known = best.get(precision, target)
            best[precision] = min(known, target, key=order.index)
    return [(target, precision) for precision, target in best.items()]


def _check_on_its_device(
    bundle: Bundle, target: Target, precision: str, options: BackendOptions | None
) -> VariantCheck:
    missing = []
    declared_engines = engines_for(target)
    if not declared_engines:
        return VariantCheck(target, precision, unchecked=f"no engine for {target} is installed")
    for declared, device in declared_engines:
        engine = f"{declared.name}:{device}"
        if not declared.is_installed:
            missing.append(f"{engine} is not installed")
            continue
        try:
            create_backend(engine, options).close()
        except BackendError as error:
            missing.append(str(error))
            continue
        checked = _check(bundle, VariantCheck(target, precision, engine), options)
        # An engine that was not built yet is not a fault of the variant.
        if not (checked.error and not checked.parities and requires_build(engine)):
            return checked
        missing.append(checked.reason)
    found = VariantCheck(target, precision, DEFAULT_ENGINE, unchecked="; ".join(missing))
    return _check(bundle, found, options)


def _check(bundle: Bundle, variant: VariantCheck, options: BackendOptions | None) -> VariantCheck:
    """Run the graphs of one variant on its engine."""
    engine = variant.engine or DEFAULT_ENGINE
    try:
        with closing(create_backend(engine, options)) as backend:
            variant = replace(variant, engine_version=backend.version)
        parities = golden_parity(
            bundle, engine=engine, precision=variant.precision, target=variant.target, options=options
        )
    except UnsupportedPrecisionError as error:
        return replace(variant, engine=None, engine_version=None, unchecked=str(error))
    except JepaRuntimeError as error:
        unusable = BundleError(
            f"{variant.precision} for {variant.target} cannot be run on {engine}: {error}",
            code="bundle.variant_unusable",
        )
        return replace(variant, error=unusable)
    faults = "; ".join(parity.fault for parity in parities if not parity.ok)
    mismatch = BundleError(faults, code="bundle.golden_mismatch") if faults else None
    return replace(variant, parities=tuple(parities), error=mismatch)


def golden_parity(
    bundle: Bundle,
    *,
    engine: str,
    precision: str | None = None,
    target: Target | None = None,
    options: BackendOptions | None = None,
) -> list[Parity]:
    """Run the golden inputs through each graph separately, in all its sizes, and compare the outputs.

    Args:
        bundle: The bundle, trained or not.
        engine: ``engine:DEVICE``.
        precision: int8, fp16, bf16 or fp32; None: the first that the engine can run.
        target: Use the variants for this target; None: those that the engine prefers. See
            :meth:`jepa_runtime.WorldModel.open`.
        options: The options of the engine.

    Raises:
        BundleError: The bundle has no variant for this engine and precision, or was changed.
        BackendError: The engine or device does not exist, or cannot run the graphs.
    """
    golden = bundle.golden()
    with WorldModel.open(
        bundle,
        engine=engine,
        precision=precision,
        # The K in use: for another K an engine may compile other code.
        num_samples=max(len(golden.actions), bundle.manifest.num_samples),
        target=target,
        options=options,
        allow_untrained=True,
    ) as model:
        tolerance = next(
            value for name, value in bundle.manifest.golden.tolerances.items() if name == model.precision
        )
        return [
            Parity(
                graph,
                model.precision,
                *_difference(computed, reference),
                tolerance,
                _change_error(computed, reference, _MIN_CHANGE[model.precision])
                if graph in ("predictor", "step")
                else None,
                model.variants[graph].dynamic_quantization_group_size,
            )
            for graph, computed, reference in _outputs(model, golden)
        ]


def _outputs(model: WorldModel, golden: GoldenOutputs) -> list[_Compared]:
    latents = np.stack([model.encode(frame) for frame in golden.frames])
    pasts = golden.latents[golden.history_indices(model.manifest.history_size)]

    goal = golden.goal[0]

    def predict(actions: NDArray[np.float32]) -> list[Futures]:
        return [
            model.predict(
                actions,
                latents=past,
                history_actions=golden.history_actions,
                history_states=golden.history_states,
                goal=goal,
            )
            for past in pasts
        ]

    def predict_latents(actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([each.latents for each in predict(actions)])

    found: list[_Compared] = [("encoder", latents, golden.latents)]
    predicted = predict(golden.actions)
    futures = np.stack([each.latents for each in predicted])
    # One candidate has its own graph, or is another size of the predictor.
    if "step" in model.variants:
        steps = [predict_latents(action[None, :1]) for action in golden.actions]
        found.append(("predictor", futures, golden.futures))
        found.append(("step", np.concatenate(steps, axis=1), golden.futures[:, :, :1]))
    else:
        every = np.concatenate([futures, predict_latents(golden.actions[-1:])], axis=1)
        expected = np.concatenate([golden.futures, golden.futures[:, -1:]], axis=1)
        found.append(("predictor", every, expected))
    if golden.energy is not None:
        # Energies of single states, and of futures together: on some engines on the device, and via the host.
        twice = np.concatenate([golden.latents, golden.latents])
        singly = np.stack([model.energy(latent, goal) for latent in golden.latents])
        states = np.concatenate([singly, model.energy(twice, goal)]).reshape(3, -1)
        there = np.stack([each.energies for each in predicted if each.energies is not None])
        on_device, via_host = (
            each.reshape(len(pasts), -1).T for each in (there, model.energy(futures, goal))
        )
        expected = np.concatenate([np.stack([golden.energy] * 3), via_host])
        found.append(("energy", np.concatenate([states, on_device]), expected))
    if golden.relative_pose is not None:
        found.append(("relative_pose", *_poses(model, golden.latents, goal, golden.relative_pose)))
    return found


def _poses(
    model: WorldModel, latents: NDArray[np.float32], goal: NDArray[np.float32], golden: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the poses of single states and of several together, and the reference; all in one vector."""
    reference = np.concatenate([golden] * 3)
    try:
        singly = np.stack([model.relative_poses(latent, goal) for latent in latents])
        poses = np.concatenate([singly, model.relative_poses(np.concatenate([latents, latents]), goal)])
    except BackendError as error:
        if error.code != "backend.output_not_finite":
            raise
        poses = np.full_like(reference, np.nan)
    # A yaw of -180 degrees is one of 180.
    yaw = reference[:, _YAW]
    poses[:, _YAW] = yaw + np.remainder(poses[:, _YAW] - yaw + np.pi, 2 * np.pi) - np.pi
    return poses.reshape(1, -1), reference.reshape(1, -1)


def _difference(computed: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float, float]:
    if not np.isfinite(computed).all():
        return float("nan"), float("nan"), float("nan")
    ours, theirs = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (computed, reference))
    found = cosines(ours, theirs)
    return float(found.mean()), float(found.min()), float(np.abs(ours - theirs).max())


def _change_error(
    computed: NDArray[np.float32], reference: NDArray[np.float32], least: float
) -> float | None:
    """Return the relative error of the differences between candidates of futures [n, K, H, T, D].

    None if the differences are less than ``least`` times the reference.
    """
    ours, theirs = (array - array.mean(axis=1, keepdims=True) for array in (computed, reference))
    change = float(np.linalg.norm(theirs))
    if change <= least * float(np.linalg.norm(reference)):
        return None
    return float(np.linalg.norm(ours - theirs)) / change


def cosines(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosines [...] of vectors [..., D]; that of two zero vectors is 1."""
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    both_zero = (np.abs(ours).max(axis=-1) < _TINY) & (np.abs(theirs).max(axis=-1) < _TINY)
    return np.where(both_zero, 1.0, (ours * theirs).sum(axis=-1) / np.maximum(norms, _TINY))
