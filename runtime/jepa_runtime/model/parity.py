"""Whether a model computes on this machine what it computed when it was exported: parity with the golden
outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.registry import create_backend, is_installed, takes_building
from jepa_runtime.bundle import Bundle, GoldenOutputs, Role, Target, Tolerance
from jepa_runtime.errors import (
    BackendError,
    BundleError,
    JepaRuntimeError,
    UnsupportedPrecisionError,
)
from jepa_runtime.model.world_model import Futures, WorldModel
from jepa_runtime.util.opencv import load_opencv

# Greatest error of the change that actions make, as a share of it; a model that ignores actions has 1.
MOST_CHANGE_ERROR = 0.8
# Of the futures: what changes less drowns in rounding. (At random weights actions change 0.3 % in a step, and
# INT8 is off by up to all of that.)
_LEAST_CHANGE: dict[str, float] = {"fp32": 1e-4, "fp16": 3e-3, "bf16": 1e-2, "int8": 1e-2}
_TINY = 1e-12
# A graph, what it computes and what it should.
_Compared = tuple[Role, NDArray[np.float32], NDArray[np.float32]]
# The engines that run the variants for a target; the first that is usable here checks them.
_ENGINES: dict[Target, tuple[str, ...]] = {
    "openvino": ("openvino:CPU",),
    "onnx": ("onnxruntime:CPU", "openvino:CPU"),
    "npu": ("openvino:NPU",),
    "tensorrt": ("tensorrt", "tensorrt_rtx"),
}
# Reads the graphs for devices that are not here.
_STAND_IN = "openvino:CPU"


@dataclass(frozen=True)
class Parity:
    """How closely one graph reproduces its reference.

    Attributes:
        graph: encoder, predictor, step or energy.
        precision: that was asked for.
        dynamic_quantization_group_size: of the variant, see :class:`~jepa_runtime.bundle.manifest.Variant`.
        mean_cosine: over all vectors; NaN if an output is not finite.
        min_cosine: cosine of the worst vector (a token, or all energies together); NaN if an output is not
        finite.
        max_abs: the largest difference of two numbers; NaN if an output is not finite.
        tolerance: what the bundle allows.
        change_error: of a graph that follows actions: how far off is what they change (the norm of the
            difference, as a share of the reference's; NaN if an output is not finite). None where they change
            next to nothing.
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
        """Whether it is within the tolerance, and follows actions."""
        follows = self.change_error is None or self.change_error <= MOST_CHANGE_ERROR
        return follows and (
            self.min_cosine >= self.tolerance.min_cosine and self.max_abs <= self.tolerance.max_abs
        )

    @property
    def figures(self) -> str:
        """What was found and what is allowed, for messages."""
        changes = ""
        if self.change_error is not None:
            changes = f", change by actions off by {self.change_error:.4g} (at most {MOST_CHANGE_ERROR:g})"
        return (
            f"worst cosine {self.min_cosine:.6f} (at least {self.tolerance.min_cosine:g}), "
            f"largest difference {self.max_abs:.4g} (at most {self.tolerance.max_abs:g}){changes}"
        )

    @property
    def fault(self) -> str:
        """Why it is not :attr:`ok`, for messages."""
        what = f"{self.precision} {self.graph}"
        if math.isnan(self.max_abs):
            return f"{what} computes NaN or infinity on this machine"
        return f"{what} does not reproduce its golden outputs on this machine: {self.figures}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN: null instead."""
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
    """What was found of one variant of a model: its graphs for one target in one precision.

    Attributes:
        target, precision: of the variant.
        engine, engine_version: that ran its graphs; None: none did.
        unchecked: why the variant was not checked on a device that it is made for; empty: it was.
        fault: why the variant cannot be used; empty if nothing is wrong with it.
        parities: of its graphs.
    """

    target: Target
    precision: str
    engine: str | None = None
    engine_version: str | None = None
    unchecked: str = ""
    fault: str = ""
    parities: tuple[Parity, ...] = ()

    @property
    def status(self) -> str:
        """``failed``, ``not checked`` or ``checked``."""
        return "failed" if self.fault else "not checked" if self.unchecked else "checked"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.target,
            "precision": self.precision,
            "status": self.status,
            "engine": self.engine,
            "engine_version": self.engine_version,
            "reason": self.fault or self.unchecked or None,
        }


def check_variants(
    bundle: Bundle,
    *,
    engine: str | None = None,
    precision: str | None = None,
    options: BackendOptions | None = None,
) -> list[VariantCheck]:
    """Check each variant of a bundle by golden parity, on a device that it is made for.

    Where this machine has no such device, OpenVINO opens and runs the graphs on the CPU. This finds graphs
    that cannot be opened; what the device computes stays unchecked.

    Args:
        bundle: trained or not.
        engine: check the variants that this engine serves, and no other; None: all.
        precision: check this precision only; None: all.
        options: of all engines.

    Raises:
        BackendError: there is no such engine or device.
        BundleError: the bundle has nothing for this engine and precision.
        JepaRuntimeError: OpenCV cannot be imported.
    """
    load_opencv()
    kinds = [(variant.target, variant.precision) for variant in bundle.manifest.graphs.encoder]
    served = None if engine is None else _served(kinds, engine, options)
    wanted = [
        kind
        for kind in kinds
        if (served is None or kind in served) and (precision is None or kind[1] == precision)
    ]
    if not wanted:
        offered = ", ".join(f"{kind} for {target}" for target, kind in kinds)
        by = engine or "an engine"
        within = "" if precision is None else f" in {precision}"
        raise BundleError(f"{bundle.path}: has nothing that {by} can run{within}; it has: {offered}")
    found = []
    for target, kind in kinds:
        if (target, kind) not in wanted:
            other = precision is not None and kind != precision
            why = f"only {precision} was requested" if other else f"{engine} does not serve it"
            found.append(VariantCheck(target, kind, unchecked=why))
        elif engine is not None:
            found.append(_check(bundle, VariantCheck(target, kind, engine), options))
        else:
            found.append(_check_on_its_device(bundle, target, kind, options))
    return found


