"""A hawkBit server for tests: its Direct Device Integration API on loopback.

Answers and the effects of feedback on an action follow hawkBit's own DdiRootController,
DataConversionHelper, JpaControllerManagement, JpaConfirmationManagement, RestConfiguration and their tests.
Operations of the Management API are methods here.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import quote, urlsplit

from tests.ota.servers import Loopback

EXECUTIONS = (
    "closed", "proceeding", "canceled", "scheduled", "rejected", "resumed", "downloaded", "download",
)  # fmt: skip
FINISHED = ("success", "failure", "none")
MAX_MESSAGES, MAX_STATUSES, MAX_MESSAGE = 50, 1000, 512
ATTRIBUTE = re.compile(r"[a-zA-Z0-9_\-!@#$%^&*()+=\[\]{}|;:'\",.<>/\\?\s]{0,128}", re.ASCII)


@dataclass
class Action:
    """A distribution that is assigned to the target.

    Attributes:
        kind: forced, soft or download_only.
        window: Whether its maintenance window is open; None: it has none.
        status: The status in hawkBit's terms, in lower case.
        reported: The executions and results that the device reported, with the messages.
    """

    id: int
    chunks: list[dict[str, Any]]
    kind: str = "forced"
    window: bool | None = None
    status: str = "running"
    active: bool = True
    reported: list[tuple[str, str, list[str]]] = field(default_factory=list)

    @property
    def stops(self) -> bool:
        return self.status in ("canceling", "canceled")

    @property
    def waits(self) -> bool:
        return self.status == "wait_for_confirmation"

    @property
    def executions(self) -> list[str]:
        """Return the distinct executions that the device reported."""
        return list(dict.fromkeys(execution for execution, *_ in self.reported))

    @property
    def ends(self) -> list[tuple[str, str]]:
        """Return the reports that ended or rejected the action, or answered a cancellation."""
        return [
            reported[:2]
            for reported in self.reported
            if reported[0] in ("closed", "denied") or "cancel" in reported[0]
        ]

    @property
    def deployment(self) -> dict[str, Any]:
        download = "attempt" if self.kind == "soft" else "forced"
        skip = self.kind == "download_only" or self.window is False
        fields = {"download": download, "update": "skip" if skip else download, "chunks": self.chunks}
        if self.window is None:
            return fields
        return fields | {"maintenanceWindow": "available" if self.window else "unavailable"}

    @property
    def etag(self) -> int:
        return hash((self.id, self.kind, self.window))


@dataclass(frozen=True)
class Seen:
    """A request and its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int


Fault = Callable[["Request"], None]


class DdiServer(Loopback):
    """One tenant, one target; serves until the end of the block.

    Attributes:
        confirms: Whether actions need a confirmation.
        attributes: Attributes of the target. asks: Whether they are requested.
        faults: Faults by the end of the path, instead of an answer.
        seen: The requests.
    """

    def __init__(self, controller: str = "robot-1", tenant: str = "DEFAULT") -> None:
        super().__init__(Request)
        self.controller, self.tenant = controller, tenant
        self.target_token, self.gateway_token = "target-secret", "gateway-secret"
        self.sleep = "00:05:00"
        self.confirms = False
        self.asks = True
        self.attributes: dict[str, str] = {}
        self.actions: dict[int, Action] = {}
        self.installed: int | None = None
        self.faults: dict[str, Fault] = {}
        self.seen: list[Seen] = []
        self.on_success: Callable[[], None] = lambda: None
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def base(self) -> str:
        return f"/{quote(self.tenant, safe='')}/controller/v1/{quote(self.controller, safe='')}"

    def assign(
        self,
        version: str,
        *,
        name: str = "toy",
        kind: str = "forced",
        window: bool | None = None,
        **more: Any,
    ) -> Action:
        """Assign a distribution as the Management API does: older actions are softly canceled."""
        with self.lock:
            for action in self.actions.values():
                if action.active:
                    action.status = "canceling"
            chunk = {"part": "jepa-model", "name": name, "version": version, "artifacts": []} | more
            action = Action(100 + len(self.actions), [chunk], kind, window)
            action.status = "wait_for_confirmation" if self.confirms else "running"
            self.actions[action.id] = action
            return action

    def cancel(self, action: Action) -> None:
        with self.lock:
            assert action.active and not action.stops
            action.status = "canceling"

    def force_quit(self, action: Action) -> None:
        with self.lock:
            action.active, action.status = False, "canceled"

    def confirm(self, action: Action) -> None:
        with self.lock:
            action.status = "running"

    def first(self) -> Action | None:
        """Return the active action with the highest weight: all have the same here, so the oldest."""
        return next((action for action in self.actions.values() if action.active), None)

    @contextmanager
    def fails(self, ends: str, fault: Fault) -> Iterator[None]:
        self.faults[ends] = fault
        try:
            yield
        finally:
            del self.faults[ends]


