"""How a robot finds its hawkBit server: the field ``hawkbit`` of ``config.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_Text = Annotated[str, Field(min_length=1, max_length=1024)]


class Hawkbit(BaseModel):
    """Where the server is, and who this robot is there: the target whose controller id is ``device_id``.

    Attributes:
        url: of the server, https (or http, where nobody else can listen), with the path under which it is.
        tenant: on the server.
        token_file: holds the token and is readable by its owner alone; relative to the robot's folder.
        token: whose it is: the target's own, or that of a gateway, which stands for every robot of the
            tenant.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    url: _Text
    tenant: _Text = "DEFAULT"
    token_file: _Text = "hawkbit.token"
    token: Literal["target", "gateway"] = "target"
