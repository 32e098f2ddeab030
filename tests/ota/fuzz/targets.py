"""All readers of untrusted bytes on a robot, with valid inputs as seeds.

For any bytes, a reader accepts them or raises one of its errors, quickly and with little memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from securesystemslib.formats import encode_canonical

from jepa_export.release import delta_maker as packing
from jepa_runtime.bundle import Bundle
from jepa_runtime.bundle.golden_outputs import read_npz
from jepa_runtime.bundle.manifest_parser import parse_manifest
from jepa_runtime.bundle.reader import _check_onnx
from jepa_runtime.errors import (
    BundleError,
    FetchError,
    ReleaseRejectedError,
    StorageError,
    TrustError,
    UpdateError,
)
from jepa_runtime.ota import audit_log, config, state
from jepa_runtime.ota.gate import probe
from jepa_runtime.ota.gate.latency_budget import Comparison, Cost
from jepa_runtime.ota.hawkbit import ddi_messages, saved_state
from jepa_runtime.ota.release import Delta, Release, parse_release
from jepa_runtime.ota.transport import deltas
from jepa_runtime.ota.transport.fetch import fetch_bytes
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import Limits, NotFoundError
from jepa_runtime.ota.trust.metadata import Floors
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from tests.ota import robots
from tests.ota.repositories import FILE, LIVES, START, Repository
from tests.ota.servers import FakeClock
from tests.ota.test_state import FULL

_BASE = bytes(range(256)) * 16
_MADE = bytes((7 * byte) % 251 for byte in range(5000))
_WHERE = "fuzz"


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: Valid inputs.
        read: Reads bytes.
        errors: Exceptions that it may raise.
        share: Its share of all executions, relative to the others.
    """

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    is_json: bool = False
    share: float = 1.0


def targets(home: Path, toy: Path) -> list[Target]:
    """Return all readers.

    Args:
        home: A folder for their files.
        toy: A bundle.
    """
    bundle = Bundle.open(toy)
    state_file, config_file, log = home / "state.json", home / "config.json", home / "audit.log"
    state.save(state_file, FULL)
    config.save(
        config_file,
        robots.settings(shadow="camera:0", targets="https://cdn.example/targets", fetch=Limits(max_bytes=9)),
    )
    writer = audit_log.AuditLog(log, lambda: robots.NOW)
    for number in range(4):
        writer.append("probed", latency_p99_ms=1.5, number=number, text='é "quoted"')
    onnx = tuple(path.read_bytes() for path in sorted(toy.rglob("*.onnx")))
    cost = Cost(p99_ms=2.0, least_ms=1.0)
    report = probe.ProbeReport(
        latency_p50_ms=1.0,
        latency_p99_ms=2.0,
        cost=cost,
        by_clock=False,
        others=0.5,
        peak_memory_mb=9.0,
        network_isolated=True,
        disk_isolated=True,
        comparison=Comparison(candidate=cost, active=cost, ratio=1.0, low=0.99, high=1.01),
    )
    return [
        Target(
            "manifest",
            ((bundle.path / "manifest.json").read_bytes(),),
            parse_manifest,
            (BundleError,),
            is_json=True,
        ),
        Target("pointer", _pointers(bundle), parse_release, (TrustError,), is_json=True),
        Target(
            "state",
            (state_file.read_bytes(),),
            _loading(state_file, state.load),
            (StorageError,),
            is_json=True,
        ),
        Target(
            "state, its checksum right",
            (json.dumps(state.as_json(FULL)).encode(), json.dumps(state.as_json(state.State())).encode()),
            _loading(home / "checked.json", state.load, _checked),
            (StorageError,),
            is_json=True,
        ),
        Target(
            "config",
            (config_file.read_bytes(),),
            _loading(config_file, config.load),
            (UpdateError,),
            is_json=True,
        ),
        Target("audit log", (log.read_bytes(),), _loading(log, _read_log), (StorageError,)),
        Target("delta", tuple(_deltas()), _applying(home), (UpdateError,)),
        Target("onnx", tuple(model for model in onnx if len(model) < 50_000), _onnx, (BundleError,)),
        Target("arrays", tuple(_arrays()), lambda data: read_npz(data, _WHERE), (BundleError,), share=0.5),
        Target(
            "report of a probe",
            (probe.Answer(report=report).model_dump_json().encode(), b'{"report":null,"reason":"slow"}'),
            lambda data: probe.parse_outcome(_WHERE, 0, data, data[-99:], probe.ProbeLimits()),
            (ReleaseRejectedError,),
            is_json=True,
            share=0.5,
        ),
        *_metadata(home),
        *_fleet(home),
        Target(
            "answer of a server", tuple(_ANSWERS), _Server().connect, (FetchError, TrustError), share=0.05
        ),
    ]


