"""From a checkpoint to the model it makes, or to a message that says why it makes none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints.files import load
from jepa_export.teachers.checkpoints.layouts import Checkpoint, Tensors, recognise
from jepa_export.teachers.family import FAMILY, Config, Member, Model, find
from jepa_export.teachers.ijepa import IJEPAConfig
from jepa_export.teachers.lewm import LeWMConfig
from jepa_export.teachers.vjepa2 import VJEPA2Config

# In a message, before the rest is only counted.
_NAMED = 3
# Of each tensor, in a fingerprint.
_TOLD = 64


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model with its published weights, in evaluation mode, and where they come from."""

    name: str
    member: Member
    model: Model
    weights: str
    source: str

    @property
    def provenance(self) -> str:
        """For a bundle's manifest: model, which weights, whence, and their licence."""
        return f"{self.name} ({self.member.family}), {self.weights} of {self.source}, {self.member.licence}"

    @property
    def fingerprint(self) -> str:
        """Changes with the weights: a hash of the first numbers of each tensor."""
        found = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            found.update(tensor.flatten()[:_TOLD].double().numpy().tobytes())
        return found.hexdigest()


def read(name: str, source: str | Path, *, weights: str | None = None) -> Teacher:
    """The teacher ``name`` with the weights in ``source``.

    Args:
        name: a name of :data:`~jepa_export.teachers.family.FAMILY`.
        source: an official file, a folder in the form of the Hugging Face Hub, or a name there.
        weights: which encoder of an official file; None: the one that its authors evaluate.

    Raises:
        JepaExportError: there is no such teacher, the file cannot be read, is another model's, does not fit,
            or holds numbers that are none.
    """
    member = find(name)
    content, where = load(source)
    checkpoint = recognise(content, where)
    if checkpoint.family != member.family:
        others = [other for other, of in FAMILY.items() if of.family == checkpoint.family]
        raise JepaExportError(
            f"{where} looks like {checkpoint.family}, and {name} is {member.family}: read it as one of "
            f"{', '.join(others)}, or give another file"
        )
    chosen = weights or member.weights
    levels = len(member.config.encoder.taps) if isinstance(member.config, VJEPA2Config) else 1
    try:
        tensors = checkpoint.weights(chosen, levels=levels)
    # Raised by torch where a weight has too few dimensions, or parts of one do not go together.
    except (IndexError, RuntimeError) as error:
        raise JepaExportError(
            f"{where} holds weights of shapes that no {member.family} has ({error}): fetch it again"
        ) from error
    model = _adapted(member.config, tensors).build()
    _fill(model, tensors, name, where)
    return Teacher(
        name=name,
        member=member,
        model=model.eval().requires_grad_(False),
        weights=_told(checkpoint, chosen),
        source=Path(where).name if Path(where).exists() else where,
    )


def _told(checkpoint: Checkpoint, chosen: str) -> str:
    """Ports do not record from which encoder they were made."""
    return chosen if checkpoint.origin != "Hugging Face" else "encoder as ported (which one is not recorded)"


def _adapted(config: Config, tensors: Tensors) -> Config:
    """What a family leaves to its checkpoints: the size of LeWM's actions, whether I-JEPA has a predictor."""
    if isinstance(config, LeWMConfig) and "mix.weight" in tensors:
        mixed, action_dim = tensors["mix.weight"].shape
        return replace(config, mixed=mixed, action_dim=action_dim)
    if isinstance(config, IJEPAConfig) and not any(name.startswith("predictor.") for name in tensors):
        return replace(config, predictor=None)
    return config


def _fill(model: nn.Module, tensors: Tensors, name: str, where: str) -> None:
    """Put ``tensors`` into ``model``, all of them and nothing else."""
    wanted = model.state_dict()
    problems = {
        "missing": [key for key in wanted if key not in tensors],
        "unexpected": [key for key in tensors if key not in wanted],
        "of another shape": [
            f"{key} {_shape(tensors[key])} instead of {_shape(value)}"
            for key, value in wanted.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
    }
    if found := [f"{what}: {_first(names)}" for what, names in problems.items() if names]:
        raise JepaExportError(
            f"{where} does not fit {name} ({'; '.join(found)}): read it as the model that it was made from"
        )
    if broken := [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise JepaExportError(f"{where} holds weights that are not numbers: {_first(broken)}: fetch it again")
    model.load_state_dict(tensors)


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _first(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
