"""Metadata that robots would reject is not published."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from jepa_export.errors import JepaExportError
from jepa_export.release.keys import KeyRing
from jepa_export.release.publish import Terms, downgrade, publish, revoke, rollout
from jepa_export.release.repository import Repository, utc_now
from jepa_export.release.repository_check import check
from jepa_export.release.roles import resign, rotate
from jepa_runtime.bundle import Bundle
from jepa_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from jepa_runtime.errors import TrustError
from jepa_runtime.ota.release import Release
from tests.errors import code
from tests.export.releases import MODEL, Client, Robot, fetch, killed_after, new_repository, opened, variant

STABLE = Terms(channel="stable")
DAY = timedelta(days=1)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path)


@pytest.fixture
def bundles(toy_bundle: Path, tmp_path: Path) -> list[Bundle]:
    return [variant(toy_bundle, tmp_path / str(n), f"2.0.{n}", changed=100 * n) for n in range(1, 4)]


def at(repo: Path, moment: datetime) -> Repository:
    """Return the repository opened with another clock."""
    with Repository.opened(repo, KeyRing(repo.with_name("keys")), lambda: moment) as repository:
        return repository


def metadata(repo: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (repo / "metadata").iterdir()}


def deltas_listed(repo: Path) -> set[str]:
    return {path for path in opened(repo).listed("stable") if "/deltas/" in path}


def test_only_deltas_of_the_last_pointer_to_a_version_are_listed(repo: Path, bundles: list[Bundle]) -> None:
    releases: dict[str, Release] = {}

    def are_named() -> bool:
        named = {delta.target for release in releases.values() for delta in release.deltas}
        return deltas_listed(repo) == named

    for bundle in bundles:
        release = publish(opened(repo), bundle, STABLE)
        releases[release.version] = release
        assert are_named()
    assert len(release.deltas) == 2
    rollout(opened(repo), "stable", MODEL, 50.0, shrink=True)
    revoke(opened(repo), "stable", MODEL, 1)
    assert are_named()
    releases["2.0.2"] = downgrade(opened(repo), "stable", MODEL, "2.0.2")
    assert len(releases["2.0.2"].deltas) == 2 and are_named()
    assert check(repo, utc_now()).problems == []


def test_delta_stays_available_to_a_download_in_progress(
    repo: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    for bundle in bundles[:2]:
        release = publish(opened(repo), bundle, STABLE)
    (delta,) = release.deltas
    updater = Client(repo, tmp_path / "robot").updater()
    publish(opened(repo), bundles[2], STABLE)
    content = fetch(updater, delta.target)
    assert content is not None and len(content) == delta.bytes


@pytest.mark.parametrize(
    ("role", "limit"),
    [("channel-stable", "_MAX_METADATA_BYTES"), ("snapshot", "_MAX_SNAPSHOT_BYTES")],
)
def test_metadata_beyond_the_robot_limit_is_not_written(
    repo: Path, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, role: str, limit: str
) -> None:
    before = metadata(repo)
    most = len(before[f"1.{role}.json"])
    monkeypatch.setattr(f"jepa_runtime.ota.trust.metadata.{limit}", most)
    with pytest.raises(JepaExportError, check=code("release.metadata_too_large")):
        publish(opened(repo), bundles[0], STABLE)
    assert metadata(repo) == before


def test_pointer_beyond_the_robot_limit_is_not_written(
    repo: Path, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    for bundle in bundles[:2]:
        publish(opened(repo), bundle, STABLE)
    target = opened(repo).channel("stable").targets["models/stable/toy/latest.json"]
    before, most = metadata(repo), target.length + 20
    monkeypatch.setattr("jepa_runtime.ota.release.MAX_POINTER_BYTES", most)
    with pytest.raises(TrustError, check=code("trust.too_long")):
        revoke(opened(repo), "stable", MODEL, 1)
    assert metadata(repo) == before


def test_clock_behind_the_last_signature_signs_nothing(repo: Path, bundles: list[Bundle]) -> None:
    before = metadata(repo)
    behind = at(repo, utc_now() - DAY)
    with pytest.raises(JepaExportError, check=code("release.clock_behind")):
        publish(behind, bundles[0], STABLE)
    with pytest.raises(JepaExportError, check=code("release.clock_behind")):
        rotate(behind, "root")
    assert metadata(repo) == before


@pytest.mark.parametrize("stopped", [False, True])
def test_signature_of_a_fast_clock_is_replaced_by_rotating_the_timestamp_key(
    repo: Path, bundles: list[Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    robots = [Robot(repo, tmp_path / name) for name in ("saw it", "did not")]
    for robot in robots:
        robot.refresh()
    publish(at(repo, utc_now() + 400 * DAY), bundles[0], STABLE)
    robots[0].refresh()
    with pytest.raises(TrustError, match="the signer's clock was ahead: rotate", check=code("trust.expired")):
        robots[0].refresh()
    for sign in (partial(resign, within=400 * DAY), partial(publish, bundle=bundles[1], terms=STABLE)):
        with pytest.raises(JepaExportError, check=code("release.clock_behind")):
            sign(opened(repo))
    if stopped:
        assert killed_after(1, monkeypatch, lambda: rotate(opened(repo), "timestamp"))
    rotate(opened(repo), "timestamp")
    release = publish(opened(repo), bundles[1], STABLE)
    for robot in robots:
        manifest = robot.refresh().read(release.manifest_target, MAX_MANIFEST_BYTES)
        assert hashlib.sha256(manifest).hexdigest() == bundles[1].sha256
    assert robots[0].floors.signed_at is not None and robots[0].floors.signed_at < utc_now() + DAY