def _loading(
    path: Path, load: Callable[[Path], object], wrapped: Callable[[bytes], bytes] = bytes
) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        path.write_bytes(wrapped(data))
        return load(path)

    return read


def _checked(fields: bytes) -> bytes:
    try:
        checksum = state._checksum(json.loads(fields))
    except (ValueError, RecursionError):
        checksum = ""
    return b'{"sha256": "%s", "state": %s}' % (checksum.encode(), fields)


def _read_log(path: Path) -> None:
    """Open a log with any content: a robot can append to it, and readers get an error."""
    try:
        audit_log.AuditLog(path, lambda: robots.NOW).append("looked")
    except StorageError as error:
        raise AssertionError("a damaged log stops a robot") from error
    list(audit_log.AuditLog(path, lambda: robots.NOW).entries())


def _onnx(data: bytes) -> None:
    _check_onnx(data, _WHERE)


def _pointers(bundle: Bundle) -> tuple[bytes, ...]:
    delta = Delta(
        path="encoder/model.bin", base_sha256="0" * 64, target="models/stable/toy/deltas/a/b", bytes=99
    )
    plain: Release = robots.release_of(bundle, 7)
    full = plain.model_copy(update={"deltas": (delta, delta), "revoked": (1, 2, 6)})
    return plain.model_dump_json().encode(), full.model_dump_json().encode()


def _arrays() -> Iterator[bytes]:
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, frames=np.zeros((1, 4, 4, 3), np.uint8), latents=np.ones((1, 2, 8), np.float32))
        yield file.getvalue()


def _deltas() -> Iterator[bytes]:
    """Return real frames, and frames with a false size or other content that may break a reader."""
    head = deltas.HEADER.pack(deltas.MAGIC, deltas.VERSION, len(_BASE), len(_MADE))
    content = packing.make(_BASE, _MADE)[deltas.HEADER.size :]
    zeros, noise = bytes(len(_MADE)), hashlib.shake_128(b"noise").digest(len(_MADE))
    yield head + content
    for payload in (zeros, noise):
        for options in ({"write_content_size": False}, {"write_checksum": True}):
            yield head + zstandard.ZstdCompressor(**options).compress(payload)
    stream = zstandard.ZstdCompressor().compressobj()
    yield (
        head
        + stream.compress(noise[:2000])
        + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        + stream.flush()
    )
    # A frame of one segment with a claimed size of 2^40 bytes, and one that requires a window of 2 GiB.
    yield head + b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 40) + content[9:]
    yield head + b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x03\x00\x00"
    yield head + b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip" + content
    yield head + zstandard.compress(bytes(1 << 22))
    yield deltas.HEADER.pack(deltas.MAGIC, deltas.VERSION, len(_BASE), 2**64 - 1) + content


def _applying(home: Path) -> Callable[[bytes], object]:
    base, delta, out = home / "base", home / "delta", home / "out"
    base.write_bytes(_BASE)
    right = hashlib.sha256(_MADE).hexdigest()

    def read(data: bytes) -> None:
        delta.write_bytes(data)
        try:
            deltas.apply(base, delta, out, sha256=right, length=len(_MADE))
        except UpdateError:
            assert not out.exists()
            raise
        assert out.read_bytes() == _MADE

    return read


class _Folder:
    """A source in memory.

    Attributes:
        files: Contents by path.
    """

    offset = 0

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Any]:
        if path not in self.files:
            raise NotFoundError(f"{path}: no such file")
        yield io.BytesIO(self.files[path])


def _metadata(home: Path) -> Iterator[Target]:
    """Return each role, as published and as signed by its own keys."""
    repository = Repository(home / "repository")
    repository.publish("targets", "channel-stable")
    repository.rotate("timestamp")
    repository.publish()
    for role in [role for role in LIVES if role != "channel-canary"]:
        content = repository.file(role).read_bytes()
        seeds = (content,)
        message = (json.dumps(json.loads(content)["signed"]).encode(),)
        for name, inputs, signs in (
            (f"{role}, as it comes", seeds, False),
            (f"{role}, signed", message, True),
        ):
            yield Target(
                name,
                inputs,
                _refreshing(home, repository, role, signs),
                (TrustError, FetchError, StorageError),
                is_json=True,
                share=0.15 if signs else 0.05,
            )


