"""What all bundles that are built here share: their manifest, and how one is completed and proved.

A bundle is complete when every form of every graph computed what the network does, and the vendors' compilers
were asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import Tensor

from jepa_export.bundling.staging import commit, write_report
from jepa_export.bundling.variants import Kind, kind_of, model_path
from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD
from jepa_export.targets.vendor_compilers import Graph, ask_vendors
from jepa_runtime.bundle import (
    MAX_TEXT,
    ROLES,
    SCHEMA_VERSION,
    Bundle,
    Manifest,
    Precision,
    Target,
    Variant,
    seal,
)
from jepa_runtime.model.parity import golden_parity
from jepa_runtime.util.strict_json import describe

# A mean squared difference of latents of about unit scale: no two images of a camera differ by less.
_STILL = 1e-6
Tolerances = dict[str, dict[str, float]]
# The engine that computes each target's variants on the workstation, whatever device they are made for.
STAND_INS: dict[Target, str] = {
    "openvino": "openvino:CPU",
    "onnx": "onnxruntime:CPU",
    "npu": "openvino:CPU",
    "tensorrt": "onnxruntime:CPU",
}


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What the robot can be told, as in the manifest."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_norm: float | None

    @property
    def scale(self) -> tuple[float, ...]:
        """The largest magnitude of each component; of one that is always 0, 1."""
        return tuple(max(-low, high) or 1.0 for low, high in zip(self.low, self.high, strict=True))


# Of a model that knows none: it takes one that can only be 0.
NO_ACTIONS = Actions(names=("none",), units=("1",), low=(0.0,), high=(0.0,), max_norm=None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the bundle is told to be. W = ``history_size``, H = ``horizon``, K = ``num_samples``; ``step_s``
    is how long an action is held; ``rate_hz`` the rate of the frames; ``variants``: the forms that the bundle
    has (of :data:`~jepa_export.bundling.variants.KINDS`), the preferred first: a robot needs one."""

    actions: Actions
    history_size: int
    horizon: int
    num_samples: int
    step_s: float
    rate_hz: float
    variants: tuple[Kind, ...]
    command: str


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the manifest says of the weights; ``data`` is what they, or what was fitted here, come from."""

    model_id: str
    version: str
    trained: bool
    description: str
    licence: str
    data: str
    teacher: str | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the manifest says of errors, see :class:`jepa_runtime.bundle.Manifest`."""

    error_bounds: tuple[float, ...]
    surprise_threshold: float
    goal_threshold: float

    @classmethod
    def nothing(cls, horizon: int) -> Measured:
        """Zeros, which only a bundle of random weights may have."""
        return cls(error_bounds=(0.0,) * horizon, surprise_threshold=0.0, goal_threshold=0.0)


def besides_manifest(found: Any) -> dict[str, Any]:
    """Of a dataclass with what was measured, all that :class:`Measured` leaves out: the manifest alone says
    the rest, and calibration draws it anew."""
    told = asdict(found)
    for field in fields(Measured):
        told.pop(field.name, None)
    return told


