"""The DDI client: requests to the hawkBit server over HTTP.

One request at a time, each limited in time and size. Redirects are not followed, and only action ids are
taken from links: the token is sent to the address in ``config.json`` alone.
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
from jepa_runtime.ota.transport.connections import Connections, connection_errors, describe_response
from jepa_runtime.ota.transport.repository_sources import NotFoundError

MAX_ANSWER_BYTES = 1 << 20
CONNECT_S, READ_S = 5.0, 10.0
Channel = Literal["deploymentBase", "confirmationBase", "cancelAction"]

_MAX_TOKEN_BYTES = 1024
_MAX_CACHED = 4
_TOKEN, _ETAG = re.compile(r"[!-~]+"), re.compile(r"[ -~]{1,256}")
_SCHEMES = {"target": "TargetToken", "gateway": "GatewayToken"}
_ACCEPT = "application/hal+json, application/json"
_HINTS = {
    401: ": the token was not accepted: check token_file, token, tenant and device_id",
    403: ": access is denied: check token, tenant and the permissions on the server",
}
_Action = TypeVar("_Action", CancelAction, ConfirmationBase, DeploymentBase)
_Answer = TypeVar("_Answer", Base, CancelAction, ConfirmationBase, DeploymentBase)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """The response to a poll: at most one of the first three actions, by its id.

    Attributes:
        deployment: The deployment to carry out.
        confirmation: The deployment that waits for a confirmation.
        cancellation: The cancellation to carry out.
        installed: The last deployment that was reported as successful.
        wants_attributes: Whether the server requests attributes.
        sleep_s: The pause until the next poll in seconds.
    """

    deployment: str | None = None
    confirmation: str | None = None
    cancellation: str | None = None
    installed: str | None = None
    wants_attributes: bool = False
    sleep_s: float


class DdiClient:
    """Sends requests of one robot to its server.

    Every method raises FetchError if the request fails
    (:class:`~jepa_runtime.ota.transport.repository_sources.BusyError`: the server requests a pause;
    :class:`~jepa_runtime.ota.transport.repository_sources.NotFoundError`: the action no longer exists), and
    UpdateError if the address or the token cannot be used.

    Args:
        root: The robot's folder.
        settings: The field ``hawkbit`` of ``config.json``.
        controller: The robot's controller id on the server.
    """

    def __init__(self, root: Path, settings: Hawkbit, controller: str) -> None:
        self._settings, self._controller = settings, controller
        self._token_file = root / settings.token_file
        base = settings.url.rstrip("/")
        self._connections = Connections(base, connect_s=CONNECT_S, read_s=READ_S, clock=time)
        self._base = f"{base}/{quote(settings.tenant, safe='')}/controller/v1/{quote(controller, safe='')}"
        self._cache: dict[str, tuple[str, bytes]] = {}

    def poll(self) -> Offer:
        """Poll the server."""
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
        """Return a deployment."""
        return self._action("deploymentBase", action, DeploymentBase).deployment

    def installed(self, action: str) -> Deployment:
        """Return the deployment that the server considers installed."""
        return self._action("installedBase", action, DeploymentBase).deployment

    def confirmation(self, action: str) -> Deployment:
        """Return a deployment that waits for a confirmation."""
        return self._action("confirmationBase", action, ConfirmationBase).confirmation

    def cancelled_action(self, action: str) -> str:
        """Return the action that a cancellation stops."""
        return self._action("cancelAction", action, CancelAction).stop.stop_id

    def send_feedback(self, channel: Channel, action: str, body: Mapping[str, Any]) -> None:
        """Send feedback on an action."""
        self._send("POST", f"/{channel}/{action}/feedback", body)

    def put_attributes(self, attributes: Mapping[str, str]) -> None:
        """Send attributes of this robot; other attributes on the server stay."""
        self._send("PUT", "/configData", {"mode": "merge", "data": dict(attributes)})

    def _action(self, resource: str, action: str, model: type[_Action]) -> _Action:
        answer = self._get(f"/{resource}/{action}", model)
        if answer.id != action:
            raise FetchError(
                f"{self._base}: the server returned action {answer.id} instead of {action}",
                code="hawkbit.wrong_action",
            )
        return answer

    def _get(self, path: str, model: type[_Answer]) -> _Answer:
        etag, content = self._cache.get(path, ("", b""))
        status, headers, new = self._request("GET", path, {"If-None-Match": etag} if etag else {})
        if status != 304 or not etag:
            content = new
        parsed = parse(model, content, self._base + path)
        etag = headers.get("ETag", etag if status == 304 else "")
        if _ETAG.fullmatch(etag):
            # Only the newest entries are cached: few requests are repeated.
            self._cache = dict([*self._cache.items(), (path, (etag, content))][-_MAX_CACHED:])
        return parsed

    def _send(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        self._request(method, path, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        url = self._base + path
        headers = {"Accept": _ACCEPT, "Authorization": self._authorization(), **headers}
        with connection_errors(url):
            response = self._connections.request(method, url, headers, body)
            try:
                content = b""
                # The whole body has to arrive within the timeout of the headers.
                while len(content) <= MAX_ANSWER_BYTES and (more := response.read1(1 << 16)):
                    content += more
            finally:
                response.close()
        _check(url, response.status, response.headers)
        if len(content) > MAX_ANSWER_BYTES:
            raise FetchError(
                f"{url}: the response is longer than {MAX_ANSWER_BYTES >> 20} MiB",
                code="hawkbit.response_too_long",
            )
        return response.status, response.headers, content

    def _authorization(self) -> str:
        """Return the authorization header; the token is read each time, because it may be replaced."""
        path = self._token_file
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(_MAX_TOKEN_BYTES + 1) if stat.S_ISREG(mode) else b""
        except OSError as error:
            raise UpdateError(
                f"{path}: cannot read the token: {error.strerror}: store the robot's token of the server "
                "there, readable by its owner only",
                code="hawkbit.token_unreadable",
            ) from error
        if mode & 0o077:
            raise UpdateError(
                f"{path}: other accounts can read the token ({stat.filemode(mode)}): run `chmod 600 {path}`",
                code="hawkbit.token_permissions",
            )
        token = content.decode("ascii", "replace").strip()
        if len(content) > _MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
            raise UpdateError(
                f"{path}: holds no valid token: one word of printable ASCII is expected",
                code="hawkbit.token_invalid",
            )
        return f"{_SCHEMES[self._settings.token]} {token}"


def _check(url: str, status: int, headers: Mapping[str, str]) -> None:
    if status in (200, 201, 202, 204, 304):
        return
    message = describe_response(url, status, headers)
    if status in (404, 405, 410):
        raise NotFoundError(
            f"{message}: the robot or the action does not exist there", code="hawkbit.not_found"
        )
    if 300 <= status < 400:
        target = headers.get("Location", "no location")[:200]
        message += f" and redirects to {target!r}: configure that address as url if it is the right one"
    raise FetchError(message + _HINTS.get(status, ""), code="hawkbit.http_status")
