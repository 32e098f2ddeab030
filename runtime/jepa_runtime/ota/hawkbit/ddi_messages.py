"""Messages of a hawkBit server, parsed strictly and with size limits; unknown fields are ignored.

The names are those of DDI v1 (https://eclipse.dev/hawkbit/rest-api/ddi.html).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from jepa_runtime.errors import FetchError, StrictJsonError
from jepa_runtime.util.strict_json import parse_json_as

MIN_SLEEP_S, MAX_SLEEP_S = 5.0, 86_400.0

Handling = Literal["skip", "attempt", "forced"]
ActionId = Annotated[str, Field(pattern=r"^[0-9]{1,19}$")]
_Text = Annotated[str, Field(max_length=1024)]
_Sleep = Annotated[str, Field(pattern=r"^[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]$")]


class _Message(BaseModel):
    """A message; unknown fields are ignored, because later servers may add some."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


_M = TypeVar("_M", bound=_Message)


class _Link(_Message):
    href: Annotated[str, Field(max_length=4096)]


class _Polling(_Message):
    sleep: _Sleep


class _Config(_Message):
    polling: _Polling


class Base(_Message):
    """The response to a poll."""

    config: _Config
    links: dict[str, _Link] = Field(default={}, alias="_links")

    @property
    def sleep_s(self) -> float:
        """The pause until the next poll in seconds, from :data:`MIN_SLEEP_S` to :data:`MAX_SLEEP_S`."""
        hours, minutes, seconds = map(int, self.config.polling.sleep.split(":"))
        return min(max(3600.0 * hours + 60 * minutes + seconds, MIN_SLEEP_S), MAX_SLEEP_S)


class _Metadata(_Message):
    key: _Text
    value: _Text


class Chunk(_Message):
    """A software module, such as a model."""

    name: _Text
    version: _Text
    metadata: list[_Metadata] | None = None


class Deployment(_Message):
    """What to install, and which steps are allowed."""

    download: Handling
    update: Handling
    window: Literal["available", "unavailable"] | None = Field(default=None, alias="maintenanceWindow")
    chunks: list[Chunk]


class DeploymentBase(_Message):
    """The response of ``deploymentBase`` and ``installedBase``."""

    id: ActionId
    deployment: Deployment


class ConfirmationBase(_Message):
    """The response of ``confirmationBase``."""

    id: ActionId
    confirmation: Deployment


class _Stop(_Message):
    stop_id: ActionId = Field(alias="stopId")


class CancelAction(_Message):
    """The response of ``cancelAction``."""

    id: ActionId
    stop: _Stop = Field(alias="cancelAction")


def parse(kind: type[_M], content: bytes, where: str) -> _M:
    """Parse a response.

    Args:
        kind: The expected message.
        content: The body.
        where: Its URL, for errors.

    Raises:
        FetchError: The body is not strict JSON, or a field is missing or invalid.
    """
    try:
        return parse_json_as(kind, content, where)
    except StrictJsonError as error:
        raise FetchError(
            f"{error}: the response is not DDI v1: check that url is a hawkBit server",
            code="hawkbit.response_invalid",
        ) from error


def action_of(base: Base, relation: str, tenant: str, controller: str, where: str) -> str | None:
    """Return the id of the action that a poll links to.

    Only the id is taken from a link: every request goes to the address in ``config.json``, so the token is
    sent nowhere else.

    Raises:
        FetchError: The link belongs to another robot, tenant or resource.
    """
    link = base.links.get(relation)
    if link is None:
        return None
    mine = f"/{re.escape(tenant)}/controller/v1/{re.escape(controller)}/{relation}/(?P<id>[0-9]{{1,19}})"
    try:
        found = re.search(f"{mine}\\Z", unquote(urlsplit(link.href).path), re.IGNORECASE)
    except ValueError:
        found = None
    if found is None:
        raise FetchError(
            f"{where}: the link {relation} ({link.href[:200]!r}) does not belong to this robot: check url, "
            "tenant and device_id",
            code="hawkbit.foreign_link",
        )
    return found["id"]


def feedback(
    execution: str, finished: str, details: tuple[str, ...], percent: int | None = None
) -> dict[str, Any]:
    """Return the body of a feedback.

    It has no time: the server then uses its own, and ignores no feedback because a robot's clock is slow.
    """
    result: dict[str, Any] = {"finished": finished}
    if percent is not None:
        result["progress"] = {"cnt": percent, "of": 100}
    return {"status": {"execution": execution, "result": result, "details": list(details)}}