def _served(
    kinds: Sequence[tuple[Target, str]], engine: str, options: BackendOptions | None
) -> list[tuple[Target, str]]:
    """Of variants for several targets in one precision, an engine serves one."""
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
    for engine in _ENGINES[target]:
        if not is_installed(engine):
            missing.append(f"{engine} is not installed")
            continue
        try:
            create_backend(engine, options).close()
        except BackendError as error:
            missing.append(str(error))
            continue
        checked = _check(bundle, VariantCheck(target, precision, engine), options)
        # An engine that was not built yet is no fault of the variant.
        if not (checked.fault and not checked.parities and takes_building(engine)):
            return checked
        missing.append(checked.fault)
    found = VariantCheck(target, precision, _STAND_IN, unchecked="; ".join(missing))
    return _check(bundle, found, options)


def _check(bundle: Bundle, variant: VariantCheck, options: BackendOptions | None) -> VariantCheck:
    """Run the graphs of one variant on its engine."""
    engine = variant.engine or _STAND_IN
    try:
        with closing(create_backend(engine, options)) as backend:
            variant = replace(variant, engine_version=backend.version)
        parities = golden_parity(
            bundle, engine=engine, precision=variant.precision, target=variant.target, options=options
        )
    except UnsupportedPrecisionError as error:
        return replace(variant, engine=None, engine_version=None, unchecked=str(error))
    except JepaRuntimeError as error:
        kind = f"{variant.precision} for {variant.target}"
        return replace(variant, fault=f"{kind} cannot be run on {engine}: {error}")
    fault = "; ".join(parity.fault for parity in parities if not parity.ok)
    return replace(variant, parities=tuple(parities), fault=fault)


def golden_parity(
    bundle: Bundle,
    *,
    engine: str,
    precision: str | None = None,
    target: Target | None = None,
    options: BackendOptions | None = None,
) -> list[Parity]:
    """Run the golden inputs through each graph by itself, in every size in which it serves, and compare with
    the reference outputs.

    Args:
        bundle: trained or not.
        engine: ``engine:DEVICE``.
        precision: int8, fp16, bf16 or fp32; None: the first that the engine can run.
        target: the variants for this target; None: for those that the engine prefers. See
            :meth:`jepa_runtime.WorldModel.open`.

    Raises:
        BundleError: the bundle has nothing for this engine and precision, or was changed meanwhile.
        BackendError: no such engine or device, or it cannot run the graphs.
    """
    golden = bundle.golden()
    with WorldModel.open(
        bundle,
        engine=engine,
        precision=precision,
        # The graph as it will serve: another K is another graph, which an engine may compile to other code.
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
                _change_error(computed, reference, _LEAST_CHANGE[model.precision])
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
        told = golden.history_actions
        return [model.predict(actions, latents=past, history_actions=told, goal=goal) for past in pasts]

    def follow(actions: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([each.latents for each in predict(actions)])

    found: list[_Compared] = [("encoder", latents, golden.latents)]
    predicted = predict(golden.actions)
    futures = np.stack([each.latents for each in predicted])
    # One candidate has a graph of its own, or is another size of the predictor.
    if "step" in model.variants:
        steps = [follow(action[None, :1]) for action in golden.actions]
        found.append(("predictor", futures, golden.futures))
        found.append(("step", np.concatenate(steps, axis=1), golden.futures[:, :, :1]))
    else:
        every = np.concatenate([futures, follow(golden.actions[-1:])], axis=1)
        expected = np.concatenate([golden.futures, golden.futures[:, -1:]], axis=1)
        found.append(("predictor", every, expected))
    if golden.energy is not None:
        # States are judged singly, and futures together: by some engines where they lie, as if handed over.
        twice = np.concatenate([golden.latents, golden.latents])
        singly = np.stack([model.energy(latent, goal) for latent in golden.latents])
        states = np.concatenate([singly, model.energy(twice, goal)]).reshape(3, -1)
        there = np.stack([each.energies for each in predicted if each.energies is not None])
        left, handed = (each.reshape(len(pasts), -1).T for each in (there, model.energy(futures, goal)))
        expected = np.concatenate([np.stack([golden.energy] * 3), handed])
        found.append(("energy", np.concatenate([states, left]), expected))
    return found


def _difference(computed: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float, float]:
    if not np.isfinite(computed).all():
        return float("nan"), float("nan"), float("nan")
    ours, theirs = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (computed, reference))
    found = cosines(ours, theirs)
    return float(found.mean()), float(found.min()), float(np.abs(ours - theirs).max())


def _change_error(
    computed: NDArray[np.float32], reference: NDArray[np.float32], least: float
) -> float | None:
    """Of futures [n, K, H, T, D]: what differs between candidates. None where that is less than this share of
    the reference."""
    ours, theirs = (array - array.mean(axis=1, keepdims=True) for array in (computed, reference))
    change = float(np.linalg.norm(theirs))
    if change <= least * float(np.linalg.norm(reference)):
        return None
    return float(np.linalg.norm(ours - theirs)) / change


def cosines(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines [...] of vectors [..., D]; two vectors of zeros agree."""
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    both_zero = (np.abs(ours).max(axis=-1) < _TINY) & (np.abs(theirs).max(axis=-1) < _TINY)
    return np.where(both_zero, 1.0, (ours * theirs).sum(axis=-1) / np.maximum(norms, _TINY))
