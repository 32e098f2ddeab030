"""The manifest of a taught route, ``route.json``."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from jepa_runtime.errors import RouteError, StrictJsonError
from jepa_runtime.util.strict_json import parse_json, validate_json

FORMAT_VERSION: Literal[1] = 1
MANIFEST_NAME, LATENTS_NAME, IMAGES_NAME = "route.json", "latents.npy", "images"
MAX_KEY_FRAMES = 100_000
MAX_MANIFEST_BYTES = 64 << 20


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Field(max_length=4096)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RouteModel(_Record):
    """The model that a route was taught with, as far as repeating it depends on the model.

    Attributes:
        model_id: Identifier in the bundle's manifest.
        version: Version of the bundle.
        latent_space: Identity of the encoder; see :attr:`jepa_runtime.model.WorldModel.latent_space`.
        energy_space: Identity of the energy; see :attr:`jepa_runtime.model.WorldModel.energy_space`.
        tokens: Tokens of a latent.
        dim: Dimensions of a token.
        step_s: Duration of a model step.
        goal_threshold: Energy at or below which a goal is reached.
        frame_width: Width of the encoder's input in pixels.
        frame_height: Height of the encoder's input in pixels.
        action_names: Names of the action components.
        action_units: Their units.
    """

    model_id: Text
    version: Text
    latent_space: Sha256
    energy_space: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
    tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    dim: Annotated[int, Field(ge=1, le=1 << 20)]
    step_s: Annotated[float, Field(gt=0, le=3600)]
    goal_threshold: Finite
    frame_width: Annotated[int, Field(ge=1, le=65536)]
    frame_height: Annotated[int, Field(ge=1, le=65536)]
    action_names: tuple[Text, ...]
    action_units: tuple[Text, ...]


class KeyFrameRecord(_Record):
    """A key frame without its latent and its image."""

    time_s: Annotated[Finite, Field(ge=0)]
    sha256: Sha256
    command: tuple[Finite, ...] | None
    pose: tuple[Finite, Finite, Finite] | None


class RouteManifest(_Record):
    """The content of ``route.json``."""

    format_version: Literal[1]
    model: RouteModel
    source: Text
    near_energy: Annotated[Finite, Field(gt=0)]
    far_energy: Annotated[Finite, Field(gt=0)]
    latents_sha256: Sha256
    key_frames: Annotated[tuple[KeyFrameRecord, ...], Field(min_length=2, max_length=MAX_KEY_FRAMES)]


def parse_manifest(data: bytes, where: str) -> RouteManifest:
    """Parse ``route.json`` strictly.

    Raises:
        RouteError: It is damaged, or of another format version.
    """
    try:
        content = parse_json(data, where)
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version != FORMAT_VERSION:
            raise RouteError(
                f"{where}: the route has format {version}, this version reads format "
                f"{FORMAT_VERSION}: teach it "
                "again with this version (jepa-runtime teach), or use the version that recorded it",
                code="route.format_unknown",
            )
        manifest = validate_json(RouteManifest, data, where)
    except StrictJsonError as error:
        raise RouteError(
            f"{error}: the route is damaged: copy it again, or teach it again", code="route.damaged"
        ) from error
    times = [record.time_s for record in manifest.key_frames]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise RouteError(
            f"{where}: the times of the key frames do not increase: the route is damaged: copy it "
            "again, or teach "
            "it again",
            code="route.damaged",
        )
    return manifest