def _refreshing(home: Path, repository: Repository, role: str, signs: bool) -> Callable[[bytes], object]:
    files = {path.name: path.read_bytes() for path in (repository.folder / "metadata").iterdir()}
    served = repository.folder / "targets"
    files |= {str(path.relative_to(served)): path.read_bytes() for path in served.rglob("*.bin")}
    name, signers = repository.file(role).name, list(repository.signers[role])

    def read(data: bytes) -> None:
        content = data
        if signs:
            try:
                message = json.loads(data)
                payload = (encode_canonical(message) or "").encode()
            except Exception:  # metadata that cannot be signed has no signer
                return
            content = json.dumps(
                {"signed": message, "signatures": [signer.sign(payload).to_dict() for signer in signers]}
            ).encode()
        source, meta = _Folder(files | {name: content}), Path(tempfile.mkdtemp(dir=home))
        try:
            trust = RepositoryTrust(
                meta,
                root=repository.first_root,
                metadata=source,
                targets=source,
                limits=Limits(free_bytes=0),
                now=lambda: START,
            )
            trust.refresh(Floors({"timestamp": 1}, START))
            trust.read(FILE, 1 << 20)
        finally:
            shutil.rmtree(meta)

    return read


def _fleet(home: Path) -> Iterator[Target]:
    """Return answers of a hawkBit server and stored orders."""
    chunk = {"part": "os", "name": "toy", "version": "2.0.0", "metadata": [{"key": "k", "value": "v"}]}
    does = {"download": "forced", "update": "attempt", "maintenanceWindow": "available", "chunks": [chunk]}
    links = {name: {"href": f"https://h/DEFAULT/controller/v1/robot-1/{name}/12"} for name in _RELATIONS}
    message: dict[type[ddi_messages._Message], dict[str, Any]] = {
        ddi_messages.Base: {"config": {"polling": {"sleep": "00:05:00"}}, "_links": links},
        ddi_messages.DeploymentBase: {"id": "12", "deployment": does},
        ddi_messages.ConfirmationBase: {"id": "12", "confirmation": does},
        ddi_messages.CancelAction: {"id": "12", "cancelAction": {"stopId": "11"}},
    }
    for kind, content in message.items():
        seeds = (json.dumps(content).encode(),)
        name = f"hawkBit: {kind.__name__}"
        yield Target(name, seeds, _reading(kind), (FetchError,), is_json=True, share=0.4)
    path = home / "hawkbit.json"
    order = saved_state.Order(
        action="12", version="2.0.0", fetch=True, switch=False, only_fetch=False, confirmed=True
    )
    answer = saved_state.Answer(execution="closed", finished="success", details=("it serves",))
    saved_state.save(
        path, saved_state.SavedState(order=order, answers={"11": answer}, attributes={"serves": "1.0.0"})
    )
    seeds, read = (path.read_bytes(),), _loading(path, saved_state.load)
    yield Target("hawkBit: what is kept", seeds, read, (StorageError,), is_json=True, share=0.4)


def _reading(kind: type[ddi_messages._Message]) -> Callable[[bytes], object]:
    def read(data: bytes) -> None:
        message = ddi_messages.parse(kind, data, _WHERE)
        if isinstance(message, ddi_messages.Base):
            assert message.sleep_s > 0
            for relation in _RELATIONS:
                ddi_messages.action_of(message, relation, "DEFAULT", "robot-1", _WHERE)

    return read


_RELATIONS = ("deploymentBase", "confirmationBase", "cancelAction", "installedBase")
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 3-7/8\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */8\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 99999999999\r\nContent-Length: 3\r\n\r\nbad",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\x00\x00",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
)


class _Server:
    """Give every client the same answer to any request; it starts with the first request."""

    def __init__(self) -> None:
        self._answer = b""
        self._source: HttpSource | None = None

    def connect(self, data: bytes) -> None:
        if self._source is None:
            listening = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=self._serve, args=(listening,), daemon=True).start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            self._source = HttpSource(url, Limits(read_s=2, free_bytes=0), FakeClock())
        self._answer = data
        with self._source.open("file", 3) as body:
            assert body.offset in (0, 3)
        fetch_bytes(self._source, "file", max_bytes=1000, limits=Limits(), clock=FakeClock())

    def _serve(self, listening: socket.socket) -> None:
        while True:
            peer, _ = listening.accept()
            with peer, suppress(OSError):
                request = b""
                while not request.endswith(b"\r\n\r\n") and (more := peer.recv(65536)):
                    request += more
                peer.sendall(self._answer)
                peer.shutdown(socket.SHUT_WR)
