"""The sessions that serve a bundle: which variant of each graph, compiled for which shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from jepa_runtime.backends.base import Array, Backend, Graph, Links, Session, Shape
from jepa_runtime.bundle import ROLES, Bundle, Manifest, Role, Variant
from jepa_runtime.bundle.manifest import blob_path, check_futures_size, origin_path
from jepa_runtime.errors import BackendError, BundleError, JepaRuntimeError

_Tensors = dict[str, tuple[Shape, type[np.generic]]]
# OpenVINO 2026.4 crashes the process when it compiles a quantized predictor for 2 to 8 candidates; 1, and 9
# and more, are fine. A few idle candidates cost next to nothing.
_FEWEST_CANDIDATES = 16


@dataclass(frozen=True)
class Sessions:
    """The sessions of one open model.

    ``predict_one`` follows one candidate, for one step if the bundle has a graph for that, and ``energy_one``
    judges one state, so that these cost no more than that. ``energy_of_futures`` judges what the predictor
    left on the device, where the engine can do that. ``encoder_sha256`` is of the encoder's files.
    ``variants``: which one of each graph was compiled.
    """

    precision: str
    variants: Mapping[Role, Variant]
    encoder_sha256: str
    encoder: Session
    predictor: Session
    predict_one: Session
    energy: Session | None
    energy_one: Session | None
    energy_of_futures: Session | None

    def close(self) -> None:
        """Close all."""
        energies = self.energy_of_futures, self.energy, self.energy_one
        for session in (*energies, self.predict_one, self.predictor, self.encoder):
            if session is not None:
                session.close()


def runnable_precisions(manifest: Manifest, targets: tuple[str, ...]) -> list[str]:
    """The precisions in which an engine that runs ``targets`` can run the model, the bundle's order kept."""
    offered = [variant.precision for variant in manifest.graphs.encoder if variant.target in targets]
    return list(dict.fromkeys(offered))


def open_sessions(bundle: Bundle, backend: Backend, precision: str | None, num_samples: int) -> Sessions:
    """Compile the graphs of a bundle.

    Args:
        precision: int8, fp16 or fp32; None: the first that the backend can run.
        num_samples: K of the predictor.

    Raises:
        BundleError: the bundle has nothing for this backend in this precision.
        BackendError: the graphs cannot be run, or are not what the manifest says.
        JepaRuntimeError: ``num_samples`` is out of range.
    """
    manifest = bundle.manifest
    _check_num_samples(bundle, num_samples)
    precision = _choose_precision(bundle, backend, precision)
    variants = {
        role: _choose(manifest, role, backend, precision) for role in ROLES if manifest.graphs.of(role)
    }
    with ExitStack() as opened:

        def load(role: Role, *sizes: int) -> list[Session]:
            graph = _graph(bundle, variants[role])
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

        (encoder,) = load("encoder", 1)
        *ones, predictor = load("predictor", *_sizes(manifest, num_samples))
        (one,) = load("step", 1) if manifest.graphs.step else ones or [predictor]
        energy = energy_one = of_futures = None
        if manifest.graphs.energy:
            energy, energy_one = load("energy", num_samples * manifest.horizon, 1)
            if isinstance(energy, Links) and (of_futures := energy.link("latents", predictor, "futures")):
                opened.callback(of_futures.close)
        encoder_sha256 = _sha256(manifest, variants["encoder"])
        opened.pop_all()
        return Sessions(
            precision=precision,
            variants=variants,
            encoder_sha256=encoder_sha256,
            encoder=encoder,
            predictor=predictor,
            predict_one=one,
            energy=energy,
            energy_one=energy_one,
            energy_of_futures=of_futures,
        )


def graphs(
    bundle: Bundle, backend: Backend, precision: str, num_samples: int
) -> dict[Role, tuple[Graph, dict[str, Shape]]]:
    """Encoder and predictor with the shapes of their inputs, as :func:`open_sessions` compiles them.

    Raises:
        BundleError: the bundle has nothing for this backend in this precision, or was changed meanwhile.
        JepaRuntimeError: ``num_samples`` is out of range.
    """
    _check_num_samples(bundle, num_samples)
    precision = _choose_precision(bundle, backend, precision)
    sizes: dict[Role, int] = {"encoder": 1, "predictor": _sizes(bundle.manifest, num_samples)[-1]}
    found: dict[Role, tuple[Graph, dict[str, Shape]]] = {}
    for role, size in sizes.items():
        inputs, _ = _tensors(bundle.manifest, role, size)
        shapes = {name: shape for name, (shape, _) in inputs.items()}
        found[role] = _graph(bundle, _choose(bundle.manifest, role, backend, precision)), shapes
    return found


