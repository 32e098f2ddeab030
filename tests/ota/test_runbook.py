"""The runbook for operators, executed on signed repositories and the client of robots."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota import robot
from jepa_runtime.ota.provisioning import check_root, provision, rebuild
from jepa_runtime.ota.state import State
from tests.conftest import ROOT
from tests.ota.robots import Gate, client_arguments, settings

pytest.importorskip("jepa_export.release.publish", reason="extra export is not installed")

from jepa_export.release.publish import Terms, publish
from jepa_export.release.repository import default_days
from jepa_export.release.roles import rotate
from tests.export.releases import new_repository, opened

STABLE = Terms(channel="stable")
PAGE = ROOT / "docs" / "update-runbook.md"


@pytest.fixture
def repo(tmp_path: Path, bundles: list[Bundle]) -> Path:
    repo = new_repository(tmp_path)
    publish(opened(repo), bundles[0], STABLE)
    return repo


@pytest.fixture
def root(tmp_path: Path, repo: Path, bundles: list[Bundle]) -> Path:
    trusted = (repo / "metadata" / "1.root.json").read_bytes()
    provision(tmp_path / "robot", settings(repository=str(repo)), trusted, bundle=bundles[0].path)
    assert update(tmp_path / "robot").result == "unchanged"
    return tmp_path / "robot"


def update(root: Path) -> State:
    with robot.open_client(root, **client_arguments(gate=Gate())) as client:
        return client.update()


def version(root: Path) -> str:
    return Bundle.open(root / "current").manifest.version


def restore(repo: Path, backup: Path) -> None:
    shutil.rmtree(repo)
    shutil.copytree(backup, repo)


def test_runbook_page_states_the_lifetime_of_signatures() -> None:
    output = PAGE.read_text(encoding="utf-8")
    for role in ("timestamp", "snapshot", "targets", "root"):
        days = default_days(role)
        assert f"| {role} | {days} | {days / 4:g} |" in output
    canary, stable = (default_days(f"channel-{name}") for name in ("canary", "stable"))
    assert f"| channel `canary`; another | {canary}; {stable} | {canary / 4:g}; {stable / 4:g} |" in output


@pytest.mark.parametrize(("last", "rotated"), [(7, ("snapshot",)), (2**63 - 1, ())])
def test_new_snapshot_and_timestamp_keys_after_a_theft_or_restore_reach_every_robot(
    repo: Path, root: Path, bundles: list[Bundle], tmp_path: Path, last: int, rotated: tuple[str, ...]
) -> None:
    backup = shutil.copytree(repo, tmp_path / "backup")
    for role in rotated:
        rotate(opened(repo), role)
    publish(opened(repo), bundles[1], Terms(channel="stable", release_seq=last))
    assert update(root).result == "updated"
    restore(repo, backup)
    for role in ("channel-stable", "snapshot", "timestamp"):
        rotate(opened(repo), role)
    release = publish(opened(repo), bundles[2], STABLE)
    state = update(root)
    assert (state.result, state.release_seqs) == ("updated", {"stable/toy": release.release_seq})
    assert version(root) == "3.0.0"


@pytest.mark.parametrize("role", ["timestamp", "channel-stable"])
def test_lost_key_is_replaced(repo: Path, root: Path, bundles: list[Bundle], role: str) -> None:
    (lost,) = repo.with_name("keys").glob(f"{role}.*")
    lost.unlink()
    rotate(opened(repo), role)
    publish(opened(repo), bundles[1], STABLE)
    assert update(root).result == "updated" and version(root) == "2.0.0"


def test_repository_with_lost_root_keys_is_replaced_by_a_new_one(
    repo: Path, root: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    rotate(opened(repo), "snapshot")
    assert update(root).result == "unchanged"
    (tmp_path / "new").mkdir()
    new = new_repository(tmp_path / "new")
    publish(opened(new), bundles[1], STABLE)
    restore(repo, new)
    assert update(root).result == "failed"
    shutil.copyfile(repo / "metadata" / "1.root.json", root / "root.json")
    shutil.rmtree(root / "meta")
    rebuild(root)
    assert update(root).result == "updated" and version(root) == "2.0.0"


def test_new_robot_after_a_root_key_theft_starts_from_the_latest_root(
    repo: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    rotate(opened(repo), "root")
    rotate(opened(repo), "timestamp")
    latest = max((repo / "metadata").glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
    check_root(latest.read_bytes(), str(latest))
    provision(tmp_path / "robot", settings(repository=str(repo)), latest.read_bytes())
    assert update(tmp_path / "robot").result == "updated" and version(tmp_path / "robot") == "1.0.0"
