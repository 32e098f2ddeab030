"""Action sequences as users write them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.candidates import default_candidates
from jepa_runtime.replay.names import FAN, FORMS

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ActionSequence:
    """Actions [H, A] in SI units, with a label."""

    label: str
    actions: Floats


def sequences(spec: str, manifest: Manifest, *, horizon: int, num_samples: int) -> list[ActionSequence]:
    """Return the action sequences of ``spec``, each with ``horizon`` steps.

    The last action of a shorter sequence is held until the end.

    Args:
        spec: One of :data:`FORMS` except ``executed``, which needs a recording.
        manifest: Manifest of the model.
        horizon: Number of steps, at most the model's horizon.
        num_samples: Number of default candidates (``fan``).

    Raises:
        JepaRuntimeError: It is not one of these, or the model cannot evaluate it: actions of another size,
            beyond its limits or not finite, or too many steps.
    """
    if spec == FAN:
        candidates = default_candidates(manifest, num_samples)[:, :horizon]
        return [ActionSequence(f"{FAN} ({_formatted(actions[0])})", actions) for actions in candidates]
    path = Path(spec)
    label = path.name if path.suffix in _READERS else spec
    raw = _read_file(path) if path.suffix in _READERS else _parse(spec)
    try:
        given = np.array(raw, np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise JepaRuntimeError(
            f"{spec}: not an array of numbers: {error}", code="replay.invalid_actions"
        ) from error
    given = given[None] if given.ndim == 2 else given
    _check(spec, given, manifest, horizon)
    tail = np.repeat(given[:, -1:], horizon - given.shape[1], axis=1)
    padded = np.concatenate([given, tail], axis=1)
    labels = [label] if len(padded) == 1 else [f"{label} {index}" for index in range(len(padded))]
    return [ActionSequence(name, actions) for name, actions in zip(labels, padded, strict=True)]


def _formatted(action: Floats) -> str:
    return ",".join(f"{round(float(component), 2) + 0.0:g}" for component in action)


def _check(spec: str, given: Floats, manifest: Manifest, horizon: int) -> None:
    action = manifest.io.action
    size = len(action.names)
    if given.ndim != 3 or 0 in given.shape:
        raise JepaRuntimeError(
            f"{spec}: must be [K, H, {size}] or [H, {size}], got {list(given.shape)}",
            code="replay.invalid_actions",
        )
    if given.shape[2] != size:
        raise JepaRuntimeError(
            f"{spec}: an action of the model has {size} components ({', '.join(action.names)}), got "
            f"{given.shape[2]}",
            code="replay.invalid_actions",
        )
    if given.shape[1] > horizon:
        raise JepaRuntimeError(
            f"{spec}: {given.shape[1]} steps are more than the horizon of {horizon}; the model predicts "
            f"{manifest.horizon} steps of {manifest.io.step_s:g} s",
            code="replay.too_many_steps",
        )
    if not np.isfinite(given).all():
        raise JepaRuntimeError(f"{spec}: contains numbers that are not finite", code="replay.invalid_actions")
    limits = ActionLimits.of(manifest)
    beyond = np.argwhere((limits.clip(given) != given).any(axis=2))
    if len(beyond):
        sequence, step = beyond[0]
        norm = "" if action.max_norm is None else f", norm at most {action.max_norm:g}"
        box = ", ".join(
            f"{name} {low:g} to {high:g}"
            for name, low, high in zip(action.names, action.low, action.high, strict=True)
        )
        raise JepaRuntimeError(
            f"{spec}: step {step} of sequence {sequence}, {given[sequence, step].tolist()}, is beyond the "
            f"limits of the model: {box}{norm}",
            code="replay.actions_beyond_limits",
        )


def _parse(spec: str) -> list[list[float]]:
    try:
        return [[float(number) for number in step.split(",")] for step in spec.split(";")]
    except ValueError as error:
        raise JepaRuntimeError(
            f"{spec!r} is not a sequence of actions ({error}): use one of: {FORMS}",
            code="replay.invalid_actions",
        ) from None


def _read_file(path: Path) -> object:
    try:
        return _READERS[path.suffix](path)
    except (OSError, ValueError, EOFError, RecursionError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise JepaRuntimeError(
            f"{path}: cannot be read as actions: {reason}", code="replay.unreadable_actions"
        ) from error


def _read_csv(path: Path) -> list[list[float]]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.reader(file) if line]
    return [[float(number) for number in line] for line in lines]


_READERS = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".csv": _read_csv,
}