def _sizes(manifest: Manifest, num_samples: int) -> list[int]:
    """For how many candidates the predictor is compiled: all; first for one, where no graph is for that."""
    if num_samples == 1:
        return [1]
    many = max(num_samples, _FEWEST_CANDIDATES)
    return [many] if manifest.graphs.step else [1, many]


def _check_num_samples(bundle: Bundle, num_samples: int) -> None:
    if num_samples < 1:
        raise JepaRuntimeError(f"num_samples must be at least 1, got {num_samples}")
    try:
        check_futures_size(bundle.manifest, num_samples)
    except ValueError as error:
        raise JepaRuntimeError(f"{bundle.path}: {error}: ask for fewer samples") from error


def _choose_precision(bundle: Bundle, backend: Backend, precision: str | None) -> str:
    offered = runnable_precisions(bundle.manifest, backend.targets)
    if not offered or (precision is not None and precision not in offered):
        kinds = ", ".join(entry.label for entry in bundle.manifest.graphs.encoder)
        wanted = f" in {precision}" if precision else ""
        raise BundleError(
            f"{bundle.path}: has nothing that {backend.engine} can run{wanted}; it has: {kinds}; "
            f"{backend.engine} runs graphs for: {', '.join(backend.targets)}"
        )
    return precision or offered[0]


def _choose(manifest: Manifest, role: Role, backend: Backend, precision: str) -> Variant:
    variants = [variant for variant in manifest.graphs.of(role) if variant.target in backend.targets]
    # An energy graph need not come in every precision; it is small, and what it is given counts.
    fitting = [variant for variant in variants if variant.precision == precision] or variants
    return min(fitting, key=lambda variant: backend.targets.index(variant.target))


def _sha256(manifest: Manifest, variant: Variant) -> str:
    digests = {record.path: record.sha256 for record in manifest.files}
    return hashlib.sha256("".join(digests[path] for path in variant.paths).encode()).hexdigest()


def _graph(bundle: Bundle, variant: Variant) -> Graph:
    model, *weights = (bundle.read(path) for path in variant.paths)
    name = str(bundle.path / variant.path)

    def blob(platform: str) -> tuple[bytes, bytes] | None:
        path = blob_path(variant.path, platform)
        listed = {record.path for record in bundle.manifest.files}
        needed = path, origin_path(path)
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
    """Inputs and outputs of a graph; ``size`` is the K of the predictor and the N of the energy."""
    frame, latent = manifest.io.frame, (manifest.io.latent.tokens, manifest.io.latent.dim)
    history_size, horizon, actions = manifest.history_size, manifest.horizon, manifest.action_size
    if role == "encoder":
        return (
            {"frame": ((1, frame.height, frame.width, frame.channels), np.uint8)},
            {"latent": ((1, *latent), np.float32)},
        )
    if role == "energy":
        return (
            {"latents": ((size, *latent), np.float32), "goal": ((1, *latent), np.float32)},
            {"energy": ((size,), np.float32)},
        )
    if role == "step":
        horizon = 1
    inputs: _Tensors = {
        "history_latents": ((1, history_size, *latent), np.float32),
        "actions": ((size, horizon, actions), np.float32),
    }
    if history_size > 1:
        inputs["history_actions"] = ((1, history_size - 1, actions), np.float32)
    return inputs, {"futures": ((size, horizon, *latent), np.float32)}


def _check_tensors(graph: str, kind: str, found: Mapping[str, Array], expected: _Tensors) -> None:
    for name, (shape, dtype) in expected.items():
        if name not in found:
            raise BackendError(
                f"{graph}: has no {kind} {name}, only {', '.join(found)}: export the model again"
            )
        array = found[name]
        if array.shape != shape or array.dtype != dtype:
            raise BackendError(
                f"{graph}: {kind} {name} is {array.dtype} {list(array.shape)}, the manifest makes it "
                f"{np.dtype(dtype)} {list(shape)}: export the model again"
            )
