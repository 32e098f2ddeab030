"""Version and time floors of a robot persist over changes of its clock and loss of its metadata."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from securesystemslib.signer import CryptoSigner

from jepa_runtime.errors import TrustError
from jepa_runtime.ota.robot import SOFTWARE_DATE
from jepa_runtime.ota.trust.metadata import Floors
from tests.errors import code
from tests.ota.repositories import CONTENT, START, Repository
from tests.ota.trusted_robots import DAY, Robot

# The clock.


def test_clock_ahead_is_named_as_a_possible_reason(robot: Robot) -> None:
    robot.now = START + 4000 * DAY
    with pytest.raises(TrustError, match=r"2037-02-11 .* by the clock", check=code("trust.expired")):
        robot.refresh()


def test_clock_set_back_does_not_revive_expired_metadata(robot: Robot, repository: Repository) -> None:
    old = repository.copy("old")
    robot.refresh()
    repository.now += 30 * DAY
    repository.publish("channel-stable")
    robot.now = repository.now
    robot.refresh()
    shutil.rmtree(robot.meta)
    robot.floors = Floors({}, robot.floors.signed_at)
    robot.folder, robot.now = old, START - 3650 * DAY
    with pytest.raises(
        TrustError,
        match=r"timestamp.json is expired at 2026-03-31 .* the latest signature seen; .* 2016-03-03 00:00",
        check=code("trust.expired"),
    ):
        robot.refresh()


def test_signature_of_a_clock_ahead_is_named_as_a_possible_reason(
    robot: Robot, repository: Repository
) -> None:
    repository.now += 400 * DAY
    repository.publish("channel-stable")
    robot.refresh()
    repository.now -= 400 * DAY
    repository.publish("channel-stable")
    with pytest.raises(
        TrustError,
        match=r"the latest signature seen; .* 2026-03-01 00:00: .* rotate the key of the timestamp",
        check=code("trust.expired"),
    ):
        robot.refresh()


def test_clock_that_starts_in_1970_does_not_stop_updates(robot: Robot) -> None:
    robot.now = datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert robot.fetch() == CONTENT
    assert robot.fetch() == CONTENT


def test_clock_in_1970_at_first_contact_does_not_revive_metadata_expired_before_the_root(
    robot: Robot, repository: Repository
) -> None:
    """The robot's initial root is newer than the offered state."""
    old = repository.copy("old")
    repository.now += 300 * DAY
    repository.publish("root")
    robot.root = repository.file("root").read_bytes()
    robot.folder, robot.now = old, datetime(1970, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(
        TrustError,
        match=r"timestamp.json is expired at 2026-12-26 .* the signature of the root; .* 1970-01-01 00:00",
        check=code("trust.expired"),
    ):
        robot.refresh()


def test_clock_behind_the_software_date_is_ignored(robot: Robot) -> None:
    assert robot.fetch() == CONTENT
    shutil.rmtree(robot.meta)
    robot.floors, robot.not_before = Floors({}, None), robot.now + 30 * DAY
    robot.now = datetime(1970, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(
        TrustError, match=r"2026-03-31 .* the date of this software", check=code("trust.expired")
    ):
        robot.refresh()


def test_software_date_is_in_the_past() -> None:
    assert datetime.now(timezone.utc) > SOFTWARE_DATE


def test_root_signed_with_a_clock_ahead_is_fixed_by_the_next(robot: Robot, repository: Repository) -> None:
    repository.now += 400 * DAY
    repository.publish("root")
    repository.now -= 400 * DAY
    repository.publish("channel-stable")
    with pytest.raises(TrustError, match="the signature of the root", check=code("trust.expired")):
        robot.refresh()
    repository.publish("root", "channel-stable")
    assert robot.fetch() == CONTENT


def test_observed_time_is_persisted(robot: Robot, repository: Repository) -> None:
    robot.refresh()
    repository.now -= DAY / 2
    repository.publish()
    assert robot.refresh().signed_at == START


# Lost metadata.


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "channel-stable"])
def test_floors_persist_when_the_metadata_is_lost(robot: Robot, repository: Repository, role: str) -> None:
    repository.publish("root", "targets", "channel-stable")
    robot.refresh()
    version = robot.floors.versions[role]
    shutil.rmtree(robot.meta)
    robot.floors = Floors({role: version + 1}, None)
    with pytest.raises(TrustError, match=f"^{role}: version {version} ", check=code("trust.rollback")):
        robot.refresh()


def test_old_repository_state_is_rejected_when_the_metadata_is_lost(
    robot: Robot, repository: Repository
) -> None:
    old = repository.copy("old")
    repository.publish("channel-stable")
    robot.refresh()
    shutil.rmtree(robot.meta)
    robot.folder = old
    with pytest.raises(TrustError, match="version 1 is offered, but version 2", check=code("trust.rollback")):
        robot.fetch()


def test_removed_role_keeps_its_floor(robot: Robot, repository: Repository) -> None:
    robot.floors = Floors({"channel-old": 7}, None)
    assert robot.refresh().versions["channel-old"] == 7


