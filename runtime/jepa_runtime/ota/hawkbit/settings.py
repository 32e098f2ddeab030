"""The hawkBit server of a robot: the field ``hawkbit`` of ``config.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_Text = Annotated[str, Field(min_length=1, max_length=1024)]


class Hawkbit(BaseModel):
    """The server, and the robot's identity there: the target whose controller id is ``device_id``.

    Attributes:
        url: The https address of the server with its base path (http only on an isolated network).
        tenant: The tenant on the server.
        token_file: The file with the token, readable by its owner only; relative to the robot's folder.
        token: The type of the token: that of the target, or that of a gateway, which authenticates every
            robot of the tenant.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    url: _Text
    tenant: _Text = "DEFAULT"
    token_file: _Text = "hawkbit.token"
    token: Literal["target", "gateway"] = "target"
