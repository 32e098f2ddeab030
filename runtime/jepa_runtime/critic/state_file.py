"""A file with what a critic has learned, for the next start. It belongs to one model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from jepa_runtime.critic.thresholds import CriticState
from jepa_runtime.errors import CriticError, StrictJsonError
from jepa_runtime.util import write_json
from jepa_runtime.util.strict_json import parse_json_as


class _StateFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    state: CriticState


def write_critic_state(path: Path, state: CriticState, *, model: str) -> None:
    """Write a state, replacing the file at once.

    Args:
        path: The file.
        state: What was learned.
        model: Identity of the model, such as the hash of its manifest.

    Raises:
        JepaRuntimeError: The file cannot be written.
    """
    write_json(path, {"model": model, "state": asdict(state)})


def read_critic_state(path: Path, *, model: str) -> CriticState | None:
    """Return the state in a file; None: there is no file.

    Args:
        path: The file.
        model: Identity of the model.

    Raises:
        CriticError: The file cannot be read, is malformed, or belongs to another model.
    """
    try:
        stored = parse_json_as(_StateFile, path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except (OSError, StrictJsonError) as error:
        raise CriticError(
            f"the state of the critic cannot be read: {error}: delete {path} to begin with a warm-up",
            code="critic.state_file_invalid",
        ) from error
    values = stored.state.veto_excess, stored.state.given_margin, stored.state.alternative_margin
    if min(values) <= 0:
        raise CriticError(
            f"the state of the critic cannot be read: {path}: the excess and the margins must be above 0, "
            f"got {', '.join(f'{value:g}' for value in values)}: delete the file to begin with a warm-up",
            code="critic.state_file_invalid",
        )
    if stored.model != model:
        raise CriticError(
            f"{path}: the state of the critic was learned with another model: start without a state, which "
            "begins with a warm-up",
            code="critic.state_mismatch",
        )
    return stored.state
