"""What a hawkBit server says, read strictly and with bounds; what it says beside that does no harm.

The names are those of DDI v1 (https://eclipse.dev/hawkbit/rest-api/ddi.html).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from jepa_runtime.errors import FetchError, StrictJsonError
from jepa_runtime.util.strict_json import parse_json_as

LEAST_SLEEP_S, MOST_SLEEP_S = 5.0, 86_400.0

Handling = Literal["skip", "attempt", "forced"]
ActionId = Annotated[str, Field(pattern=r"^[0-9]{1,19}$")]
_Text = Annotated[str, Field(max_length=1024)]
_Sleep = Annotated[str, Field(pattern=r"^[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]$")]


class _Message(BaseModel):
    """Fields that are not known here may come: servers grow."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


_M = TypeVar("_M", bound=_Message)


class _Link(_Message):
    href: Annotated[str, Field(max_length=4096)]


class _Polling(_Message):
    sleep: _Sleep


class _Config(_Message):
    polling: _Polling


class Base(_Message):
    """The answer to a poll."""

    config: _Config
    links: dict[str, _Link] = Field(default={}, alias="_links")

    @property
    def sleep_s(self) -> float:
        """The pause until the next poll in seconds, within :data:`LEAST_SLEEP_S` and
        :data:`MOST_SLEEP_S`.
        """
        hours, minutes, seconds = map(int, self.config.polling.sleep.split(":"))
        return min(max(3600.0 * hours + 60 * minutes + seconds, LEAST_SLEEP_S), MOST_SLEEP_S)


class _Metadata(_Message):
    key: _Text
    value: _Text


class Chunk(_Message):
    """A software module: a model, if it is one."""

    name: _Text
    version: _Text
    metadata: list[_Metadata] | None = None


class Deployment(_Message):
    """What is to be installed, and how far one may go."""

    download: Handling
    update: Handling
    window: Literal["available", "unavailable"] | None = Field(default=None, alias="maintenanceWindow")
    chunks: list[Chunk]


class DeploymentBase(_Message):
    """The answer of ``deploymentBase`` and ``installedBase``."""

    id: ActionId
    deployment: Deployment


class ConfirmationBase(_Message):
    """The answer of ``confirmationBase``."""

    id: ActionId
    confirmation: Deployment


class _Stop(_Message):
    stop_id: ActionId = Field(alias="stopId")


class CancelAction(_Message):
    """The answer of ``cancelAction``."""

    id: ActionId
    stop: _Stop = Field(alias="cancelAction")


def parse(kind: type[_M], content: bytes, where: str) -> _M:
    """Read an answer.

    Args:
        where: how errors call it.

    Raises:
        FetchError: it is no strict JSON, or a field is missing or wrong.
    """
    try:
        return parse_json_as(kind, content, where)
    except StrictJsonError as error:
        raise FetchError(
            f"{error}: the response is not DDI v1: check the address of the hawkBit server",
            code="hawkbit.response_invalid",
        ) from error


def action_of(base: Base, relation: str, tenant: str, controller: str, where: str) -> str | None:
    """The id of the action that a poll links to.

    Of a link only the id is taken: what is asked for is always below the address in ``config.json``, and so
    the token goes nowhere else.

    Raises:
        FetchError: the link is to another robot, tenant or resource.
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
            f"{where}: links to {link.href[:200]!r} as {relation}, which is not of this robot: check url, "
            "tenant and device_id, and the server"
        )
    return found["id"]


def feedback(
    execution: str, finished: str, details: tuple[str, ...], percent: int | None = None
) -> dict[str, Any]:
    """The body of a feedback.

    Without a time: the server takes its own then, and drops no installation because a robot's clock is slow.
    """
    result: dict[str, Any] = {"finished": finished}
    if percent is not None:
        result["progress"] = {"cnt": percent, "of": 100}
    return {"status": {"execution": execution, "result": result, "details": list(details)}}
