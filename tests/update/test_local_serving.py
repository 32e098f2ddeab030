"""Whoever serves without ROS: what updates ask it for, and what is said of one that is gone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import RefusedError, StorageError, UpdateError
from jepa_runtime.update.local_serving import HOLD, SOCKET, LocalServing, Told, answer, listening
from jepa_runtime.update.serving import Health
from tests.update.robots import Site


@contextmanager
def somebody(root: Path, told: Told) -> Iterator[list[Told]]:
    """Serves from ``root``, and says the last of what is given."""
    says, ending = [told], threading.Event()

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            if ending.is_set():
                return
            answer(connection, says[-1])

    with listening(root) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield says
        finally:
            ending.set()
            LocalServing(root, gone_s=0).health()
            thread.join()


def serves(bundle: Bundle, pid: int = 7) -> Told:
    return Told(pid=pid, serves=bundle.sha256)


def test_where_nobody_ever_was_nothing_is_asked_for(site: Site, bundles: list[Bundle]) -> None:
    serving = LocalServing(site.root)
    serving.swap(bundles[1].path)
    assert serving.health() == Health()
    (site.root / HOLD).touch()
    assert serving.health() == Health(may_switch=False)


def test_what_serves_is_asked_and_may_refuse(site: Site, bundles: list[Bundle]) -> None:
    serving = LocalServing(site.root)
    with somebody(site.root, serves(bundles[1])) as says:
        serving.swap(bundles[1].path)
        assert serving.health() == Health(serves=bundles[1].sha256)
        with pytest.raises(UpdateError, match=r"process 7 serves [0-9a-f]{12} instead of "):
            serving.swap(bundles[2].path)
        says.append(replace(says[0], refused=bundles[2].sha256, reason="no such device"))
        with pytest.raises(RefusedError, match=r"process 7, which serves, refuses .*: no such device"):
            serving.swap(bundles[2].path)
        says.append(replace(says[0], failure="it computes NaN or infinity", idle=True))
        assert (serving.health().failure, serving.health().idle) == ("it computes NaN or infinity", True)
        (site.root / HOLD).touch()
        assert not serving.health().may_switch
    assert not (site.root / SOCKET).exists()


def test_one_that_was_started_again_did_not_serve_well(site: Site, bundles: list[Bundle]) -> None:
    serving = LocalServing(site.root)
    with somebody(site.root, serves(bundles[1])) as says:
        serving.swap(bundles[1].path)
        says.append(serves(bundles[1], pid=8))
        assert "process 7, which served, ended and was started again" in serving.health().failure
        serving.swap(bundles[1].path)
        assert serving.health().failure == "", "another switch begins anew"


def test_one_that_is_gone_is_a_failure_but_no_obstacle_on_the_way_back(
    site: Site, bundles: list[Bundle]
) -> None:
    serving = LocalServing(site.root, gone_s=0.2)
    with somebody(site.root, serves(bundles[0])):
        assert serving.health().serves == bundles[0].sha256
    health = serving.health()
    assert (health.serves, health.may_switch) == ("", False)
    assert "whoever served is gone" in health.failure and "jepa-runtime run --robot" in health.failure
    with pytest.raises(UpdateError, match="whoever served is gone"):
        serving.swap(bundles[1].path)
    serving.swap(site.root / "good")


def test_a_socket_that_was_left_says_that_somebody_died(site: Site, bundles: list[Bundle]) -> None:
    with listening(site.root):
        os.link(site.root / SOCKET, site.root / "left")
    os.rename(site.root / "left", site.root / SOCKET)
    assert "whoever served is gone" in LocalServing(site.root, gone_s=0.2).health().failure
    with somebody(site.root, serves(bundles[0])):
        assert LocalServing(site.root).health().failure == ""
        twice = pytest.raises(UpdateError, match="another process serves from there: stop it first")
        with twice, listening(site.root):
            pass


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"serving.sock: cannot be made"), listening(tmp_path / "none"):
        pass


def test_a_folder_with_a_long_name_has_a_socket_too(tmp_path: Path, bundles: list[Bundle]) -> None:
    root = tmp_path / ("long" * 40)
    root.mkdir()
    with somebody(root, serves(bundles[0])):
        assert LocalServing(root).health().serves == bundles[0].sha256