def test_new_keys_after_a_theft_reset_versions_raised_by_the_thief(
    robot: Robot, repository: Repository
) -> None:
    robot.refresh()
    honest = {role: repository.signed[role].version for role in ("timestamp", "snapshot")}
    for role in honest:
        repository.signed[role].version = 2**31
    repository.now += DAY / 2
    repository.write("snapshot")
    repository.write("timestamp")
    robot.refresh()
    assert robot.floors.versions["timestamp"] == 2**31

    for role, version in honest.items():
        repository.signed[role].version = version
    repository.now -= DAY / 4
    repository.publish("channel-stable")
    with pytest.raises(TrustError, check=code("trust.rollback")):
        robot.refresh()
    repository.rotate("timestamp", "snapshot")
    repository.publish("channel-stable")
    for _ in range(2):
        assert robot.fetch() == CONTENT
    assert robot.floors.versions["timestamp"] == 3
    assert robot.floors.signed_at == repository.now


@pytest.mark.parametrize(("roles", "ends"), [(("timestamp",), False), (("timestamp", "snapshot"), True)])
def test_release_versions_raised_by_a_thief_end_with_the_snapshot_keys(
    robot: Robot, repository: Repository, roles: tuple[str, ...], ends: bool
) -> None:
    robot.refresh()
    robot.floors = replace(robot.floors, release_seqs={"stable/toy": 2**63 - 1})
    repository.rotate(*roles)
    repository.publish("channel-stable")
    for _ in range(2):
        assert robot.refresh().release_seqs == ({} if ends else {"stable/toy": 2**63 - 1})


def test_time_raised_by_a_thief_ends_with_the_stolen_keys(robot: Robot, repository: Repository) -> None:
    honest, repository.now = repository.now, START + 9999 * DAY
    repository.publish()
    robot.refresh()
    repository.now = honest
    repository.rotate("snapshot")
    repository.publish("root", "targets", "channel-stable")
    with pytest.raises(TrustError, match="the latest signature seen", check=code("trust.expired")):
        robot.refresh()
    repository.rotate("timestamp")
    repository.publish("root", "targets", "channel-stable")
    assert robot.fetch() == CONTENT
    assert robot.floors.signed_at == START


@pytest.mark.parametrize(
    ("before", "state", "after", "ends"),
    [
        # Number of timestamp keys and threshold before; remaining old keys; threshold now.
        ((3, 2), 3, 2, False),
        ((3, 2), 3, 1, False),
        ((3, 2), 2, 2, True),
        ((3, 2), 1, 2, True),
        ((1, 1), 1, 2, True),
    ],
)
def test_floors_end_once_an_old_threshold_cannot_be_met(
    robot: Robot, repository: Repository, before: tuple[int, int], state: int, after: int, ends: bool
) -> None:
    root = repository.signed["root"]

    def sign_with(signers: list[CryptoSigner], threshold: int) -> None:
        for keyid in list(root.roles["timestamp"].keyids):
            root.revoke_key(keyid, "timestamp")
        for signer in signers:
            root.add_key(signer.public_key, "timestamp")
        root.roles["timestamp"].threshold = threshold
        repository.signers["timestamp"] = signers
        repository.publish("root")

    old, new = ([CryptoSigner.generate_ed25519() for _ in range(3)] for _ in range(2))
    sign_with(old[: before[0]], before[1])
    robot.refresh()
    sign_with(old[:state] + new, after)
    repository.signed["timestamp"].version = 1
    repository.seal("timestamp")
    (robot.meta / "timestamp.json").unlink()
    if ends:
        assert robot.refresh().versions["timestamp"] == 1
    else:
        with pytest.raises(
            TrustError, match="version 1 is offered, but version 2", check=code("trust.rollback")
        ):
            robot.refresh()


@pytest.mark.parametrize("lost", ["nothing", "the root before", "the root before, and another file is there"])
def test_manually_installed_root_ends_floors_if_the_previous_keys_are_known(
    robot: Robot, repository: Repository, lost: str
) -> None:
    repository.publish()
    robot.refresh()
    repository.rotate("timestamp", "snapshot")
    for role in ("snapshot", "timestamp"):
        repository.signed[role].version = 1
        repository.write(role)
    robot.root = repository.file("root").read_bytes()
    before = robot.meta / "root_history" / "1.root.json"
    if lost == "the root before":
        before.unlink()
    elif lost != "nothing":
        before.write_bytes(repository.file("channel-stable").read_bytes())
    if lost == "nothing":
        assert robot.refresh().versions["timestamp"] == 1
    else:
        with pytest.raises(
            TrustError, match="version 1 is offered, but version 2", check=code("trust.rollback")
        ):
            robot.refresh()


def test_additional_key_ends_no_floor(robot: Robot, repository: Repository) -> None:
    old = repository.copy("old")
    repository.publish()
    robot.refresh()
    root = repository.signed["root"]
    root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    repository.publish("root")
    shutil.copy(repository.file("root"), old / "metadata")
    shutil.rmtree(robot.meta)
    robot.folder = old
    with pytest.raises(TrustError, match="version 1 is offered, but version 2", check=code("trust.rollback")):
        robot.refresh()


def test_new_root_keys_alone_end_no_floor(robot: Robot, repository: Repository) -> None:
    old = repository.copy("old")
    repository.publish()
    robot.refresh()
    repository.rotate("root")
    shutil.copy(repository.file("root"), old / "metadata")
    shutil.rmtree(robot.meta)
    robot.folder = old
    with pytest.raises(TrustError, match="version 1 is offered, but version 2", check=code("trust.rollback")):
        robot.refresh()
