"""The fields of a manifest, as recipes describe them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from jepa_export.bundling.staging import source_commit
from jepa_export.bundling.variants import VariantKey, manifest_entries
from jepa_export.errors import JepaExportError
from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD
from jepa_runtime.bundle import MAX_TEXT, SCHEMA_VERSION, Manifest, Variant
from jepa_runtime.util import describe_problems

Tolerances = dict[str, dict[str, float]]
"""Tolerances of the golden outputs by precision."""
# Of the errors and surprises that recipes measure.
ERROR_QUANTILE = 0.9
FALSE_ALARM_RATE = 0.001


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """The actions of the robot, as in the manifest."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_norm: float | None = None

    @property
    def scale(self) -> tuple[float, ...]:
        """The largest magnitude of each component; 1 for a component that is always 0."""
        return tuple(max(-low, high) or 1.0 for low, high in zip(self.low, self.high, strict=True))


@dataclass(frozen=True)
class StateSpace:
    """The measured state of the robot that the predictor reads, as in the manifest."""

    names: tuple[str, ...]
    units: tuple[str, ...]


# For a model without actions: one component that can only be 0.
NO_ACTIONS = ActionSpace(names=("none",), units=("1",), low=(0.0,), high=(0.0,), max_norm=None)


@dataclass(frozen=True)
class FrameFormat:
    """The input image of the encoder, as in the manifest.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        mean: What the graph subtracts from each channel.
        std: What it divides each channel by.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD


@dataclass(frozen=True)
class ClipFormat:
    """The clips that the encoder reads, as in the manifest.

    Attributes:
        frames: Images in a clip.
        frames_per_step: Images in a step of the model.
        cache_shape: Shape of what a causal encoder caches of a step; None: the encoder reads whole clips.
    """

    frames: int
    frames_per_step: int
    cache_shape: tuple[int, ...] | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of the manifest, without those that earlier readers would reject."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """The shape of a bundle.

    Attributes:
        actions: Actions of the robot.
        history_size: W, frames that the predictor sees.
        horizon: H, predicted steps.
        num_samples: K, candidates that are predicted at once.
        step_s: Duration of one action.
        rate_hz: Frame rate.
        variants: Variants of :data:`~jepa_export.bundling.variants.VARIANTS`, the preferred first; a robot
            needs one.
        command: Command line for the provenance.
    """

    actions: ActionSpace
    history_size: int
    horizon: int
    num_samples: int
    step_s: float
    rate_hz: float
    variants: tuple[VariantKey, ...]
    command: str


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """What the manifest states about the weights; ``data`` is what they were trained or fitted on."""

    model_id: str
    version: str
    trained: bool
    description: str
    licence: str
    data: str
    teacher: str | None


@dataclass(frozen=True, kw_only=True)
class MeasuredErrors:
    """The error statistics in the manifest; see :class:`jepa_runtime.bundle.Manifest`."""

    error_bounds: tuple[float, ...]
    surprise_threshold: float
    goal_threshold: float

    @classmethod
    def zero(cls, horizon: int) -> MeasuredErrors:
        """Return zeros, which are valid only in a bundle with random weights."""
        return cls(error_bounds=(0.0,) * horizon, surprise_threshold=0.0, goal_threshold=0.0)


def report_fields(metrics: Any) -> dict[str, Any]:
    """Return the fields of a metrics dataclass that are not part of :class:`MeasuredErrors`.

    Only the manifest holds the others, because a later calibration replaces them there.
    """
    found = asdict(metrics)
    for field in fields(MeasuredErrors):
        found.pop(field.name, None)
    return found


def create_manifest(
    identity: ModelIdentity,
    settings: BundleSettings,
    measured: MeasuredErrors,
    *,
    frame: FrameFormat,
    latent: tuple[int, int],
    roles: Sequence[str],
    tolerances: Tolerances,
    others: Mapping[str, Sequence[dict[str, str]]] = MappingProxyType({}),
    commit: str | None = None,
    state: StateSpace | None = None,
    clip: ClipFormat | None = None,
) -> dict[str, Any]:
    """Return the fields of a manifest.

    Args:
        identity: Identity of the weights.
        settings: Settings of the bundle.
        measured: Error statistics.
        frame: Input image of the encoder.
        latent: Tokens of a latent and their width.
        roles: Graphs that the bundle has in every variant of ``settings``.
        tolerances: Tolerances by precision, for at least the precisions of all graphs.
        others: Entries by role of the graphs that have other variants than those of ``settings``.
        commit: Commit of the code that defines the model (default: that of this code).
        state: State of the robot that the predictor reads; None: none.
        clip: The clips that the encoder reads; None: it reads one image.
    """
    tokens, dim = latent
    graphs = {role: manifest_entries(role, settings.variants) for role in roles} | {
        role: list(entries) for role, entries in others.items()
    }
    precisions = dict.fromkeys(precision for _, precision in settings.variants) | dict.fromkeys(
        entry["precision"] for entries in others.values() for entry in entries
    )
    stated = asdict(identity)
    provenance = {
        "data": manifest_text(stated.pop("data")),
        "teacher": stated.pop("teacher"),
        "commit": source_commit() if commit is None else commit,
        "command": manifest_text(settings.command),
    }
    return {
        **stated,
        "release_seq": 1,
        "provenance": provenance,
        "io": {
            "frame": {
                "height": frame.height,
                "width": frame.width,
                "channels": 3,
                "layout": "NHWC",
                "dtype": "uint8",
                "color": "rgb",
                "rate_hz": settings.rate_hz,
                "mean": list(frame.mean),
                "std": list(frame.std),
            },
            **({} if clip is None else {"clip": clip.fields()}),
            "latent": {"tokens": tokens, "dim": dim, "dtype": "float32"},
            "action": asdict(settings.actions),
            **({} if state is None else {"state": asdict(state)}),
            "step_s": settings.step_s,
        },
        "history_size": settings.history_size,
        "horizon": settings.horizon,
        "num_samples": settings.num_samples,
        "graphs": {"energy": []} | graphs,
        **asdict(measured),
        "golden": {
            "path": "golden.npz",
            "tolerances": {precision: tolerances[precision] for precision in precisions},
        },
    }


def validate_manifest(fields: dict[str, Any]) -> None:
    """Validate the result of :func:`create_manifest` before hours of training depend on it.

    Raises:
        JepaExportError: A field is invalid.
    """
    variants = [Variant(**variant) for graph in fields["graphs"].values() for variant in graph]
    paths = {fields["golden"]["path"], *(path for variant in variants for path in variant.paths)}
    files = [{"path": path, "bytes": 0, "sha256": "0" * 64} for path in sorted(paths)]
    try:
        Manifest.model_validate_json(json.dumps(fields | {"schema_version": SCHEMA_VERSION, "files": files}))
    except ValidationError as error:
        raise JepaExportError(
            f"no valid bundle can be built from these settings: {describe_problems(error)}",
            code="export.invalid_settings",
        ) from error


def manifest_text(text: str) -> str:
    """Return text that may contain file names of any length as valid UTF-8, cut to the manifest's limit."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 2] + " …"
