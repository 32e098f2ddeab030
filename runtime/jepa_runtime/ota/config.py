"""How a robot is set up for updates: ``config.json`` in its folder, which ``jepa-runtime update provision``
writes and people edit.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.bundle.manifest import ModelId, Precision
from jepa_runtime.errors import StrictJsonError, UpdateError
from jepa_runtime.ota.gate.probe import ProbeLimits
from jepa_runtime.ota.hawkbit.settings import Hawkbit
from jepa_runtime.ota.release import Identifier
from jepa_runtime.ota.transport.repository_sources import Limits
from jepa_runtime.util import atomic_files
from jepa_runtime.util.strict_json import parse_json_as

# Without a sign of life for so long, an update counts as hung; above every pause and limit of a step.
HANG_S = 900.0
_MAX_CONFIG_BYTES = 1 << 20
_PAGE = "docs/update-config.md"
_Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Config(BaseModel):
    """The content of ``config.json``.

    Attributes:
        repository: where ``metadata/`` and ``targets/`` are: an http(s) URL or a folder.
        targets: where the targets are, if not there; of a network that delivers files, for instance.
        channel, model_id: what is to run.
        device_id: decides whether this robot is in a part of a rollout.
        hardware_ids: what kinds of robot this one is.
        engine, precision: that serve. One engine: what a gate finds out holds for that one. Precision None:
            the first of a bundle that the engine runs.
        allow_untrained: accept random weights, for tests.
        shadow: a source of frames on which a candidate is compared with what serves (see ``jepa-runtime
            run --source``); None: it is not.
        approval: what has passed the gate waits until somebody approves it (``jepa-runtime update approve``).
        health_window_s: for how long a new model must serve well before it is committed to.
        poll_s: between two looks at the repository; each a tenth longer or shorter at random.
        deltas: make files from those that are there where that saves traffic.
        keep_slots: kept beside what serves, what served well and what did before, unless a release finds no
            room.
        require_sandbox: refuse a release whose probe cannot be cut off from the network or, on a CPU, from
            the disk.
        rollback_on_crashes: go back to the model before when the active one, though it was found to be good,
            crashes again and again; without, there is an alarm only.
        fetch, probe: limits.
        hawkbit: the server that orders updates; None: this robot looks for them by itself.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    repository: _Text
    targets: _Text | None = None
    channel: Identifier
    model_id: ModelId
    device_id: _Text
    hardware_ids: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=64)]
    engine: Annotated[_Text, StringConstraints(pattern=r"^[^,]+$")] = DEFAULT_ENGINE
    precision: Precision | None = None
    allow_untrained: bool = False
    shadow: _Text | None = None
    approval: bool = False
    health_window_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    poll_s: Annotated[float, Field(ge=1, le=2_592_000)] = 3600.0
    deltas: bool = True
    keep_slots: Annotated[int, Field(ge=0, le=100)] = 1
    require_sandbox: bool = True
    rollback_on_crashes: bool = False
    fetch: Limits = Limits()
    probe: ProbeLimits = ProbeLimits()
    hawkbit: Hawkbit | None = None

    @model_validator(mode="after")
    def _agree(self) -> Config:
        longest = max(self.fetch.connect_s, self.fetch.read_s)
        if longest >= HANG_S:
            raise ValueError(f"no limit on waiting may reach {HANG_S:g} s, got {longest:g}")
        return self


def load(path: Path) -> Config:
    """Read ``config.json``.

    Raises:
        UpdateError: it is missing, or a field is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES)
        return parse_json_as(Config, content, str(path), _no_such_field)
    except OSError as error:
        raise UpdateError(
            f"{path}: cannot be read ({error.strerror}): name the folder of a robot that was set up with "
            "`jepa-runtime update provision`"
        ) from error
    except StrictJsonError as error:
        raise UpdateError(f"{error}: see {_PAGE}", code="update.config_invalid") from error


def _no_such_field(place: tuple[str | int, ...]) -> str:
    """What to write instead of a field that there is not."""
    *group, name = (str(part) for part in place)
    parts = {"fetch": Limits, "probe": ProbeLimits, "hawkbit": Hawkbit}
    names = [*signature(parts[group[0]] if group else Config).parameters]
    meant = [".".join([*group, close]) for close in get_close_matches(name, names, n=2)]
    if meant:
        return f"there is no such field: is {' or '.join(meant)} meant?"
    return f"there is no such field, but {', '.join(names)}"


def save(path: Path, config: Config) -> None:
    """Write ``config.json``, without what has its default: another version may not know that field.

    Raises:
        StorageError: it cannot be written.
    """
    fields = config.model_dump(mode="json", exclude_defaults=True)
    content = {"schema_version": config.schema_version, **fields}
    atomic_files.write(path, json.dumps(content, indent=2).encode() + b"\n")