class _StatusAnswer(Exception):
    """Answer with a status only."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Request(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: DdiServer

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def do_PUT(self) -> None:
        self._do()

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _do(self) -> None:
        server = self.server
        path = urlsplit(self.path).path
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with server.lock:
            for ends, fault in server.faults.items():
                if path.endswith(ends):
                    self._note(path, raw, 0)
                    fault(self)
                    return
            try:
                status, content = self._answer(path, raw)
            except _StatusAnswer as answer:
                status, content = answer.status, None
            self._note(path, raw, status)
        body = b"" if content is None else json.dumps(content).encode()
        if self.command != "GET" or status != 200:
            self.send(status, body)
            return
        etag = f'"0{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        if self.headers.get("If-None-Match") == etag:
            self.send(304, ETag=etag)
        else:
            self.send(200, body, ETag=etag, Content_Type="application/hal+json")

    def _note(self, path: str, raw: bytes, status: int) -> None:
        body = json.loads(raw) if raw else None
        self.server.seen.append(Seen(self.command, path, dict(self.headers), body, status))

    def _answer(self, path: str, raw: bytes) -> tuple[int, Any]:
        server = self.server
        inputs = self.headers.get("Authorization", "")
        if not path.startswith(server.base) or inputs not in (
            f"TargetToken {server.target_token}",
            f"GatewayToken {server.gateway_token}",
        ):
            raise _StatusAnswer(401)
        rest = path.removeprefix(server.base).strip("/").split("/")
        match self.command, rest:
            case "GET", [""]:
                return 200, self._base()
            case "GET", ["deploymentBase", id_]:
                action = self._action(id_)
                if action.stops or action.waits:
                    raise _StatusAnswer(404)
                action.status = "retrieved" if action.active else action.status
                return 200, {"id": id_, "deployment": action.deployment}
            case "GET", ["confirmationBase", id_]:
                action = self._action(id_)
                if not action.waits:
                    raise _StatusAnswer(404)
                return 200, {"id": id_, "confirmation": action.deployment}
            case "GET", ["cancelAction", id_]:
                if not self._action(id_).stops:
                    raise _StatusAnswer(404)
                return 200, {"id": id_, "cancelAction": {"stopId": id_}}
            case "GET", ["installedBase", id_]:
                action = self._action(id_)
                if action.active or action.stops:
                    raise _StatusAnswer(404)
                return 200, {"id": id_, "deployment": action.deployment}
            case "POST", ["deploymentBase", id_, "feedback"]:
                self._updated(self._action(id_), *self._feedback(raw))
            case "POST", ["cancelAction", id_, "feedback"]:
                self._cancelled(self._action(id_), *self._feedback(raw))
            case "POST", ["confirmationBase", id_, "feedback"]:
                self._confirmed(self._action(id_), self._json(raw))
            case "PUT", ["configData"]:
                self._described(self._json(raw))
            case _:
                raise _StatusAnswer(405)
        return 200, None

    def _base(self) -> dict[str, Any]:
        server, links = self.server, {}
        action = server.first()
        href = f"{server.url}{server.base}"
        if action is not None and action.waits:
            links["confirmationBase"] = {"href": f"{href}/confirmationBase/{action.id}?c={action.etag}"}
        elif action is not None and action.stops:
            links["cancelAction"] = {"href": f"{href}/cancelAction/{action.id}"}
        elif action is not None:
            links["deploymentBase"] = {"href": f"{href}/deploymentBase/{action.id}?c={action.etag}"}
        if server.installed is not None:
            links["installedBase"] = {"href": f"{href}/installedBase/{server.installed}"}
        if server.asks:
            links["configData"] = {"href": f"{href}/configData"}
        config = {"config": {"polling": {"sleep": server.sleep}}}
        return config | ({"_links": links} if links else {})

    def _action(self, id_: str) -> Action:
        action = self.server.actions.get(int(id_)) if id_.isdecimal() else None
        if action is None:
            raise _StatusAnswer(404)
        return action

    def _json(self, raw: bytes) -> dict[str, Any]:
        if self.headers.get("Content-Type") != "application/json":
            raise _StatusAnswer(415)
        content = json.loads(raw)
        if not isinstance(content, dict):
            raise _StatusAnswer(400)
        return content

    def _feedback(self, raw: bytes) -> tuple[str, str, list[str]]:
        status = self._json(raw).get("status", {})
        execution, result, details = (status.get(key) for key in ("execution", "result", "details"))
        finished = result.get("finished") if isinstance(result, dict) else None
        progress = result.get("progress", {}) if isinstance(result, dict) else {}
        numbers = all(type(value) is int and abs(value) < 1 << 31 for value in progress.values())
        lines = [] if details is None else details
        if not isinstance(lines, list) or not all(isinstance(one, str) for one in lines):
            raise _StatusAnswer(400)
        if execution not in EXECUTIONS or finished not in FINISHED or not numbers:
            raise _StatusAnswer(400)
        return execution, finished, lines

    def _updated(self, action: Action, execution: str, finished: str, details: list[str]) -> None:
        if action.waits:
            raise _StatusAnswer(404)
        if not action.active:
            raise _StatusAnswer(410)
        if len(details) > MAX_MESSAGES or (execution != "closed" and len(action.reported) >= MAX_STATUSES):
            raise _StatusAnswer(429)
        assert all(len(one) <= MAX_MESSAGE for one in details), "the server would split the message"
        action.reported.append((execution, finished, details))
        if execution == "closed":
            action.active = False
            action.status = "error" if finished == "failure" else "finished"
            if action.status == "finished":
                self.server.on_success()
                self.server.installed, self.server.asks = action.id, True
        elif execution == "downloaded" and action.kind == "download_only":
            action.active, action.status = False, "downloaded"
            self.server.asks = True

    def _cancelled(self, action: Action, execution: str, finished: str, details: list[str]) -> None:
        if not action.stops:
            raise _StatusAnswer(405)
        action.reported.append((f"cancel {execution}", finished, details))
        if execution == "closed" and finished != "failure":
            action.active, action.status = False, "canceled"
        elif execution in ("closed", "rejected"):
            action.status = "running"

    def _confirmed(self, action: Action, content: dict[str, Any]) -> None:
        answer = content.get("confirmation")
        if answer not in ("confirmed", "denied"):
            raise _StatusAnswer(400)
        if not action.active:
            raise _StatusAnswer(410)
        if not action.waits:
            raise _StatusAnswer(404)
        action.reported.append((answer, "none", content.get("details", [])))
        if answer == "confirmed":
            action.status = "running"

    def _described(self, content: dict[str, Any]) -> None:
        data = content.get("data")
        if not isinstance(data, dict) or not data or content.get("mode") != "merge":
            raise _StatusAnswer(400)
        if not all(ATTRIBUTE.fullmatch(key) and ATTRIBUTE.fullmatch(value) for key, value in data.items()):
            raise _StatusAnswer(400)
        self.server.attributes |= data
        self.server.asks = False
