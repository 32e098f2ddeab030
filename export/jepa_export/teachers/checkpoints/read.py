"""Create a teacher from a checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints.architecture import derive_config
from jepa_export.teachers.checkpoints.files import load, locate
from jepa_export.teachers.checkpoints.layouts import Checkpoint, Tensors, recognize
from jepa_export.teachers.checkpoints.settings import Settings, find_settings
from jepa_export.teachers.family import (
    FAMILY,
    FAMILY_NAMES,
    Config,
    Family,
    Member,
    Model,
    family_license,
    find_teacher,
    is_family,
)
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
        """Return a hash of the first values of each tensor, which changes with the weights.

        That of a model that is not published also changes with settings that the weights do not show.
        """
        found = hashlib.sha256(b"" if self.member.published else repr(self.model.config).encode())
        for tensor in self.model.state_dict().values():
            found.update(tensor.flatten()[:_FINGERPRINT_VALUES].double().numpy().tobytes())
        return found.hexdigest()


# The encoders in an official file, first the one that the authors of the family evaluate.
_ENCODERS: dict[Family, tuple[str, ...]] = {
    "V-JEPA 2": ("target_encoder", "encoder"),
    "V-JEPA 2.1": ("ema_encoder", "target_encoder", "encoder"),
    "V-JEPA 2-AC": ("encoder", "target_encoder"),
    "I-JEPA": ("target_encoder", "encoder"),
}


def inspect(name: str, source: str | Path, settings: Settings | None = None) -> Member:
    """Return the teacher ``name``; the sizes of a family are read from ``source``.

    Args:
        name: See :func:`read`.
        source: See :func:`read`.
        settings: See :func:`read`.

    Raises:
        JepaExportError: See :func:`read`.
    """
    if is_family(name):
        return _recognized(name, source, None, settings)[0]
    _check_no_settings(name, settings)
    return find_teacher(name)


def read(
    name: str, source: str | Path, *, weights: str | None = None, settings: Settings | None = None
) -> Teacher:
    """Return the teacher ``name`` with the weights in ``source``.

    Args:
        name: A name in :data:`~jepa_export.teachers.family.FAMILY`, or that of a family
            (:data:`~jepa_export.teachers.family.FAMILY_NAMES`), whose sizes are read from the checkpoint.
        source: An official file, a folder in the layout of the Hugging Face Hub, or a name there.
        weights: Encoder in an official file; None: the one that its authors evaluate.
        settings: Settings of a family that its weights do not show; those that are not given come from the
            configuration of the training next to the checkpoint.

    Raises:
        JepaExportError: The teacher is unknown, or the file cannot be read, is of another model, does not
            fit, or contains values that are not finite; or settings are missing or contradict the weights.
    """
    member, checkpoint = _recognized(name, source, weights, settings)
    chosen, where, config = weights or member.weights, checkpoint.where, member.config
    levels = len(config.encoder.taps) if isinstance(config, VJEPA2Config) else 1
    tables = isinstance(config, VJEPA2Config) and config.encoder.table
    with _shapes_checked(checkpoint):
        tensors = checkpoint.weights(chosen, levels=levels, tables=tables)
    model = _adapted(config, tensors).build()
    _fill(model, tensors, name, where)
    return Teacher(
        name=name,
        member=member,
        model=model.eval().requires_grad_(False),
        weights=_describe_weights(checkpoint, chosen),
        source=Path(where).name if Path(where).exists() else where,
    )


def _recognized(
    name: str, source: str | Path, weights: str | None, settings: Settings | None
) -> tuple[Member, Checkpoint]:
    """Return the teacher ``name`` and its checkpoint."""
    family = FAMILY_NAMES[name] if is_family(name) else find_teacher(name).family
    path, where = locate(source)
    checkpoint = recognize(load(path), where)
    if checkpoint.family != family:
        others = [other for other, of in FAMILY.items() if of.family == checkpoint.family]
        others += [other for other, of in FAMILY_NAMES.items() if of == checkpoint.family]
        raise JepaExportError(
            f"{where}: a checkpoint of {checkpoint.family}, but {name} is {family}; read it as one of "
            f"{', '.join(dict.fromkeys(others))}, or use another file",
            code="teacher.wrong_family",
        )
    if not is_family(name):
        _check_no_settings(name, settings)
        return find_teacher(name), checkpoint
    found = find_settings(path, settings or Settings())
    encoder = weights or next((one for one in _ENCODERS[family] if one in checkpoint.encoders), "encoder")
    with _shapes_checked(checkpoint):
        config = derive_config(checkpoint, encoder, found)
    return Member(
        family=family, config=config, weights=encoder, published=(), license=family_license(name)
    ), checkpoint


def _check_no_settings(name: str, settings: Settings | None) -> None:
    if settings not in (None, Settings()):
        raise JepaExportError(
            f"{name}: the settings of this model are known; omit --training-config, --heads, "
            "--predictor-heads, --resolution and --max-frames, or read the checkpoint as one of "
            f"{', '.join(FAMILY_NAMES)}",
            code="export.option_not_applicable",
        )


@contextlib.contextmanager
def _shapes_checked(checkpoint: Checkpoint) -> Iterator[None]:
    """Report that a weight has too few dimensions, or that parts of one are incompatible."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        raise JepaExportError(
            f"{checkpoint.where}: weights have shapes that no {checkpoint.family} has: {error}; download it "
            "again",
            code="teacher.weights_mismatch",
        ) from error


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
            f"{where}: does not fit {name} ({'; '.join(found)}); {_advice(name)}",
            code="teacher.weights_mismatch",
        )
    if broken := [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise JepaExportError(
            f"{where}: weights that are not finite: {_first(broken)}; download it again",
            code="teacher.checkpoint_damaged",
        )
    model.load_state_dict(tensors)


def _advice(name: str) -> str:
    """Return what to do with a checkpoint whose weights do not fit."""
    if is_family(name):
        return "use the file as the training saved it"
    advice = "read it as the model that it was made from"
    families = [other for other, family in FAMILY_NAMES.items() if family == FAMILY[name].family]
    return f"{advice}, or as {families[0]}, a model of any size" if families else advice


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _first(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