def write_golden(folder: Path, *, latents: Tensor, **others: Tensor) -> None:
    """Write golden.npz: ``latents``, of which the last is the goal, and ``others``, named as in
    :class:`jepa_runtime.bundle.GoldenOutputs`."""
    tensors = others | {"latents": latents, "goal": latents[-1:]}
    np.savez_compressed(folder / "golden.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})


def manifest(
    identity: Identity,
    settings: Settings,
    measured: Measured,
    *,
    px: int,
    latent: tuple[int, int],
    roles: Sequence[str],
    tolerances: Tolerances,
) -> dict[str, Any]:
    """The manifest's fields. ``px`` is the side of the frame, ``latent`` its tokens and their width;
    ``tolerances`` by precision."""
    tokens, dim = latent
    graphs = {
        role: [
            {"target": kind[0], "precision": kind[1], "path": model_path(role, kind)}
            for kind in settings.variants
        ]
        for role in roles
    }
    stated = asdict(identity)
    provenance = {"data": manifest_text(stated.pop("data")), "teacher": stated.pop("teacher")}
    return {
        **stated,
        "release_seq": 1,
        "provenance": provenance | {"commit": commit(), "command": manifest_text(settings.command)},
        "io": {
            "frame": {
                "height": px,
                "width": px,
                "channels": 3,
                "layout": "NHWC",
                "dtype": "uint8",
                "color": "rgb",
                "rate_hz": settings.rate_hz,
                "mean": list(PIXEL_MEAN),
                "std": list(PIXEL_STD),
            },
            "latent": {"tokens": tokens, "dim": dim, "dtype": "float32"},
            "action": asdict(settings.actions),
            "step_s": settings.step_s,
        },
        "history_size": settings.history_size,
        "horizon": settings.horizon,
        "num_samples": settings.num_samples,
        "graphs": {"energy": []} | graphs,
        **asdict(measured),
        "golden": {
            "path": "golden.npz",
            "tolerances": {precision: tolerances[precision] for _, precision in settings.variants},
        },
    }


def check_fields(fields: dict[str, Any]) -> None:
    """Refuse, before hours of training, what :func:`manifest` gives if it makes no valid manifest.

    Raises:
        JepaExportError: it does not; the message says which field, and why.
    """
    forms = [Variant(**form) for graph in fields["graphs"].values() for form in graph]
    paths = {fields["golden"]["path"], *(path for form in forms for path in form.paths)}
    files = [{"path": path, "bytes": 0, "sha256": "0" * 64} for path in sorted(paths)]
    try:
        Manifest.model_validate_json(json.dumps(fields | {"schema_version": SCHEMA_VERSION, "files": files}))
    except ValidationError as error:
        raise JepaExportError(f"of this no bundle can be made: {describe(error)}") from error


def manifest_text(text: str) -> str:
    """Text that may name files and grow with the data, as a manifest takes it: in UTF-8, and cut."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 2] + " …"


def complete(
    staging: Path, fields: dict[str, Any], report: dict[str, Any], progress: Callable[[str], None]
) -> None:
    """Make a bundle of ``staging``, where the graphs and golden.npz lie, and prove it.

    Args:
        fields: of :func:`manifest`.
        report: for report.json, besides what is found here.
        progress: told in words what comes next.

    Raises:
        JepaExportError: a form does not compute what the network does.
        BundleError: these files and fields make no valid bundle.
    """
    if fields["trained"] and fields["goal_threshold"] < _STILL:
        progress(
            "WARNING: in most of the clips that were measured nothing changes from one step to the next, so "
            f"no goal will count as reached (goal_threshold {fields['goal_threshold']:.2g}): give recordings "
            "in which the robot moves, and leave out those in which it stands"
        )
    every = [(role, Variant(**each)) for role in ROLES for each in fields["graphs"].get(role, ())]
    prove(staging, fields, every, report, progress)


def prove(
    staging: Path,
    fields: dict[str, Any] | Manifest,
    graphs: Sequence[Graph],
    report: dict[str, Any],
    progress: Callable[[str], None],
    *,
    compile_blobs: bool = True,
) -> Bundle:
    """Seal ``staging``, check that ``graphs`` reproduce the golden outputs, and compile them with the
    vendors' compilers.

    Args:
        fields: of :func:`manifest`.
        graphs: those to check, of the encoder and of all others.
        report: for report.json, extended by what is found here.
        progress: called with the next step in words.
        compile_blobs: whether NPU variants are compiled ahead of time.

    Raises:
        JepaExportError: a variant does not compute what the network does.
        BundleError: these files and fields make no valid bundle.
    """
    progress("whether each graph reproduces the golden outputs")
    write_report(staging, report)
    bundle = seal(staging, fields)
    kinds = [kind_of(variant) for role, variant in graphs if role == "encoder"]
    rows = [row for kind in kinds for row in golden_rows(bundle, *kind)]
    report = report | {"parity": [*report.get("parity", ()), *rows]}
    compiled = [graph for graph in graphs if compile_blobs or graph[1].target != "npu"]
    for target, said in ask_vendors(staging, compiled, bundle.manifest.num_samples, progress).items():
        before = report.get(target, {"graphs": []})["graphs"]
        report[target] = said | {"graphs": [*before, *said["graphs"]]}
    write_report(staging, report)
    return seal(staging, bundle.manifest)


def golden_rows(bundle: Bundle, target: Target, precision: Precision) -> list[dict[str, Any]]:
    """How closely each graph of one variant reproduces the golden outputs, as rows of report.json.

    Raises:
        JepaExportError: not within the bundle's tolerances.
    """
    rows = []
    for found in golden_parity(bundle, engine=STAND_INS[target], precision=precision, target=target):
        if not found.ok:
            raise JepaExportError(
                f"the {precision} {found.graph} for {target} does not compute what the network does: "
                f"{found.figures}; nothing was written"
            )
        rows.append(
            {
                "graph": found.graph,
                "target": target,
                "precision": precision,
                "min_cosine": found.min_cosine,
                "max_abs": found.max_abs,
                "change_error": found.change_error,
            }
        )
    return rows
