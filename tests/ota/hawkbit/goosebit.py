"""gooseBit (PyPI), a DDI server independent of this project, in an environment and process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError

REQUIREMENT = "goosebit==0.2.12"
_INSTALL_S, _START_S = 300.0, 60.0
_SERVE = """
import sys
import uvicorn
from tortoise import Tortoise, run_async
from goosebit.db.config import TORTOISE_CONF

async def make_tables():
    await Tortoise.init(config=TORTOISE_CONF)
    await Tortoise.generate_schemas()

run_async(make_tables())
from goosebit import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


class NotInstalledError(Exception):
    """gooseBit cannot be installed; the message states the reason."""


def install(folder: Path) -> Path:
    """Install gooseBit into a new environment.

    Returns:
        The environment's Python.

    Raises:
        NotInstalledError: pip failed, for example without a network.
    """
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "10", REQUIREMENT]
    try:
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"{REQUIREMENT}: not installed within {_INSTALL_S:g} s") from error
    except subprocess.CalledProcessError as error:
        message = error.stderr.strip().splitlines() or ["no reason given"]
        raise NotInstalledError(f"{REQUIREMENT}: pip cannot install it: {message[-1]}") from error
    return python


class GooseBit:
    """A server that accepts only devices that its operator has set up; serves until the end of the block.

    Attributes:
        url: The address for devices.
        target_token: The token that the operator gives every device.
    """

    target_token = "goose-secret"

    def __init__(self, python: Path, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._token = ""
        settings = {
            "GOOSEBIT_DB_URI": f"sqlite://{folder / 'db.sqlite3'}",
            "GOOSEBIT_ARTIFACTS_DIR": str(folder / "artifacts"),
            "GOOSEBIT_POLL_TIME": "00:01:00",
            "GOOSEBIT_DEVICE_AUTH": json.dumps({"enable": True, "mode": "strict"}),
        }
        folder.mkdir()
        self._log = (folder / "log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [python, "-c", _SERVE, str(port)],
            cwd=folder, env=os.environ | settings, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self) -> GooseBit:
        ends = time.monotonic() + _START_S
        while True:
            try:
                self._token = self._sign_up()
                return self
            except URLError:
                if self._process.poll() is not None or time.monotonic() > ends:
                    self.__exit__(None, None, None)
                    raise
                time.sleep(0.1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        """Return the log of the server."""
        self._log.seek(0)
        return self._log.read()

    def add_software(self, name: str, version: str) -> int:
        """Upload an image with the name of the software module; return its id."""
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        body = head.encode() + _image(version) + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        answer = self._ask("PUT", "/api/v1/software", body, kind)
        assert isinstance(answer["id"], int)
        return answer["id"]

    def set_device(self, name: str, **fields: Any) -> None:
        """Create or change a device."""
        self._ask("PUT", "/api/v1/devices", {"devices": [name], **fields})

    def roll_out(self, software: int, feed: str) -> None:
        """Assign a software to the devices of a feed."""
        fields = {"name": f"{feed} {software}", "feed": feed, "software_id": software}
        self._ask("PUT", "/api/v1/rollouts", fields)

    def device(self, name: str) -> dict[str, Any]:
        """Return the server's record of a device."""
        devices = self._ask("GET", "/api/v1/devices")["devices"]
        (result,) = (device for device in devices if device["id"] == name)
        assert isinstance(result, dict)
        return result

    def device_log(self, name: str) -> str:
        """Return the messages that a device reported."""
        return str(self._ask("GET", f"/api/v1/devices/{name}/log")["log"])

    def _sign_up(self) -> str:
        form = b"grant_type=password&username=operator@example.org&password=secret"
        answer = self._ask("POST", "/setup", form, "application/x-www-form-urlencoded")
        return str(answer["access_token"])

    def _ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as response:
            return json.load(response)


def _image(version: str) -> bytes:
    """Return the minimal SWUpdate image with a version: a cpio archive with its description."""
    content = f'software = {{ version = "{version}"; }};'.encode()
    name = b"sw-description\0"
    fields = [0, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return header + b"\0" * (-len(header) % 4) + content
