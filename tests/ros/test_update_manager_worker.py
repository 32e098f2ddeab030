"""The update thread: requests, periodic updates and fleet orders."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros.update", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_ros.update.worker import Request, Worker

from jepa_runtime.errors import FetchError, UpdateError
from jepa_runtime.ota import daemon, robot
from jepa_runtime.ota.robot import UpdateOptions
from jepa_runtime.ota.state import ChannelRelease, Phase, State
from tests.ota.robots import release

pytestmark = pytest.mark.ros

WORK = ChannelRelease(channel="stable", release=release(2))


class Client:
    """Fake a client whose updates last until released, or fail."""

    def __init__(self) -> None:
        self.state = State(result="updated")
        self.opened: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.error: UpdateError | None = None
        self.heartbeat: Any = None

    @contextmanager
    def open(self, *, heartbeat: Any, **options: Any) -> Iterator[Client]:
        self.opened.append(options)
        self.heartbeat = heartbeat
        yield self

    def update(self, *, begin: bool = True) -> State:
        self.opened[-1]["begin"] = begin
        while not self.released.wait(0.01):
            self.heartbeat()
        if self.error is not None:
            raise self.error
        return self.state

    def check(self) -> Any:
        return WORK.release


class RunningWorker:
    """Run a worker on its thread."""

    def __init__(self, folder: Path, poll_s: float | None = None, fleet: Any = None) -> None:
        self.client = Client()
        self.lines: list[tuple[int, str]] = []
        self.worker = Worker(self.client.open, poll_s=lambda: poll_s, root=folder, log=self._log, fleet=fleet)
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()

    def _log(self, level: int, line: str) -> None:
        self.lines.append((level, line))

    def submit(self, **what: Any) -> Request:
        request = Request(**what)
        assert self.worker.submit(request)
        return request

    def until_opened(self, times: int) -> None:
        ends = time.monotonic() + 10
        while len(self.client.opened) < times:
            assert time.monotonic() < ends
            time.sleep(0.01)

    def close(self) -> None:
        self.worker.stopping.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Any]:
    workers: list[RunningWorker] = []

    def make(poll_s: float | None = None, fleet: Any = None) -> RunningWorker:
        workers.append(RunningWorker(tmp_path, poll_s, fleet))
        return workers[-1]

    yield make
    for one in workers:
        one.close()


def test_request_is_carried_out_with_its_own_options(start_worker: Any) -> None:
    work = start_worker()
    work.client.released.set()
    assert work.submit().done.wait(10)
    request = work.submit(source=Path("/stick"), retry_rejected=True)
    assert request.done.wait(10) and request.state == work.client.state
    options = UpdateOptions(source=Path("/stick"), retry_rejected=True)
    assert work.client.opened[1:] == [{"options": options, "begin": True}]
    assert work.worker.accepts_requests


def test_worker_takes_one_request_at_a_time(start_worker: Any) -> None:
    work = start_worker()
    work.submit()
    assert not work.worker.accepts_requests and not work.worker.submit(Request())


def test_automatic_update_answers_an_ordinary_request(start_worker: Any) -> None:
    work = start_worker(poll_s=3600.0)
    work.until_opened(1)
    assert not work.worker.submit(Request(check_only=True)), "an update is in progress"
    request = work.submit()
    work.client.released.set()
    assert request.done.wait(10) and request.state == work.client.state
    assert len(work.client.opened) == 1


def test_other_request_waits_for_the_automatic_update_and_can_be_withdrawn(start_worker: Any) -> None:
    work = start_worker(poll_s=3600.0)
    work.until_opened(1)
    withdrawn = work.submit(retry_rejected=True)
    assert work.worker.withdraw(withdrawn) and withdrawn.done.is_set() and withdrawn.state is None
    request = work.submit(retry_rejected=True)
    work.client.released.set()
    assert request.done.wait(10) and len(work.client.opened) == 2
    assert not work.worker.withdraw(request)


@pytest.mark.parametrize(
    "waits", [State(phase=Phase.ARMED, candidate=WORK), State(phase=Phase.RESOLVE, waits=1)]
)
def test_pending_update_continues_without_a_new_one(start_worker: Any, waits: State) -> None:
    work = start_worker()
    request = work.submit()
    work.until_opened(1)
    work.worker.wake()
    time.sleep(0.1)
    assert len(work.client.opened) == 1, "it does not wait for the robot"
    work.worker.on_state(waits)
    work.worker.wake()
    work.until_opened(2)
    work.client.released.set()
    assert request.done.wait(10)
    assert [options["begin"] for options in work.client.opened] == [True, False]


def test_check_reports_the_available_release(start_worker: Any) -> None:
    request = start_worker().submit(check_only=True)
    assert request.done.wait(10) and request.offered == WORK.release


def test_error_ends_the_request_and_not_the_thread(start_worker: Any) -> None:
    work = start_worker()
    work.client.released.set()
    work.client.error = FetchError("cannot be reached")
    failed = work.submit()
    assert failed.done.wait(10) and failed.error == "cannot be reached" and failed.state is None
    work.client.error = None
    assert (good := work.submit()).done.wait(10) and good.state is not None
    assert work.lines == [(logging.ERROR, "cannot be reached")]


def test_error_of_a_check_is_left_to_the_service(start_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_: Client) -> Any:
        raise FetchError("cannot be reached")

    monkeypatch.setattr(Client, "check", check)
    work = start_worker()
    request = work.submit(check_only=True)
    assert request.done.wait(10) and request.error == "cannot be reached"
    assert work.lines == []


def test_error_that_repeats_in_periodic_updates_is_logged_once(
    start_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "retry_s", lambda failures: 0.01)
    work = start_worker(poll_s=0.01)
    work.client.error = FetchError("cannot be reached")
    work.client.released.set()
    work.until_opened(4)
    work.client.error = FetchError("not signed")
    work.until_opened(len(work.client.opened) + 3)
    work.client.error = None
    work.until_opened(len(work.client.opened) + 3)
    work.client.error = FetchError("not signed")
    work.until_opened(len(work.client.opened) + 3)
    assert work.lines == [
        (logging.ERROR, "cannot be reached"),
        (logging.ERROR, "not signed"),
        (logging.ERROR, "not signed"),
    ]


def test_stopping_worker_answers_pending_requests(start_worker: Any) -> None:
    work = start_worker()
    request = work.submit()
    work.until_opened(1)
    work.close()
    assert request.done.is_set() and request.state is None
    assert not work.worker.submit(Request())


def test_failed_worker_answers_pending_requests_and_accepts_no_more(tmp_path: Path) -> None:
    def broken(**options: Any) -> Any:
        raise RuntimeError("no memory")

    worker = Worker(broken, poll_s=lambda: None, root=tmp_path, log=robot.no_op)
    assert worker.submit(request := Request())
    with pytest.raises(RuntimeError, match="no memory"):
        worker.run()
    assert request.done.is_set() and request.state is None
    assert not worker.submit(Request())


def test_fleet_managed_worker_polls_and_still_accepts_manual_requests(start_worker: Any) -> None:
    rounds = threading.Semaphore(0)

    def fleet(alive: Any) -> float:
        alive()
        rounds.release()
        return 0.0

    work = start_worker(3600.0, fleet)
    assert rounds.acquire(timeout=10) and rounds.acquire(timeout=10)
    assert work.client.opened == [], "nothing is installed that was not ordered"
    work.client.released.set()
    request = work.submit()
    assert request.done.wait(10) and request.state == work.client.state
    assert rounds.acquire(timeout=10)
