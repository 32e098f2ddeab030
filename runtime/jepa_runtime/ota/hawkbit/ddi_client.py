"""The hawkBit server, over HTTP.

One request at a time, each bounded in time and size. Redirects are not followed, and of what the server
links to only the ids of actions are taken: the token is sent to the address in ``config.json`` alone.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from jepa_runtime.errors import FetchError, UpdateError
from jepa_runtime.ota.hawkbit.ddi_messages import (
    Base,
    CancelAction,
    ConfirmationBase,
    Deployment,
    DeploymentBase,
    action_of,
    parse,
)
from jepa_runtime.ota.hawkbit.settings import Hawkbit
from jepa_runtime.ota.transport.connections import Connections, answer_in_words, told
from jepa_runtime.ota.transport.repository_sources import NotFoundError

MAX_ANSWER_BYTES = 1 << 20
CONNECT_S, READ_S = 5.0, 10.0
Channel = Literal["deploymentBase", "confirmationBase", "cancelAction"]

_MAX_TOKEN_BYTES = 1024
_MAX_KNOWN = 4
_TOKEN, _ETAG = re.compile(r"[!-~]+"), re.compile(r"[ -~]{1,256}")
_SCHEMES = {"target": "TargetToken", "gateway": "GatewayToken"}
_ACCEPT = "application/hal+json, application/json"
_HINTS = {
    401: ": it does not take this robot's token: check token_file, token, tenant and device_id",
    403: ": it does not let this robot in: check token, tenant, and what the server forbids",
}
_Action = TypeVar("_Action", CancelAction, ConfirmationBase, DeploymentBase)
_Answer = TypeVar("_Answer", Base, CancelAction, ConfirmationBase, DeploymentBase)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a poll brought: at most one of the first three actions, by its id.

    Attributes:
        deployment, confirmation, cancellation: is to be made; confirmed first; stopped.
        installed: the last deployment that was reported as a success.
        wants_attributes: whether the server asks for them.
        sleep_s: the pause until the next poll.
    """

    deployment: str | None = None
    confirmation: str | None = None
    cancellation: str | None = None
    installed: str | None = None
    wants_attributes: bool = False
    sleep_s: float


class DdiClient:
    """What this robot can ask of its server, and tell it.

    Args:
        root: the robot's folder.
        controller: the robot's name on the server.

    Every method raises FetchError if it does not work now
    (:class:`~jepa_runtime.ota.transport.repository_sources.BusyError`: for a while;
    :class:`~jepa_runtime.ota.transport.repository_sources.NotFoundError`: the server has no such action any
    more), and UpdateError if the address or the token cannot be used.
    """

    def __init__(self, root: Path, settings: Hawkbit, controller: str) -> None:
        self._settings, self._controller = settings, controller
        self._token_file = root / settings.token_file
        base = settings.url.rstrip("/")
        self._connections = Connections(base, connect_s=CONNECT_S, read_s=READ_S, clock=time)
        self._base = f"{base}/{quote(settings.tenant, safe='')}/controller/v1/{quote(controller, safe='')}"
        self._known: dict[str, tuple[str, bytes]] = {}

    def poll(self) -> Offer:
        """Ask what there is to do."""
        base = self._get("", Base)

        def action(relation: str) -> str | None:
            return action_of(base, relation, self._settings.tenant, self._controller, self._base)

        return Offer(
            deployment=action("deploymentBase"),
            confirmation=action("confirmationBase"),
            cancellation=action("cancelAction"),
            installed=action("installedBase"),
            wants_attributes="configData" in base.links,
            sleep_s=base.sleep_s,
        )

    def deployment(self, action: str) -> Deployment:
        """What is to be installed."""
        return self._action("deploymentBase", action, DeploymentBase).deployment

    def installed(self, action: str) -> Deployment:
        """What the server takes for installed."""
        return self._action("installedBase", action, DeploymentBase).deployment

    def confirmation(self, action: str) -> Deployment:
        """What is to be installed once it is confirmed."""
        return self._action("confirmationBase", action, ConfirmationBase).confirmation

    def stopped_by(self, action: str) -> str:
        """Which action a cancellation is to stop."""
        return self._action("cancelAction", action, CancelAction).stop.stop_id

    def tell(self, channel: Channel, action: str, body: Mapping[str, Any]) -> None:
        """Give a feedback."""
        self._send("POST", f"/{channel}/{action}/feedback", body)

    def put_attributes(self, attributes: Mapping[str, str]) -> None:
        """Say what this robot is; what the server knows beside that stays."""
        self._send("PUT", "/configData", {"mode": "merge", "data": dict(attributes)})

    def _action(self, resource: str, action: str, kind: type[_Action]) -> _Action:
        answer = self._get(f"/{resource}/{action}", kind)
        if answer.id != action:
            raise FetchError(f"{self._base}: the server answers for action {answer.id} instead of {action}")
        return answer

    def _get(self, path: str, kind: type[_Answer]) -> _Answer:
        etag, content = self._known.get(path, ("", b""))
        status, headers, new = self._exchange("GET", path, {"If-None-Match": etag} if etag else {})
        if status != 304 or not etag:
            content = new
        parsed = parse(kind, content, self._base + path)
        etag = headers.get("ETag", etag if status == 304 else "")
        if _ETAG.fullmatch(etag):
            # Only the newest are kept: few are asked for again.
            self._known = dict([*self._known.items(), (path, (etag, content))][-_MAX_KNOWN:])
        return parsed

    def _send(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        self._exchange(method, path, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        url = self._base + path
        headers = {"Accept": _ACCEPT, "Authorization": self._authorization(), **headers}
        with told(url):
            response = self._connections.ask(method, url, headers, body)
            try:
                content = b""
                # All of an answer has to come within the time for its headers.
                while len(content) <= MAX_ANSWER_BYTES and (more := response.read1(1 << 16)):
                    content += more
            finally:
                response.close()
        _check(url, response.status, response.headers)
        if len(content) > MAX_ANSWER_BYTES:
            raise FetchError(f"{url}: the server's answer has more than {MAX_ANSWER_BYTES >> 20} MiB")
        return response.status, response.headers, content

    def _authorization(self) -> str:
        """The token, read anew each time: it may be replaced while this runs."""
        path = self._token_file
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(_MAX_TOKEN_BYTES + 1) if stat.S_ISREG(mode) else b""
        except OSError as error:
            raise UpdateError(
                f"{path}: cannot be read ({error.strerror}): put the token of this robot there, as the "
                "server shows it, readable by its owner alone"
            ) from error
        if mode & 0o077:
            raise UpdateError(f"{path}: others may read it ({stat.filemode(mode)}): chmod 600 {path}")
        token = content.decode("ascii", "replace").strip()
        if len(content) > _MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
            raise UpdateError(f"{path}: holds no token: one word of printable ASCII is expected")
        return f"{_SCHEMES[self._settings.token]} {token}"


def _check(url: str, status: int, headers: Mapping[str, str]) -> None:
    if status in (200, 201, 202, 204, 304):
        return
    said = answer_in_words(url, status, headers)
    if status in (404, 405, 410):
        raise NotFoundError(f"{said}: it knows no such robot or action, or no longer")
    if 300 <= status < 400:
        elsewhere = headers.get("Location", "nowhere")[:200]
        said += f", and sends us on to {elsewhere!r}: give that address as url if it is the right one"
    raise FetchError(said + _HINTS.get(status, ""))
