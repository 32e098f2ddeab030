"""A hawkBit server that is slow, faulty or not the expected one; and the recipients of the token."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.errors import FetchError, UpdateError
from jepa_runtime.ota.hawkbit import ddi_client as module
from jepa_runtime.ota.hawkbit.ddi_client import DdiClient, Offer
from jepa_runtime.ota.hawkbit.ddi_messages import (
    Base,
    CancelAction,
    ConfirmationBase,
    DeploymentBase,
    feedback,
    parse,
)
from jepa_runtime.ota.hawkbit.settings import Hawkbit
from jepa_runtime.ota.transport.repository_sources import BusyError, NotFoundError
from tests.errors import code
from tests.ota.hawkbit.ddi_faults import answers, silent, trickles
from tests.ota.hawkbit.ddi_server import DdiServer, Fault, Request


def connected(folder: Path, ddi: DdiServer, secret: str | None = None, **fields: str) -> DdiClient:
    file = folder / "hawkbit.token"
    file.write_text(ddi.target_token if secret is None else secret, encoding="utf-8")
    file.chmod(0o600)
    settings = Hawkbit.model_validate({"url": ddi.url, "tenant": ddi.tenant} | fields)
    return DdiClient(folder, settings, ddi.controller)


@pytest.fixture
def server(tmp_path: Path, ddi: DdiServer) -> DdiClient:
    return connected(tmp_path, ddi)


def test_poll_returns_the_pending_action(server: DdiClient, ddi: DdiServer) -> None:
    assert server.poll() == Offer(wants_attributes=True, sleep_s=300)
    ddi.asks, ddi.sleep = False, "01:02:03"
    action = ddi.assign("2.0.0")
    assert server.poll() == Offer(deployment=str(action.id), sleep_s=3723)
    ddi.cancel(action)
    assert server.poll().cancellation == str(action.id) == server.cancelled_action(str(action.id))


@pytest.mark.parametrize(
    ("sleep", "pause_s"),
    [("00:00:00", 5), ("00:00:04", 5), ("00:05:00", 300), ("24:00:01", 86_400), ("9999:59:59", 86_400)],
)
def test_poll_interval_is_set_by_the_server_within_limits(
    server: DdiClient, ddi: DdiServer, sleep: str, pause_s: float
) -> None:
    ddi.sleep = sleep
    assert server.poll().sleep_s == pause_s


@pytest.mark.parametrize("whose", ["target", "gateway"])
def test_poll_with_a_target_or_gateway_token_is_accepted_and_with_any_other_rejected(
    tmp_path: Path, ddi: DdiServer, whose: str
) -> None:
    assert connected(tmp_path, ddi, f"{whose}-secret\n", token=whose).poll().sleep_s == 300
    with pytest.raises(FetchError, check=code("hawkbit.http_status")):
        connected(tmp_path, ddi, "guessed", token=whose).poll()
    with pytest.raises(FetchError, check=code("hawkbit.http_status")):
        connected(tmp_path, ddi, tenant="OTHER").poll()


def test_replaced_token_file_is_reloaded(server: DdiClient, ddi: DdiServer, tmp_path: Path) -> None:
    server.poll()
    ddi.target_token = "another"
    with pytest.raises(FetchError, check=code("hawkbit.http_status")):
        server.poll()
    (tmp_path / "hawkbit.token").write_text("another", encoding="ascii")
    server.poll()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_token_file_readable_by_others_is_rejected(
    server: DdiClient, ddi: DdiServer, tmp_path: Path, mode: int
) -> None:
    (tmp_path / "hawkbit.token").chmod(mode)
    with pytest.raises(UpdateError, check=code("hawkbit.token_permissions")):
        server.poll()
    assert not ddi.seen


@pytest.mark.parametrize("content", ["", "two words", "line\r\nX-Injected: 1", "t\u00f6ken", "x" * 2000])
def test_malformed_token_is_not_sent(tmp_path: Path, ddi: DdiServer, content: str) -> None:
    with pytest.raises(UpdateError, check=code("hawkbit.token_invalid")):
        connected(tmp_path, ddi, content).poll()
    assert not ddi.seen


def test_missing_token_file_is_an_error(server: DdiClient, ddi: DdiServer, tmp_path: Path) -> None:
    file = tmp_path / "hawkbit.token"
    file.unlink()
    with pytest.raises(UpdateError, check=code("hawkbit.token_unreadable")):
        server.poll()
    file.mkdir(mode=0o700)
    with pytest.raises(UpdateError, check=code("hawkbit.token_unreadable")):
        server.poll()
    file.rmdir()
    os.mkfifo(file, mode=0o600)
    with pytest.raises(UpdateError, check=code("hawkbit.token_invalid")):
        server.poll()


def test_robot_and_tenant_names_stay_one_url_segment(tmp_path: Path) -> None:
    with DdiServer(controller="rover 7/\u00e4?#../x", tenant="a+b/\u00e4?c") as ddi:
        server = connected(tmp_path, ddi)
        action = ddi.assign("2.0.0")
        assert server.poll().deployment == str(action.id)
        assert server.deployment(str(action.id)).chunks[0].version == "2.0.0"


def test_unchanged_attributes_are_not_sent_again(server: DdiClient, ddi: DdiServer) -> None:
    action = ddi.assign("2.0.0", window=False)
    first = server.deployment(str(action.id))
    server.poll()
    assert server.deployment(str(action.id)) == first
    assert "If-None-Match" in ddi.seen[-1].headers
    action.window = True
    assert server.deployment(str(action.id)).window == "available"


@pytest.mark.parametrize(
    "href",
    [
        "http://evil.example/DEFAULT/controller/v1/robot-2/deploymentBase/5",
        "/OTHER/controller/v1/robot-1/deploymentBase/5",
        "/DEFAULT/controller/v1/robot-1/cancelAction/5",
        "/DEFAULT/controller/v1/robot-1/deploymentBase/5/feedback",
        "/DEFAULT/controller/v1/robot-1/deploymentBase/5%0a",
        "/DEFAULT/controller/v1/robot-1/deploymentBase/../../robot-2",
        "/DEFAULT/controller/v1/robot-1/deploymentBase/12345678901234567890",
        "http://[/DEFAULT/controller/v1/robot-1/deploymentBase/5",
        "",
    ],
)
def test_link_to_another_robot_tenant_or_resource_is_an_error(
    server: DdiClient, ddi: DdiServer, href: str
) -> None:
    content = Base.model_validate(
        {"config": {"polling": {"sleep": "00:05:00"}}, "_links": {"deploymentBase": {"href": href}}}
    ).model_dump_json(by_alias=True)
    with (
        ddi.fails("robot-1", answers(200, content.encode())),
        pytest.raises(FetchError, check=code("hawkbit.foreign_link")),
    ):
        server.poll()


def test_link_to_another_host_contributes_only_its_id(server: DdiClient, ddi: DdiServer) -> None:
    action = ddi.assign("2.0.0")
    href = (
        f"https://behind.a.proxy:8443/hawkbit/default/controller/v1/robot-1/deploymentBase/{action.id}?c=-5"
    )
    content = (
        f'{{"config":{{"polling":{{"sleep":"00:05:00"}}}},"_links":{{"deploymentBase":{{"href":"{href}"}}}}}}'
    )
    with ddi.fails("robot-1", answers(200, content.encode())):
        result = server.poll().deployment
    assert result == str(action.id)
    server.deployment(result)
    assert ddi.seen[-1].status == 200


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        (301, FetchError, "redirects to 'http://evil.example/'"),
        (400, FetchError, "400"),
        (403, FetchError, "access is denied"),
        (404, NotFoundError, "does not exist there"),
        (410, NotFoundError, "does not exist there"),
        (500, FetchError, "500 (Internal Server Error)"),
        (999, FetchError, "unknown status"),
    ],
)
def test_server_error_answer_is_reported(
    server: DdiClient, ddi: DdiServer, status: int, kind: type[FetchError], why: str
) -> None:
    with (
        ddi.fails("robot-1", answers(status, b"<html>", Location="http://evil.example/")),
        pytest.raises(FetchError) as raised,
    ):
        server.poll()
    assert type(raised.value) is kind and why in str(raised.value)
    assert ddi.target_token not in str(raised.value)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_server_reports_its_retry_delay(server: DdiClient, ddi: DdiServer, status: int) -> None:
    with ddi.fails("robot-1", answers(status, Retry_After="120")), pytest.raises(BusyError) as raised:
        server.poll()
    assert raised.value.after_s == 120
    for after in ("soon", "-1", "\u00b2", "9" * 400):
        with (
            ddi.fails("robot-1", answers(status, Retry_After=after.encode("utf-8").decode("latin-1"))),
            pytest.raises(FetchError) as other,
        ):
            server.poll()
        assert type(other.value) is FetchError


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"<html></html>",
        b'{"config": {"polling": {"sleep": 300}}}',
        b'{"config": {"polling": {"sleep": "5 min"}}}',
        b'{"config": {"polling": {"sleep": "00:05:00", "sleep": "00:00:00"}}}',
        b'{"config": {"polling": {"sleep": "00:05:00"}}, "_links": []}',
        b'{"config": {"polling": {"sleep": "00:05:00"}}, "_links": {"configData": "x"}}',
        b"[" * 100_000,
        b'{"a": "' + b"x" * (2 << 20) + b'"}',
        b"\xff\xfe",
    ],
    ids=lambda content: repr(content[:40]),
)
def test_malformed_answer_is_an_error(server: DdiClient, ddi: DdiServer, content: bytes) -> None:
    with ddi.fails("robot-1", answers(200, content)), pytest.raises(FetchError):
        server.poll()


def test_answer_for_another_action_is_an_error(server: DdiClient, ddi: DdiServer) -> None:
    content = b'{"id": "7", "deployment": {"download": "forced", "update": "forced", "chunks": []}}'
    with (
        ddi.fails("/deploymentBase/5", answers(200, content)),
        pytest.raises(FetchError, check=code("hawkbit.wrong_action")),
    ):
        server.deployment("5")


@pytest.mark.parametrize("fault", [silent, trickles], ids=["silent", "slow"])
def test_slow_server_times_out(
    tmp_path: Path, ddi: DdiServer, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(module, "READ_S", 0.3)
    server = connected(tmp_path, ddi)
    with ddi.fails("robot-1", fault), pytest.raises(FetchError, check=code("http.read_timeout")):
        server.poll()


def test_connection_refused_or_cut_is_an_error(tmp_path: Path, ddi: DdiServer) -> None:
    def cut(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        request.close_connection = True

    with ddi.fails("robot-1", cut), pytest.raises(FetchError):
        connected(tmp_path, ddi).poll()
    with pytest.raises(FetchError, check=code("http.no_connection")):
        connected(tmp_path, ddi, url="http://127.0.0.1:1").poll()


@pytest.mark.parametrize("url", ["hawkbit.example", "ftp://x", "http://u:p@x", "http://x/?a=b", "http://"])
def test_malformed_server_address_is_an_error(tmp_path: Path, ddi: DdiServer, url: str) -> None:
    with pytest.raises(UpdateError):
        connected(tmp_path, ddi, url=url)


_KEYS = [
    "config", "polling", "sleep", "_links", "href", "id", "deployment", "confirmation", "chunks", "download",
    "update", "name", "version", "metadata", "key", "value", "cancelAction", "stopId", "maintenanceWindow",
]  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=20,
)


@given(
    content=_JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=64),
    kind=st.sampled_from([Base, DeploymentBase, ConfirmationBase, CancelAction]),
)
def test_arbitrary_answer_is_parsed_or_raises_a_fetch_error(content: bytes, kind: type[Base]) -> None:
    try:
        parse(kind, content, "somewhere")
    except FetchError as error:
        assert "somewhere" in str(error)


@given(extra=st.dictionaries(st.text(string.ascii_letters, min_size=1).map("x".__add__), _JSON, max_size=3))
def test_unknown_fields_are_ignored(extra: dict[str, object]) -> None:
    content = extra | {"config": {"polling": {"sleep": "00:00:30"}, **extra}}
    text = json.dumps(content)
    if "NaN" not in text and "Infinity" not in text:
        assert parse(Base, text.encode(), "somewhere").sleep_s == 30


@pytest.mark.parametrize("percent", [0, 30])
def test_download_progress_is_reported_in_percent(percent: int) -> None:
    reported = feedback("download", "none", ("download: 2.0.0",), percent)["status"]
    assert reported["result"] == {"finished": "none", "progress": {"cnt": percent, "of": 100}}
    assert feedback("download", "none", ())["status"]["result"] == {"finished": "none"}
