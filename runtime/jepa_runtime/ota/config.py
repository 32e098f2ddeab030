"""The configuration of a robot for updates: ``config.json`` in its folder.

``jepa-runtime update provision`` writes the file; operators edit it.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.bundle.manifest import ModelId
from jepa_runtime.errors import StrictJsonError, UpdateError
from jepa_runtime.ota.gate.probe import ProbeLimits
from jepa_runtime.ota.hawkbit.settings import Hawkbit
from jepa_runtime.ota.release import Identifier
from jepa_runtime.ota.transport.repository_sources import Limits
from jepa_runtime.util import atomic_files
from jepa_runtime.util.precision import Precision
from jepa_runtime.util.strict_json import parse_json_as

# An update without a heartbeat for this long is considered hung; above every pause and limit of a step.
HANG_S = 900.0
_MAX_CONFIG_BYTES = 1 << 20
_PAGE = "docs/update-config.md"
_Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Config(BaseModel):
    """The content of ``config.json``.

    Attributes:
        repository: The location of ``metadata/`` and ``targets/``: an http(s) URL or a folder.
        targets: The location of the targets, if it is another one, such as a content delivery network.
        channel: The channel that the robot follows.
        model_id: The model that the robot runs.
        device_id: The robot's name, which also decides whether it is part of a partial rollout.
        hardware_ids: The hardware types of this robot.
        engine: The engine of the serving process. Exactly one, because results of the gate apply to one.
        precision: The precision of the active model; None: the first of a bundle that the engine can run.
        allow_untrained: Accept random weights, for tests.
        shadow: A source of frames for the shadow test (see ``jepa-runtime run --source``); None: no shadow
            test.
        approval: Whether a candidate that passed the gate waits for ``jepa-runtime update approve``.
        health_window_s: How long a new model is observed before it is committed.
        poll_s: The interval between checks of the repository, with a random jitter of 10 %.
        deltas: Whether to build files from existing ones where that saves traffic.
        keep_slots: The number of slots to keep in addition to the active, last known good and previous model,
            unless a release needs the space.
        require_sandbox: Whether to reject a release whose probe cannot be isolated from the network or, on a
            CPU, from the disk.
        rollback_on_crashes: Whether to roll back when the active, last known good model crashes repeatedly;
            without it, repeated crashes only raise an alarm.
        fetch: Limits of downloads.
        probe: Limits of the probe.
        hawkbit: The hawkBit server that orders updates; None: the robot polls its repository.
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
            raise ValueError(f"connect_s and read_s must be below {HANG_S:g} s, got {longest:g}")
        return self


def load(path: Path) -> Config:
    """Read ``config.json``.

    Raises:
        UpdateError: The file is missing, or a field is invalid.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES)
        return parse_json_as(Config, content, str(path), _unknown_field)
    except OSError as error:
        raise UpdateError(
            f"{path}: cannot be read: {error.strerror}: check --robot, or provision the robot with "
            "`jepa-runtime update provision`",
            code="update.config_unreadable",
        ) from error
    except StrictJsonError as error:
        raise UpdateError(f"{error}: see {_PAGE}", code="update.config_invalid") from error


def _unknown_field(place: tuple[str | int, ...]) -> str:
    """Describe an unknown field, with the names of similar or all fields."""
    *group, name = (str(part) for part in place)
    parts = {"fetch": Limits, "probe": ProbeLimits, "hawkbit": Hawkbit}
    names = [*signature(parts[group[0]] if group else Config).parameters]
    similar = [".".join([*group, close]) for close in get_close_matches(name, names, n=2)]
    if similar:
        return f"unknown field: did you mean {' or '.join(similar)}?"
    return f"unknown field: the fields are {', '.join(names)}"


def save(path: Path, config: Config) -> None:
    """Write ``config.json`` without fields that have their default, which another version may not know.

    Raises:
        StorageError: The file cannot be written.
    """
    fields = config.model_dump(mode="json", exclude_defaults=True)
    content = {"schema_version": config.schema_version, **fields}
    atomic_files.write(path, json.dumps(content, indent=2).encode() + b"\n")
