"""Create a teacher from a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints.files import load
from jepa_export.teachers.checkpoints.layouts import Checkpoint, Tensors, recognize
from jepa_export.teachers.family import FAMILY, Config, Member, Model, find_teacher
from jepa_export.teachers.ijepa import IJEPAConfig
from jepa_export.teachers.lewm import LeWMConfig
from jepa_export.teachers.vjepa2 import VJEPA2Config

# Names listed in a message; the others are counted.
_NAMED = 3
# Values of each tensor in a fingerprint.
_FINGERPRINT_VALUES = 64


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model with its published weights, in evaluation mode, and their origin."""

    name: str
    member: Member
    model: Model
    weights: str
    source: str

    @property
    def provenance(self) -> str:
        """Return the model, its weights, their source and license, for the manifest of a bundle."""
        return f"{self.name} ({self.member.family}), {self.weights} of {self.source}, {self.member.license}"

    @property
    def fingerprint(self) -> str:
        """Return a hash of the first values of each tensor, which changes with the weights."""
        found = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            found.update(tensor.flatten()[:_FINGERPRINT_VALUES].double().numpy().tobytes())
        return found.hexdigest()


def read(name: str, source: str | Path, *, weights: str | None = None) -> Teacher:
    """Return the teacher ``name`` with the weights in ``source``.

    Args:
        name: A name in :data:`~jepa_export.teachers.family.FAMILY`.
        source: An official file, a folder in the layout of the Hugging Face Hub, or a name there.
        weights: Encoder in an official file; None: the one that its authors evaluate.

    Raises:
        JepaExportError: The teacher is unknown, or the file cannot be read, is of another model, does not
            fit, or contains values that are not finite.
    """
    member = find_teacher(name)
    content, where = load(source)
    checkpoint = recognize(content, where)
    if checkpoint.family != member.family:
        others = [other for other, of in FAMILY.items() if of.family == checkpoint.family]
        raise JepaExportError(
            f"{where}: a checkpoint of {checkpoint.family}, but {name} is {member.family}; read it as one of "
            f"{', '.join(others)}, or use another file",
            code="teacher.wrong_family",
        )
    chosen = weights or member.weights
    levels = len(member.config.encoder.taps) if isinstance(member.config, VJEPA2Config) else 1
    try:
        tensors = checkpoint.weights(chosen, levels=levels)
    # Raised by torch if a weight has too few dimensions, or if parts of one are incompatible.
    except (IndexError, RuntimeError) as error:
        raise JepaExportError(
            f"{where}: weights have shapes that no {member.family} has: {error}; download it again",
            code="teacher.weights_mismatch",
        ) from error
    model = _adapted(member.config, tensors).build()
    _fill(model, tensors, name, where)
    return Teacher(
        name=name,
        member=member,
        model=model.eval().requires_grad_(False),
        weights=_describe_weights(checkpoint, chosen),
        source=Path(where).name if Path(where).exists() else where,
    )


def _describe_weights(checkpoint: Checkpoint, chosen: str) -> str:
    """Return the name of the encoder; ports do not record which one they were made from."""
    return chosen if checkpoint.origin != "Hugging Face" else "encoder as ported (which one is not recorded)"


def _adapted(config: Config, tensors: Tensors) -> Config:
    """Set what a family leaves to its checkpoints: LeWM's action size, and whether I-JEPA has a predictor."""
    if isinstance(config, LeWMConfig) and "mix.weight" in tensors:
        mixed, action_dim = tensors["mix.weight"].shape
        return replace(config, mixed=mixed, action_dim=action_dim)
    if isinstance(config, IJEPAConfig) and not any(name.startswith("predictor.") for name in tensors):
        return replace(config, predictor=None)
    return config


def _fill(model: nn.Module, tensors: Tensors, name: str, where: str) -> None:
    """Load ``tensors`` into ``model``; both must have exactly the same names."""
    expected = model.state_dict()
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape": [
            f"{key} {_shape(tensors[key])} instead of {_shape(value)}"
            for key, value in expected.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
    }
    if found := [f"{problem}: {_first(names)}" for problem, names in problems.items() if names]:
        raise JepaExportError(
            f"{where}: does not fit {name} ({'; '.join(found)}); read it as the model that it was made from",
            code="teacher.weights_mismatch",
        )
    if broken := [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise JepaExportError(
            f"{where}: weights that are not finite: {_first(broken)}; download it again",
            code="teacher.checkpoint_damaged",
        )
    model.load_state_dict(tensors)


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _first(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
