"""The download for a change of a channel does not grow with the number of releases."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from jepa_export.errors import JepaExportError
from jepa_export.release import versions
from jepa_export.release.prune import prune
from jepa_export.release.publish import Terms, downgrade, history, publish, revoke, rollout
from jepa_export.release.repository import channel_role, utc_now
from jepa_export.release.repository_check import check
from jepa_export.release.roles import resign, rotate
from jepa_export.release.versions import listed_version
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import UnlistedTargetError
from jepa_runtime.ota.release import MAX_POINTER_BYTES, pointer_path, release_path
from tests.errors import code
from tests.export.release.test_release_limits import at
from tests.export.releases import MODEL, Client, Robot, new_repository, opened, variant

STABLE = Terms(channel="stable", deltas=0)
DAY = timedelta(days=1)
LISTED = 3


@pytest.fixture(autouse=True)
def few_listings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "LISTED", LISTED)


@pytest.fixture(scope="module")
def bundles(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("versions")
    return [variant(toy_bundle, folder / str(n), f"2.0.{n}", changed=100 * n) for n in range(2 * LISTED + 1)]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path)


def listed(repo: Path, channel: str = "stable") -> set[str]:
    return {listed_version(entry) for entry in opened(repo).listings(channel).values()}


def newest(repo: Path, role: str) -> Path:
    return repo / "metadata" / f"{opened(repo).signed[role].version}.{role}.json"


def test_metadata_does_not_grow_with_releases(repo: Path, bundles: list[Bundle]) -> None:
    sizes = []
    for number, bundle in enumerate(bundles, 1):
        publish(opened(repo), bundle, STABLE)
        assert listed(repo) == {one.manifest.version for one in bundles[max(0, number - LISTED) : number]}
        sizes.append([newest(repo, role).stat().st_size for role in ("channel-stable", "snapshot")])
    assert len(list((repo / "targets").rglob("*.history.json"))) == 2
    full, last = sizes[LISTED - 1], sizes[-1]
    assert all(abs(after - before) < 32 for before, after in zip(full, last, strict=True)), sizes
    assert check(repo, utc_now()).problems == []


def test_rollout_step_costs_robots_no_file_list(repo: Path, bundles: list[Bundle], tmp_path: Path) -> None:
    for bundle in bundles[:2]:
        publish(opened(repo), bundle, STABLE)
    robot = Robot(repo, tmp_path / "robot")
    robot.refresh().read(pointer_path("stable", MODEL), MAX_POINTER_BYTES)
    rollout(opened(repo), "stable", MODEL, 50.0, shrink=True)
    robot.refresh().read(pointer_path("stable", MODEL), MAX_POINTER_BYTES)
    assert not list(robot.home.glob("listing.*"))


def test_unlisted_version_can_be_released_again(repo: Path, bundles: list[Bundle], tmp_path: Path) -> None:
    robot = Robot(repo, tmp_path / "robot")
    for bundle in bundles[: LISTED + 1]:
        publish(opened(repo), bundle, STABLE)
        robot.refresh().read(release_path("stable", MODEL, bundle.manifest.version), MAX_POINTER_BYTES)
    oldest = bundles[0]
    with pytest.raises(UnlistedTargetError):
        robot.refresh().read(release_path("stable", MODEL, "2.0.0"), MAX_POINTER_BYTES)
    release = downgrade(opened(repo), "stable", MODEL, "2.0.0")
    assert release.release_seq == LISTED + 2 and listed(repo) == {"2.0.0", "2.0.2", "2.0.3"}
    assert Client(repo, tmp_path / "plain").install(tmp_path / "installed").sha256 == oldest.sha256
    robot.refresh().read(release_path("stable", MODEL, "2.0.0"), MAX_POINTER_BYTES)


def test_new_keys_of_a_channel_sign_its_listings(repo: Path, bundles: list[Bundle], tmp_path: Path) -> None:
    for bundle in bundles[:2]:
        publish(opened(repo), bundle, STABLE)
    with pytest.raises(JepaExportError, check=code("release.role_is_listing")):
        rotate(opened(repo), "listing.stable.toy.0")
    _, new = rotate(opened(repo), "channel-stable")
    for role, entry in opened(repo).listings("stable").items():
        assert entry.keyids == [new] and new in newest(repo, role).read_text()
    assert Client(repo, tmp_path / "plain").install(tmp_path / "installed").sha256 == bundles[1].sha256


def test_listings_are_signed_again_with_their_channel(repo: Path, bundles: list[Bundle]) -> None:
    publish(opened(repo), bundles[0], Terms(channel="canary"))
    signed, missing = resign(at(repo, utc_now() + 23 * DAY), None)
    assert "listing.canary.toy.0" in signed and "channel-canary" in signed and not missing


def list_as_earlier(repo: Path, *, copies: bool) -> None:
    """Let channel ``stable`` list everything itself, as jepa-edge did before there were listings."""
    repository = opened(repo)
    channel, known = repository.channel("stable"), repository.listed("stable")
    for name, version in versions.read_history(repository, "stable", MODEL).items():
        files = versions.files_of(repository, version.release)
        custom: dict[str, object] = {"released_as": list(version.released_as)}
        if not copies:
            fields = version.release.model_dump(mode="json")
            removed = ("release_seq", "rollout", "deltas", "revoked", "revoked_manifests")
            custom["terms"] = json.dumps({key: value for key, value in fields.items() if key not in removed})
        files[version.release.manifest_target].unrecognized_fields["custom"] = custom
        known |= files
        copy = release_path("stable", MODEL, name)
        if copies:
            known[copy] = TargetFile.from_data(copy, versions.as_content(version.release), ["sha256"])
        else:
            known.pop(copy, None)
    del known[versions.history_path("stable", MODEL)]
    channel.targets, channel.delegations = known, None
    repository.commit("channel-stable")


@pytest.mark.parametrize("copies", [False, True])
def test_repository_of_an_earlier_jepa_edge_is_converted_by_the_next_change(
    repo: Path, bundles: list[Bundle], tmp_path: Path, copies: bool
) -> None:
    for bundle in bundles[: LISTED + 2]:
        publish(opened(repo), bundle, STABLE)
    downgrade(opened(repo), "stable", MODEL, "2.0.1")
    revoke(opened(repo), "stable", MODEL, 1)
    before = history(opened(repo), "stable", MODEL)
    list_as_earlier(repo, copies=copies)
    robot, client = Robot(repo, tmp_path / "robot"), Client(repo, tmp_path / "plain")
    assert client.install(tmp_path / "before").sha256 == bundles[1].sha256
    robot.refresh()
    assert history(opened(repo), "stable", MODEL) == before and check(repo, utc_now()).problems == []

    rollout(opened(repo), "stable", MODEL, 50.0, shrink=True)
    assert {path.split("/")[3] for path in opened(repo).channel("stable").targets} == {
        "latest.json",
        "history.json",
    }
    assert listed(repo) == {"2.0.1", "2.0.3", "2.0.4"} and check(repo, utc_now()).problems == []
    assert history(opened(repo), "stable", MODEL) == before
    robot.refresh().read(release_path("stable", MODEL, "2.0.4"), MAX_POINTER_BYTES)
    assert client.install(tmp_path / "after").sha256 == bundles[1].sha256
    with pytest.raises(JepaExportError, check=code("release.revoked")):
        downgrade(opened(repo), "stable", MODEL, "2.0.0")
    downgrade(opened(repo), "stable", MODEL, "2.0.2")
    publish(opened(repo), bundles[LISTED + 2], STABLE)
    assert client.install(tmp_path / "next").sha256 == bundles[LISTED + 2].sha256


def test_prune_removes_what_no_robot_reads_and_nothing_else(
    repo: Path, bundles: list[Bundle], tmp_path: Path
) -> None:
    for bundle in bundles[: LISTED + 2]:
        publish(opened(repo), bundle, Terms(channel="stable"))
    rotate(opened(repo), "timestamp")
    (repo / "targets" / "index.html").write_text("not ours")
    late = Client(repo, tmp_path / "late")
    pruned = prune(opened(repo), keep=LISTED + 1, after=DAY)
    assert pruned.versions == ["toy 2.0.0 in channel stable"] and pruned.files == 0
    for path in repo.rglob("*"):
        os.utime(path, (time.time() - 2 * 86400,) * 2, follow_symlinks=False)
    pruned = prune(opened(repo), keep=LISTED + 1, after=DAY)
    assert pruned.versions == [] and pruned.files > 0
    assert not (repo / "targets" / "models" / "stable" / "toy" / "2.0.0").exists()
    assert (repo / "targets" / "index.html").exists()
    left = {path.name for path in (repo / "metadata").iterdir()}
    roles = {channel_role(name) for name in ("stable", "canary")} | {"snapshot", "targets"}
    roles |= set(opened(repo).listings("stable"))
    assert left == {newest(repo, role).name for role in roles} | {
        "timestamp.json", "1.root.json", "2.root.json", "3.root.json"
    }  # fmt: skip
    assert check(repo, utc_now()).problems == []
    assert late.install(tmp_path / "installed").sha256 == bundles[LISTED + 1].sha256
    downgrade(opened(repo), "stable", MODEL, "2.0.1")
    with pytest.raises(JepaExportError, check=code("release.pruned")):
        downgrade(opened(repo), "stable", MODEL, "2.0.0")
    with pytest.raises(JepaExportError, check=code("release.version_exists")):
        publish(opened(repo), bundles[0], STABLE)
    assert check(repo, utc_now()).problems == []
