"""The sessions of a bundle: selection of a variant of each graph, and compilation for fixed shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from jepa_runtime.backends.base import Array, Backend, Graph, LinkableSession, Session, Shape
from jepa_runtime.bundle import GOAL_ROLES, ROLES, Bundle, Manifest, Role, Target, Variant
from jepa_runtime.bundle.manifest import (
    POSE_BATCH,
    POSE_SIZE,
    blob_metadata_path,
    blob_path,
    check_futures_size,
    compiled_candidates,
)
from jepa_runtime.errors import BackendError, BundleError, JepaRuntimeError

_Tensors = dict[str, tuple[Shape, type[np.generic]]]


@dataclass(frozen=True)
class CompiledGraphs:
    """Represent the sessions of one open model.

    Attributes:
        precision: The precision.
        variants: The compiled variant of each graph.
        encoder_sha256: The hash of the encoder's files.
        energy_sha256: The hash of the energy's files; empty without an energy graph.
        encoder: Encodes one frame, one clip, or one step of a clip whose other steps are cached.
        predictor: Predicts K candidates over H steps.
        predict_one: Predicts one candidate, over one step if there is a step graph. It is a separate session
            if that is cheaper.
        energy: Computes the energies of K x H states; None if the bundle has no energy graph.
        energy_one: Computes the energy of one state; a separate session if that is cheaper.
        energy_of_futures: Computes the energies of the predictor's output on the device; None if the engine
            cannot.
        relative_pose: Reads the poses of a goal in the frames of several states; None if the bundle has no
            relative pose graph.
        relative_pose_one: Reads the pose in the frame of one state; a separate session if that is cheaper.
    """

    precision: str
    variants: Mapping[Role, Variant]
    encoder_sha256: str
    energy_sha256: str
    encoder: Session
    predictor: Session
    predict_one: Session
    energy: Session | None
    energy_one: Session | None
    energy_of_futures: Session | None
    relative_pose: Session | None
    relative_pose_one: Session | None

    def close(self) -> None:
        """Close all sessions."""
        energies = self.energy_of_futures, self.energy, self.energy_one
        poses = self.relative_pose, self.relative_pose_one
        for session in (*poses, *energies, self.predict_one, self.predictor, self.encoder):
            if session is not None:
                session.close()


def runnable_precisions(manifest: Manifest, targets: Sequence[str]) -> list[str]:
    """Return the precisions that an engine for ``targets`` can run, in order of preference.

    Those of the preferred target are first, each in the order of the bundle. bf16, which few CPUs support, is
    used only if it is requested.
    """
    return [precision for precision in _offered(manifest, targets) if precision != "bf16"]


def _offered(manifest: Manifest, targets: Sequence[str]) -> list[str]:
    encoders = manifest.graphs.encoder
    return list(
        dict.fromkeys(each.precision for target in targets for each in encoders if each.target == target)
    )


def open_sessions(
    bundle: Bundle,
    backend: Backend,
    precision: str | None,
    num_samples: int,
    target: Target | None = None,
) -> CompiledGraphs:
    """Compile the graphs of a bundle.

    Args:
        bundle: The bundle.
        backend: The engine on its device.
        precision: int8, fp16, bf16 or fp32; None: the first that the backend can run.
        num_samples: K of the predictor.
        target: Use only the variants for this target, regardless of the preference of the backend.

    Raises:
        BundleError: The bundle has no variant for this backend in this precision.
        BackendError: The graphs cannot be run, or contradict the manifest.
        JepaRuntimeError: ``num_samples`` is out of range.
    """
    manifest = bundle.manifest
    chosen = _choose(bundle, backend, precision, num_samples, target)
    with ExitStack() as opened:

        def load(role: Role, *sizes: int) -> list[Session]:
            graph = _graph(bundle, chosen.variants[role])
            sessions = []
            for size in sizes:
                inputs, outputs = _tensors(manifest, role, size)
                shapes = {name: shape for name, (shape, _) in inputs.items()}
                session = backend.load(graph, shapes, rows=("actions",) if role == "predictor" else ())
                opened.callback(session.close)
                _check_tensors(graph.name, "input", session.inputs, inputs)
                _check_tensors(graph.name, "output", session.outputs, outputs)
                sessions.append(session)
            return sessions

        def load_optional(role: Role) -> tuple[Session | None, Session | None]:
            """Return the sessions for several states and for one."""
            if role not in chosen.variants:
                return None, None
            several, *one = load(role, *chosen.sizes[role])
            return several, one[0] if one else several

        (encoder,) = load("encoder", 1)
        *ones, predictor = load("predictor", *chosen.sizes["predictor"])
        (one,) = load("step", *chosen.sizes["step"]) if "step" in chosen.variants else ones or [predictor]
        energy, energy_one = load_optional("energy")
        of_futures = None
        if isinstance(energy, LinkableSession) and (
            of_futures := energy.link("latents", predictor, "futures")
        ):
            opened.callback(of_futures.close)
        relative_pose, relative_pose_one = load_optional("relative_pose")
        encoder_sha256 = _sha256(manifest, chosen.variants["encoder"])
        energy_sha256 = _sha256(manifest, chosen.variants["energy"]) if "energy" in chosen.variants else ""
        opened.pop_all()
        return CompiledGraphs(
            precision=chosen.precision,
            variants=chosen.variants,
            encoder_sha256=encoder_sha256,
            energy_sha256=energy_sha256,
            encoder=encoder,
            predictor=predictor,
            predict_one=one,
            energy=energy,
            energy_one=energy_one,
            energy_of_futures=of_futures,
            relative_pose=relative_pose,
            relative_pose_one=relative_pose_one,
        )


def graphs(
    bundle: Bundle, backend: Backend, precision: str, num_samples: int
) -> dict[Role, tuple[Graph, dict[str, Shape]]]:
    """Return encoder and predictor with the shapes of their inputs, as :func:`open_sessions` compiles them.

    Raises:
        BundleError: The bundle has no variant for this backend in this precision, or was changed.
        JepaRuntimeError: ``num_samples`` is out of range.
    """
    chosen = _choose(bundle, backend, precision, num_samples, None)
    found: dict[Role, tuple[Graph, dict[str, Shape]]] = {}
    roles: tuple[Role, ...] = ("encoder", "predictor")
    for role in roles:
        inputs, _ = _tensors(bundle.manifest, role, chosen.sizes[role][-1])
        shapes = {name: shape for name, (shape, _) in inputs.items()}
        found[role] = _graph(bundle, chosen.variants[role]), shapes
    return found


@dataclass(frozen=True)
class _Chosen:
    """Represent the chosen variant of each graph, and the sizes for which it is compiled.

    Sizes are the K of predictor and step, and the N of energy and relative pose.
    """

    precision: str
    variants: dict[Role, Variant]
    sizes: dict[Role, list[int]]


def _choose(
    bundle: Bundle, backend: Backend, precision: str | None, num_samples: int, target: Target | None
) -> _Chosen:
    manifest, targets = bundle.manifest, backend.targets if target is None else (target,)
    _check_num_samples(bundle, num_samples)
    precision = _choose_precision(bundle, backend, targets, precision)
    variants: dict[Role, Variant] = {}
    for role in ROLES:
        offered = [variant for variant in manifest.graphs.variants(role) if variant.target in targets]
        if role == "step":
            predictor = variants["predictor"]
            offered = [each for each in offered if _kind(each) == _kind(predictor)]
        # Energy and relative pose need not exist in every precision: they are small, and their inputs matter
        # more.
        fitting = [variant for variant in offered if variant.precision == precision] or offered
        if fitting:
            variants[role] = min(fitting, key=lambda variant: targets.index(variant.target))
    # Fixed shapes are for the num_samples of the bundle; unused candidates are ignored.
    fixed = {role: variant.has_fixed_shapes for role, variant in variants.items()}
    limit = compiled_candidates(manifest.num_samples)
    if fixed["predictor"] and num_samples > limit:
        raise BundleError(
            f"{bundle.path}: its predictor for {variants['predictor'].target} has fixed shapes, for {limit} "
            f"candidates, and {num_samples} were requested: request at most {limit}",
            code="bundle.variant_missing",
        )
    count = limit if fixed["predictor"] else compiled_candidates(num_samples)
    sizes: dict[Role, list[int]] = {
        "encoder": [1],
        "predictor": [count] if count == 1 or "step" in variants else [1, count],
        "step": [1],
        "energy": [num_samples * manifest.horizon, 1],
        "relative_pose": [POSE_BATCH] if fixed.get("relative_pose") else [POSE_BATCH, 1],
    }
    if fixed.get("energy"):
        sizes["energy"] = [manifest.num_samples * manifest.horizon]
    return _Chosen(precision, variants, sizes)


def _kind(variant: Variant) -> tuple[str, str]:
    return variant.target, variant.precision


def _check_num_samples(bundle: Bundle, num_samples: int) -> None:
    if num_samples < 1:
        raise JepaRuntimeError(
            f"num_samples must be at least 1, got {num_samples}", code="model.num_samples_invalid"
        )
    try:
        check_futures_size(bundle.manifest, num_samples)
    except ValueError as error:
        raise JepaRuntimeError(
            f"{bundle.path}: {error}: request fewer samples", code="model.num_samples_invalid"
        ) from error


def _choose_precision(bundle: Bundle, backend: Backend, targets: Sequence[str], precision: str | None) -> str:
    chosen = precision or next(iter(runnable_precisions(bundle.manifest, targets)), None)
    if chosen is None or chosen not in _offered(bundle.manifest, targets):
        kinds = ", ".join(entry.label for entry in bundle.manifest.graphs.encoder)
        requested = f" in {precision}" if precision else ""
        raise BundleError(
            f"{bundle.path}: no variant that {backend.engine} can run{requested}; the bundle has: {kinds}; "
            f"{backend.engine} runs variants for: {', '.join(targets)}",
            code="bundle.variant_missing",
        )
    return chosen


def _sha256(manifest: Manifest, variant: Variant) -> str:
    digests = {record.path: record.sha256 for record in manifest.files}
    return hashlib.sha256("".join(digests[path] for path in variant.paths).encode()).hexdigest()


def _graph(bundle: Bundle, variant: Variant) -> Graph:
    model, *weights = (bundle.read(path) for path in variant.paths)
    name = str(bundle.path / variant.path)

    def blob(platform: str) -> tuple[bytes, bytes] | None:
        path = blob_path(variant.path, platform)
        listed = {record.path for record in bundle.manifest.files}
        needed = path, blob_metadata_path(path)
        return (bundle.read(needed[0]), bundle.read(needed[1])) if listed.issuperset(needed) else None

    return Graph(
        name,
        model,
        weights[0] if weights else None,
        variant.precision,
        variant.dynamic_quantization_group_size,
        blob,
    )


def _tensors(manifest: Manifest, role: Role, size: int) -> tuple[_Tensors, _Tensors]:
    """Return inputs and outputs of a graph.

    ``size`` is the K of the predictor, or the N of energy and relative pose.
    """
    frame, latent = manifest.io.frame, (manifest.io.latent.tokens, manifest.io.latent.dim)
    history_size, horizon, actions = manifest.history_size, manifest.horizon, manifest.action_size
    if role == "encoder":
        clip = manifest.io.clip
        images = 1 if clip is None else clip.frames_per_call
        read: _Tensors = {"frame": ((images, frame.height, frame.width, frame.channels), np.uint8)}
        written: _Tensors = {"latent": ((1, *latent), np.float32)}
        if clip is not None and clip.cache_shape is not None:
            read["cache"] = ((clip.cached_steps, *clip.cache_shape), np.float32)
            read["positions"] = ((clip.steps,), np.float32)
            written["entry"] = ((1, *clip.cache_shape), np.float32)
        return read, written
    if role in GOAL_ROLES:
        values = () if role == "energy" else (POSE_SIZE,)
        return (
            {"latents": ((size, *latent), np.float32), "goal": ((1, *latent), np.float32)},
            {role: ((size, *values), np.float32)},
        )
    if role == "step":
        horizon = 1
    inputs: _Tensors = {
        "history_latents": ((1, history_size, *latent), np.float32),
        "actions": ((size, horizon, actions), np.float32),
    }
    if history_size > 1:
        inputs["history_actions"] = ((1, history_size - 1, actions), np.float32)
    if manifest.state_size:
        inputs["history_states"] = ((1, history_size, manifest.state_size), np.float32)
    return inputs, {"futures": ((size, horizon, *latent), np.float32)}


def _check_tensors(graph: str, kind: str, found: Mapping[str, Array], expected: _Tensors) -> None:
    for name, (shape, dtype) in expected.items():
        if name not in found:
            raise BackendError(
                f"{graph}: has no {kind} {name}, only {', '.join(found)}: export the model again",
                code="backend.graph_mismatch",
            )
        array = found[name]
        if array.shape != shape or array.dtype != dtype:
            raise BackendError(
                f"{graph}: {kind} {name} is {array.dtype} {list(array.shape)}, expected by the manifest is "
                f"{np.dtype(dtype)} {list(shape)}: export the model again",
                code="backend.graph_mismatch",
            )
