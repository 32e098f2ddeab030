"""After the recovery from stolen keys no robot rolls back to a model that the thief released."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import UpdateError
from jepa_runtime.ota import operator_requests, robot
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.state import State
from tests.errors import code
from tests.ota.robots import Clock, Gate, Serving, client_arguments, settings

pytest.importorskip("jepa_export.release.publish", reason="extra export is not installed")

from jepa_export.errors import JepaExportError
from jepa_export.release.publish import Terms, downgrade, publish, revoke, revoke_manifest
from jepa_export.release.roles import rotate
from tests.export.releases import MODEL, new_repository, opened

STABLE = Terms(channel="stable")


class Fleet:
    """A repository whose online keys were stolen, and a robot with the thief's model."""

    def __init__(self, folder: Path, bundles: list[Bundle], *, first: bool = False) -> None:
        self.first, self.thiefs, self.recovery, self.later = bundles
        self.repo, self.root = new_repository(folder), folder / "robot"
        self.serving: Serving | None = None
        publish(opened(self.repo), self.first, STABLE)
        trusted = (self.repo / "metadata" / "1.root.json").read_bytes()
        own = None if first else self.first.path
        provision(self.root, settings(repository=str(self.repo)), trusted, bundle=own)
        backup = shutil.copytree(self.repo, folder / "backup")
        publish(opened(self.repo), self.thiefs, STABLE)
        assert self.update().result == "updated" and self.version == self.thiefs.manifest.version
        shutil.rmtree(self.repo)
        shutil.copytree(backup, self.repo)

    def recover(self) -> None:
        """Follow the runbook."""
        for role in ("channel-stable", "snapshot", "timestamp"):
            rotate(opened(self.repo), role)
        revoke_manifest(opened(self.repo), "stable", MODEL, self.thiefs.sha256)
        publish(opened(self.repo), self.recovery, STABLE)

    def update(self) -> State:
        with robot.open_client(
            self.root, **client_arguments(gate=Gate(), serving=self.serving, clock=Clock())
        ) as client:
            return client.update()

    @property
    def version(self) -> str:
        return Bundle.open(self.root / "current").manifest.version


@pytest.fixture
def fleet(tmp_path: Path, bundles: list[Bundle]) -> Fleet:
    return Fleet(tmp_path, bundles)


@pytest.fixture
def bare(tmp_path: Path, bundles: list[Bundle]) -> Fleet:
    """The thief's model is the first one of the robot."""
    return Fleet(tmp_path, bundles, first=True)


def test_rollback_after_the_recovery_does_not_restore_the_thief_model(fleet: Fleet) -> None:
    fleet.recover()
    assert fleet.update().result == "updated" and fleet.version == "3.0.0"
    operator_requests.rollback(fleet.root, "by hand", now=robot.utc_now)
    assert fleet.version == "1.0.0"


def test_rollback_with_only_the_thief_model_left_is_rejected(bare: Fleet) -> None:
    bare.recover()
    state = bare.update()
    assert (state.result, state.alarm, bare.version) == ("updated", "", "3.0.0")
    with pytest.raises(UpdateError, check=code("update.no_earlier_model")):
        operator_requests.rollback(bare.root, "by hand", now=robot.utc_now)


def test_failing_recovery_release_does_not_restore_the_thief_model(fleet: Fleet) -> None:
    fleet.serving = Serving(bad=("3.0.0",))
    fleet.recover()
    fleet.update()
    assert fleet.version == "1.0.0"


def test_failing_recovery_release_with_only_the_thief_model_left_leaves_no_model(
    bare: Fleet,
) -> None:
    bare.serving = Serving(bad=("3.0.0",))
    bare.recover()
    for _ in range(2):
        state = bare.update()
        assert state.result == "rejected" and "the previous model was revoked" in state.alarm
        assert state.current is state.good is state.previous is None
        assert not (bare.root / "current").exists() and not (bare.root / "good").exists()
    bare.serving = Serving()
    publish(opened(bare.repo), bare.later, STABLE)
    state = bare.update()
    assert (state.result, state.alarm) == ("updated", "")


@pytest.mark.parametrize("first", [False, True])
def test_pin_does_not_retain_the_thief_model(tmp_path: Path, bundles: list[Bundle], first: bool) -> None:
    fleet = Fleet(tmp_path, bundles, first=first)
    operator_requests.pin(fleet.root, pinned=True)
    fleet.recover()
    state = fleet.update()
    assert state.pinned and fleet.version == ("3.0.0" if first else "1.0.0")


def test_thief_model_is_revoked_although_its_version_was_reused(fleet: Fleet) -> None:
    for role in ("channel-stable", "snapshot", "timestamp"):
        rotate(opened(fleet.repo), role)
    number = publish(opened(fleet.repo), fleet.recovery, STABLE).release_seq
    with pytest.raises(JepaExportError, check=code("release.revoking_latest")):
        revoke(opened(fleet.repo), "stable", MODEL, number)
    release = revoke_manifest(opened(fleet.repo), "stable", MODEL, fleet.thiefs.sha256)
    assert release.revoked_manifests == (fleet.thiefs.sha256,)
    fleet.update()
    assert fleet.version == "3.0.0"


def test_revocation_of_a_manifest_persists_over_later_releases(fleet: Fleet, bundles: list[Bundle]) -> None:
    fleet.recover()
    assert downgrade(opened(fleet.repo), "stable", MODEL, "1.0.0").revoked_manifests == (fleet.thiefs.sha256,)
    with pytest.raises(JepaExportError, check=code("release.revoked")):
        publish(opened(fleet.repo), fleet.thiefs, STABLE)
    with pytest.raises(JepaExportError, check=code("release.revoking_latest")):
        revoke_manifest(opened(fleet.repo), "stable", MODEL, fleet.first.sha256)
    revoke_manifest(opened(fleet.repo), "stable", MODEL, fleet.recovery.sha256)
    with pytest.raises(JepaExportError, check=code("release.revoked")):
        downgrade(opened(fleet.repo), "stable", MODEL, "3.0.0")
