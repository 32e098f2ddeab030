"""Unavailable files of a web server are reported quickly with the exact reason."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import unquote, unquote_plus

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from jepa_runtime.errors import FetchError, UpdateError
from jepa_runtime.ota.transport.fetch import fetch_bytes
from jepa_runtime.ota.transport.http_source import HttpSource
from jepa_runtime.ota.transport.repository_sources import BusyError, NotFoundError
from tests.errors import code
from tests.ota import servers
from tests.ota.downloads import LARGE, LIMITS, QUICK, SMALL, fetch
from tests.ota.servers import FakeClock, FaultServer

# Faults of a server, and the code of the error that is raised quickly.

NOT_NOW = {
    "404": (servers.status(404), NotFoundError, "http.not_found"),
    "403, as object stores say": (
        servers.status(403),
        NotFoundError,
        "http.not_found",
    ),
    "401": (servers.status(401), FetchError, "http.status"),
    "silent before the headers": (
        lambda request, _: request.wait() and None,
        FetchError,
        "http.read_timeout",
    ),
    "silent in the body": (servers.stall(5000), FetchError, "http.read_timeout"),
    "cut": (servers.cut(5000), FetchError, "http.connection_lost"),
    "cut at once": (servers.cut(0), FetchError, "http.connection_lost"),
    "no HTTP": (servers.garbage, FetchError, "http.connection_lost"),
    "headers without end": (servers.slow_headers(0.01), FetchError, "http.read_timeout"),
    "sent to another host": (
        servers.status(302, Location="http://localhost:9/small"),
        FetchError,
        "http.foreign_redirect",
    ),
    "sent to another protocol": (
        servers.status(301, Location="ftp://127.0.0.1/small"),
        FetchError,
        "http.foreign_redirect",
    ),
    "sent to a file": (
        servers.status(301, Location="file:///etc/passwd"),
        FetchError,
        "http.foreign_redirect",
    ),
    "sent to nonsense": (
        servers.status(301, Location="http://[bad/small"),
        FetchError,
        "http.foreign_redirect",
    ),
    "sent nowhere": (servers.status(307), FetchError, "http.foreign_redirect"),
    "sent in a circle": (servers.status(308, Location="/small"), FetchError, "http.status"),
}


@pytest.mark.parametrize("decode", [unquote, unquote_plus], ids=["as most servers", "as S3"])
def test_version_with_a_plus_sign_is_fetched(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, decode: Callable[[str], str]
) -> None:
    monkeypatch.setattr(servers, "unquote", decode)
    (server.folder / "1.0.0+orin").write_bytes(SMALL)
    source = HttpSource(server.url, LIMITS)
    assert fetch_bytes(source, "1.0.0+orin", max_bytes=len(SMALL), limits=LIMITS) == SMALL


@pytest.mark.parametrize("name", NOT_NOW)
def test_unavailable_file_error_states_the_reason(server: FaultServer, part: Path, name: str) -> None:
    fault, kind, expected = NOT_NOW[name]
    server.faults["small"] = fault
    limits = QUICK if expected == "http.read_timeout" else LIMITS
    with pytest.raises(kind, check=code(expected)) as caught:
        fetch(HttpSource(server.url, limits), part, SMALL, "small")
    assert type(caught.value) is kind and str(caught.value).startswith(f"{server.url}/small: ")


def test_transient_server_error_is_retried(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.first(2, servers.status(500))
    fetch(HttpSource(server.url, LIMITS, FakeClock()), part, SMALL, "small")
    assert part.read_bytes() == SMALL


def test_permanent_server_error_is_reported(server: FaultServer, part: Path) -> None:
    server.faults["small"] = servers.status(503)
    with pytest.raises(FetchError, check=code("http.status")):
        fetch(HttpSource(server.url, LIMITS, FakeClock()), part, SMALL, "small")
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server_is_queried_once_and_reports_its_retry_delay(server: FaultServer, status: int) -> None:
    server.faults["small"] = servers.status(status, Retry_After="120")
    with pytest.raises(BusyError, check=code("http.busy")) as busy:
        fetch_bytes(HttpSource(server.url, LIMITS), "small", max_bytes=len(SMALL), limits=LIMITS)
    assert busy.value.after_s == 120 and len(server.requests) == 1


@pytest.mark.parametrize("after", ["soon", "-1", "Fri, 31 Dec 1999 23:59:59 GMT", "9" * 400])
def test_busy_server_without_a_retry_delay_fails_like_others(server: FaultServer, after: str) -> None:
    server.faults["small"] = servers.status(503, Retry_After=after)
    with pytest.raises(FetchError) as other:
        fetch_bytes(HttpSource(server.url, LIMITS, FakeClock()), "small", max_bytes=9, limits=LIMITS)
    assert type(other.value) is FetchError and len(server.requests) == 3


def test_endless_trailers_do_not_block(server: FaultServer) -> None:
    server.faults["small"] = servers.slow_trailers(0.01)
    with pytest.raises(FetchError, check=code("http.read_timeout")):
        fetch_bytes(HttpSource(server.url, QUICK), "small", max_bytes=2 * len(SMALL), limits=QUICK)


def test_refused_connection_is_reported(part: Path) -> None:
    with pytest.raises(FetchError, check=code("http.no_connection")):
        fetch(HttpSource(_closed_address(), LIMITS), part, SMALL, "small")


def _closed_address() -> str:
    with FaultServer(Path("/nonexistent")) as server:
        return server.url


def test_unknown_host_is_reported(part: Path) -> None:
    with pytest.raises(FetchError, check=code("http.unknown_host")):
        fetch(HttpSource("http://robot.invalid", LIMITS), part, SMALL, "small")


def test_redirect_on_the_same_server_is_followed(server: FaultServer, part: Path) -> None:
    server.faults["old"] = servers.status(301, Location="/small")
    fetch(HttpSource(server.url, LIMITS), part, SMALL, "old")
    assert part.read_bytes() == SMALL


def test_proxy_of_the_environment_is_used(
    server: FaultServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.faults["http://robot.invalid/small"] = servers.instead(SMALL)
    fetch(HttpSource("http://robot.invalid", LIMITS), part, SMALL, "small")
    assert part.read_bytes() == SMALL


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "host/path", "http://", "https://host/?a=b", "https://me:secret@host", "http://[::1"],
)
def test_malformed_server_address_is_rejected(url: str) -> None:
    with pytest.raises(UpdateError) as caught:
        HttpSource(url, LIMITS)
    assert "secret" not in str(caught.value)


# Encryption.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def encrypted(served: Path, certificate: Path) -> Iterator[FaultServer]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with FaultServer(served, tls) as server:
        yield server


def test_server_with_an_invalid_certificate_is_rejected(encrypted: FaultServer, part: Path) -> None:
    with pytest.raises(FetchError, check=code("http.certificate")):
        fetch(HttpSource(encrypted.url, LIMITS), part, SMALL, "small")
    assert encrypted.requests == []


def test_certificate_in_the_system_store_is_trusted(
    encrypted: FaultServer, part: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetch(HttpSource(encrypted.url, LIMITS), part, LARGE, "large")
    assert part.read_bytes() == LARGE


def test_redirect_from_https_to_http_is_rejected(
    encrypted: FaultServer,
    server: FaultServer,
    part: Path,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    encrypted.faults["small"] = servers.status(302, Location=f"{server.url}/small")
    with pytest.raises(FetchError, check=code("http.foreign_redirect")):
        fetch(HttpSource(encrypted.url, LIMITS), part, SMALL, "small")
    assert server.requests == []
