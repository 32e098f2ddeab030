"""A fleet of robots under gooseBit, a DDI server that is not of this project."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota.transport.repository_sources import FolderSource, Limits
from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
from tests.ota.hawkbit import goosebit
from tests.ota.hawkbit.conftest import Robot
from tests.ota.hawkbit.goosebit import GooseBit
from tests.ota.repositories import Repository
from tests.ota.robots import NOW, release_of

# The first test includes the installation.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def goosebit_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return goosebit.install(tmp_path_factory.mktemp("goosebit"))
    except goosebit.NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture
def server(goosebit_python: Path, tmp_path: Path) -> Iterator[GooseBit]:
    with GooseBit(goosebit_python, tmp_path / "server") as running:
        yield running
        assert "Traceback" not in running.log, "no request of an agent causes a server error"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository", now=NOW - timedelta(hours=1))


def robot_of(
    folder: Path, bundle: Bundle, server: GooseBit, repository: Repository, *, feed: str = "default"
) -> Robot:
    """Return a robot with the active model ``bundle`` and a signed repository, set up on the server."""
    server.set_device(folder.name, feed=feed, auth_token=server.target_token)
    robot = Robot(folder, bundle, server, device_id=folder.name)
    robot.repository = RepositoryTrust(
        folder / "meta",
        root=repository.first_root,
        metadata=FolderSource(repository.folder / "metadata"),
        targets=FolderSource(repository.folder / "targets"),
        limits=Limits(),
        now=robot.clock.now,
    )
    return robot


def test_robot_registers_installs_a_deployment_and_reports_success(
    tmp_path: Path, bundles: list[Bundle], server: GooseBit, repository: Repository
) -> None:
    robot = robot_of(tmp_path / "robot-1", bundles[0], server, repository)
    robot.rounds(2)
    known = server.device("robot-1")
    assert (known["last_state"], known["sw_version"]) == ("Registered", "1.0.0")
    repository.release(bundles[1], release_of(bundles[1], 2))
    server.roll_out(server.add_software("toy", "2.0.0"), "default")
    robot.rounds(2)
    assert robot.version == robot.good == "2.0.0", robot.lines
    known = server.device("robot-1")
    assert (known["last_state"], known["sw_version"], known["progress"]) == ("Finished", "2.0.0", 100)
    assert "2.0.0 is active and committed" in server.device_log("robot-1")
    lines = list(robot.lines)
    robot.rounds(3)
    assert robot.lines == lines and robot.version == "2.0.0"


def test_version_missing_from_the_repository_fails_on_the_server(
    tmp_path: Path, bundles: list[Bundle], server: GooseBit, repository: Repository
) -> None:
    robot = robot_of(tmp_path / "robot-1", bundles[0], server, repository)
    repository.release(bundles[1], release_of(bundles[1], 2))
    server.roll_out(server.add_software("toy", "9.0.0"), "default")
    robot.rounds(3)
    assert server.device("robot-1")["last_state"] == "Error" and robot.version == "1.0.0"
    assert "the fleet requests version 9.0.0, which channel stable does not list" in server.device_log(
        "robot-1"
    )


def test_version_rejected_by_the_gate_fails_on_the_server(
    tmp_path: Path, bundles: list[Bundle], server: GooseBit, repository: Repository
) -> None:
    robot = robot_of(tmp_path / "robot-1", bundles[0], server, repository)
    robot.gate.bad = {"2.0.0": "probe"}
    repository.release(bundles[1], release_of(bundles[1], 2))
    server.roll_out(server.add_software("toy", "2.0.0"), "default")
    robot.rounds(3)
    assert server.device("robot-1")["last_state"] == "Error" and robot.version == "1.0.0"
    assert "2.0.0 does not pass probe" in server.device_log("robot-1")


def test_robot_without_its_token_is_rejected(
    tmp_path: Path, bundles: list[Bundle], server: GooseBit, repository: Repository
) -> None:
    robot = robot_of(tmp_path / "robot-1", bundles[0], server, repository)
    (robot.root / "hawkbit.token").write_text("another\n")
    robot.rounds(1)
    assert any("the server responded 401" in line and "token_file" in line for line in robot.lines), (
        robot.lines
    )


def test_two_robot_groups_follow_two_versions_of_one_channel(
    tmp_path: Path, bundles: list[Bundle], server: GooseBit, repository: Repository
) -> None:
    canary = robot_of(tmp_path / "canary-1", bundles[0], server, repository, feed="canary")
    stable = robot_of(tmp_path / "stable-1", bundles[0], server, repository, feed="stable")
    repository.release(bundles[1], release_of(bundles[1], 2))
    server.roll_out(server.add_software("toy", "2.0.0"), "stable")
    repository.release(bundles[2], release_of(bundles[2], 3))
    server.roll_out(server.add_software("toy", "3.0.0"), "canary")
    for _ in range(3):
        for robot in (canary, stable):
            robot.rounds(1)
    assert (canary.version, stable.version) == ("3.0.0", "2.0.0"), canary.lines + stable.lines
    reported = [server.device(name) for name in ("canary-1", "stable-1")]
    assert [(one["last_state"], one["sw_version"]) for one in reported] == [
        ("Finished", "3.0.0"),
        ("Finished", "2.0.0"),
    ]
