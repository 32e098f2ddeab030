"""Versions that a fleet server may order: those listed by the channel, no older than the robot's."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota.state import Phase
from tests.ota.hawkbit.conftest import Robot
from tests.ota.hawkbit.ddi_server import DdiServer
from tests.ota.robots import Died


def test_pending_deployment_survives_publishing_of_the_next_version(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0", window=False)
    fleet_robot.rounds(5)
    assert fleet_robot.state.phase is Phase.ARMED
    fleet_robot.repository.publish(bundles[2], 3)
    action.window = True
    fleet_robot.rounds(1)
    assert (action.status, fleet_robot.version) == ("finished", "2.0.0")
    assert fleet_robot.state.release_seqs == {"stable/toy": 3}, "the floor is the latest release"


def test_deployment_of_an_earlier_version_is_executed(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.publish(bundles[2], 3)
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert (action.status, fleet_robot.version) == ("finished", "2.0.0")
    fleet_robot.clock.sleep(2 * 3600)
    fleet_robot.rounds(2)
    assert fleet_robot.version == "2.0.0", "a check of the repository installs nothing else"
    second = ddi.assign("3.0.0")
    fleet_robot.rounds(1)
    assert (second.status, fleet_robot.version) == ("finished", "3.0.0")


def test_interrupted_update_continues_with_the_ordered_version(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")

    def dies() -> None:
        if fleet_robot.state.phase is Phase.VERIFY:
            raise Died

    fleet_robot.on_alive = dies
    with pytest.raises(Died):
        fleet_robot.round()
    fleet_robot.on_alive = lambda: None
    fleet_robot.repository.publish(bundles[2], 3)
    fleet_robot.restart()
    fleet_robot.rounds(1)
    assert (action.status, fleet_robot.version) == ("finished", "2.0.0")


@pytest.mark.parametrize("revoked", [{"revoked": (2,)}, {"revoked_manifests": True}])
def test_revoked_version_is_not_installed(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle], revoked: dict[str, object]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    if "revoked_manifests" in revoked:
        revoked = {"revoked_manifests": (bundles[1].sha256,)}
    fleet_robot.repository.publish(bundles[2], 3, **revoked)
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    assert action.ends == [("closed", "failure")] and "or has revoked" in action.reported[-1][2][0]
    assert not fleet_robot.repository.fetched and fleet_robot.version == "1.0.0"


def test_version_revoked_while_active_is_replaced_despite_the_fleet_order(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.publish(bundles[2], 3)
    ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    fleet_robot.repository.publish(bundles[2], 4, revoked=(2,))
    fleet_robot.clock.sleep(2 * 3600)
    fleet_robot.rounds(2)
    assert fleet_robot.version == "1.0.0"


def test_fleet_order_older_than_the_committed_release_is_rejected(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.publish(bundles[2], 3)
    ddi.assign("3.0.0")
    fleet_robot.rounds(1)
    old = ddi.assign("2.0.0")
    fleet_robot.rounds(2)
    assert old.ends == [("closed", "failure")]
    assert "older than the committed release 3" in old.reported[-1][2][0]
    assert fleet_robot.version == "3.0.0"
    fleet_robot.repository.publish(bundles[1], 4)
    again = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert (again.status, fleet_robot.version) == ("finished", "2.0.0"), "as an allowed downgrade"


def test_factory_model_has_the_version_under_which_the_channel_lists_it(
    tmp_path: Path, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    robot = Robot(tmp_path / "robot", bundles[1], ddi)
    assert robot.state.good is not None and robot.state.good.release_seq == 0
    for seq, bundle in enumerate(bundles[:3], 1):
        robot.repository.publish(bundle, seq)
    action = ddi.assign("1.0.0")
    robot.rounds(2)
    assert action.ends == [("closed", "failure")]
    assert "older than the committed release 2" in action.reported[-1][2][0] and robot.version == "2.0.0"


def test_listed_release_with_a_different_version_is_rejected(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.publish(bundles[2], 3)
    files = fleet_robot.repository.files
    files["models/stable/toy/releases/2.0.0.json"] = files["models/stable/toy/releases/3.0.0.json"]
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert action.active and fleet_robot.version == "1.0.0"
    assert "names toy 3.0.0" in action.reported[-1][2][0]


def test_earlier_version_follows_its_own_rollout(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2, rollout={"percent": 0.0, "salt": "s"})
    fleet_robot.repository.publish(bundles[2], 3)
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    assert action.ends == [("closed", "failure")] and "0 % of the robots" in action.reported[-1][2][0]


def test_robot_without_a_fleet_installs_the_latest(fleet_robot: Robot, bundles: list[Bundle]) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    fleet_robot.repository.publish(bundles[2], 3)
    assert fleet_robot.update().result == "updated" and fleet_robot.version == "3.0.0"


def test_progress_of_one_execution_is_reported_once_per_poll(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    """Regression: a download reported each tenth of it, nine times within seconds."""
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")
    fleet_robot.rounds(1)
    messages = [execution for execution, *_ in action.reported]
    assert messages == ["proceeding", "download", "downloaded", "scheduled", "closed"]


def test_slow_download_is_reported_once_per_poll(
    fleet_robot: Robot, ddi: DdiServer, bundles: list[Bundle]
) -> None:
    fleet_robot.repository.publish(bundles[1], 2)
    action = ddi.assign("2.0.0")

    def heartbeat() -> None:
        if fleet_robot.state.phase is Phase.DOWNLOAD:
            fleet_robot.clock.sleep(60)

    fleet_robot.on_alive = heartbeat
    fleet_robot.round()
    polls = [seen for seen in ddi.seen if seen.method == "GET" and seen.path == ddi.base]
    downloads = [execution for execution, *_ in action.reported].count("download")
    assert 2 <= downloads <= len(polls)


def test_version_is_reported_under_the_attribute_that_other_servers_read(
    fleet_robot: Robot, ddi: DdiServer
) -> None:
    fleet_robot.rounds(1)
    assert ddi.attributes["sw_version"] == ddi.attributes["jepa.version"] == "1.0.0"
