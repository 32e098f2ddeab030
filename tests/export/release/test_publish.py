"""Releases from the view of a plain TUF client."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from jepa_export.errors import JepaExportError
from jepa_export.release.publish import (
    Terms,
    downgrade,
    history,
    publish,
    revoke,
    rollout,
)
from jepa_export.release.repository import Repository, utc_now
from jepa_export.release.roles import rotate
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from jepa_runtime.errors import StorageError, TrustError
from jepa_runtime.ota.release import MAX_POINTER_BYTES, interface_digest, parse_release
from jepa_runtime.ota.transport import deltas
from jepa_runtime.ota.trust.metadata import SIGNED_AT
from jepa_runtime.util import atomic_files
from tests.bundles import make_bundle
from tests.errors import code
from tests.export.releases import (
    MODEL,
    WEIGHTS,
    Client,
    Robot,
    fetch,
    killed_after,
    new_repository,
    opened,
    variant,
)

STABLE = Terms(channel="stable")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path)


@pytest.fixture
def first(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


@pytest.fixture
def second(toy_bundle: Path, tmp_path: Path) -> Bundle:
    return variant(toy_bundle, tmp_path / "second", "1.2.4", changed=100)


def test_plain_tuf_client_installs_a_published_release(repo: Path, first: Bundle, tmp_path: Path) -> None:
    published = publish(opened(repo), first, STABLE)
    client = Client(repo, tmp_path / "robot")
    assert client.latest() == published
    assert client.install(tmp_path / "installed") == Bundle(
        tmp_path / "installed", first.manifest, first.sha256
    )
    assert published.release_seq == 1 and published.rollout.percent == 100
    assert published.interface == interface_digest(first.manifest)


def test_any_web_server_can_serve_the_repository(
    repo: Path, first: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(opened(repo), first, STABLE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(repo))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}/"
        installed = Client(repo, tmp_path / "robot").install(tmp_path / "installed", base=base)
        server.shutdown()
        thread.join()
    assert installed.sha256 == first.sha256


def test_robot_client_follows_releases_and_rotations(
    repo: Path, first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    robot = Robot(repo, tmp_path / "meta")
    for bundle in (first, second):
        release = publish(opened(repo), bundle, STABLE)
        trust = robot.refresh()
        for path in ("latest.json", f"releases/{release.version}.json"):
            assert parse_release(trust.read(f"models/stable/toy/{path}", MAX_POINTER_BYTES)) == release
        manifest = trust.read(release.manifest_target, MAX_MANIFEST_BYTES)
        assert hashlib.sha256(manifest).hexdigest() == bundle.sha256
        for role in ("root", "timestamp", "snapshot", "targets", "channel-stable"):
            rotate(opened(repo), role)
    signed_at = robot.floors.signed_at
    assert signed_at is not None and abs(utc_now() - signed_at) < timedelta(minutes=5)
    robot.refresh()
    assert robot.floors.versions["root"] == 2 * 7 + 1


def test_channels_release_independently(repo: Path, first: Bundle, second: Bundle, tmp_path: Path) -> None:
    client = Client(repo, tmp_path / "robot")
    publish(opened(repo), first, STABLE)
    assert client.latest("canary") is None
    for bundle in (first, second):
        publish(opened(repo), bundle, Terms(channel="canary", percent=10.0))
    canary, stable = client.latest("canary"), client.latest("stable")
    assert canary is not None and (canary.version, canary.release_seq) == ("1.2.4", 2)
    assert stable is not None and (stable.version, stable.release_seq) == ("1.2.3", 1)


def test_channel_lists_only_delegated_targets(repo: Path) -> None:
    repository = opened(repo)
    for path in ("models/canary/toy/latest.json", "models/stable/toy/1/2/3/4/5/6.bin", "other.bin"):
        with pytest.raises(JepaExportError, check=code("release.path_too_deep")):
            repository.add("stable", path, b"")


def test_signed_metadata_states_its_date_and_expiry(repo: Path) -> None:
    days = {}
    for path in (repo / "metadata").iterdir():
        signed = json.loads(path.read_bytes())["signed"]
        began, ends = (np.datetime64(signed[name].removesuffix("Z")) for name in (SIGNED_AT, "expires"))
        days[path.name.removesuffix(".json")] = (ends - began) / np.timedelta64(1, "D")
    assert days == {
        "1.root": 365,
        "1.targets": 180,
        "1.channel-stable": 90,
        "1.channel-canary": 30,
        "1.snapshot": 14,
        "timestamp": 7,
    }


def test_killed_publisher_leaves_the_previous_release_intact(
    repo: Path, first: Bundle, second: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(opened(repo), first, STABLE)
    client, writes = Client(repo, tmp_path / "robot"), 0
    while killed_after(writes, monkeypatch, lambda: publish(opened(repo), second, STABLE)):
        installed = client.install(tmp_path / "installed")
        assert installed.sha256 == first.sha256, f"killed after {writes} writes"
        shutil.rmtree(tmp_path / "installed")
        writes += 1
    # The files; manifest, delta, pointer, its copy, history; listing, channel, snapshot, timestamp.
    assert writes == len(second.manifest.files) + 5 + 4
    assert client.install(tmp_path / "installed").sha256 == second.sha256


def test_concurrent_publishers_are_rejected(repo: Path) -> None:
    with (
        atomic_files.locked(repo / ".lock", purpose="another"),
        pytest.raises(StorageError, check=code("storage.locked")),
    ):
        opened(repo)


def test_delta_reconstructs_the_new_file_from_the_old_one(
    repo: Path, first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    publish(opened(repo), first, STABLE)
    release = publish(opened(repo), second, STABLE)
    (offered,) = release.deltas
    assert offered.path == WEIGHTS
    delta = fetch(Client(repo, tmp_path / "robot").updater(), offered.target)
    assert delta is not None and len(delta) == offered.bytes
    record = next(record for record in second.manifest.files if record.path == WEIGHTS)
    assert offered.bytes < record.bytes / 10
    (tmp_path / "delta").write_bytes(delta)
    deltas.apply(
        first.path / WEIGHTS, tmp_path / "delta", tmp_path / "out", sha256=record.sha256, length=record.bytes
    )
    assert (tmp_path / "out").read_bytes() == (second.path / WEIGHTS).read_bytes()


def test_deltas_start_from_the_latest_releases(repo: Path, toy_bundle: Path, tmp_path: Path) -> None:
    bundles = [variant(toy_bundle, tmp_path / str(n), f"2.0.{n}", changed=100 * n) for n in range(4)]
    for bundle in bundles[:3]:
        publish(opened(repo), bundle, STABLE)
    release = publish(opened(repo), bundles[3], Terms(channel="stable", deltas=2))
    bases = {hashlib.sha256((bundle.path / WEIGHTS).read_bytes()).hexdigest() for bundle in bundles[1:3]}
    assert {delta.base_sha256 for delta in release.deltas} == bases


def test_delta_with_little_savings_is_not_offered(repo: Path, first: Bundle, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=1)
    other = seal(other.path, other.manifest.model_copy(update={"version": "1.2.4"}))
    publish(opened(repo), first, STABLE)
    offered = {delta.path for delta in publish(opened(repo), other, STABLE).deltas}
    # A small graph differs in a few weights, the weights of a large one in every byte. (Names in an IR are
    # numbered across the process that wrote it.)
    assert "energy/onnx/model.onnx" in offered and WEIGHTS not in offered


@pytest.mark.parametrize("sequence", [1, 2])
def test_release_sequence_follows_the_last_release(
    repo: Path, first: Bundle, second: Bundle, sequence: int
) -> None:
    publish(opened(repo), first, Terms(channel="stable", release_seq=2))
    with pytest.raises(JepaExportError, check=code("release.sequence_not_increasing")):
        publish(opened(repo), second, Terms(channel="stable", release_seq=sequence))
    assert publish(opened(repo), second, STABLE).release_seq == 3


def test_version_is_published_once_and_the_error_explains_how_to_set_another(
    repo: Path, first: Bundle, tmp_path: Path
) -> None:
    publish(opened(repo), first, STABLE)
    again = shutil.copytree(first.path, tmp_path / "again")
    with pytest.raises(JepaExportError, check=code("release.version_exists")):
        publish(opened(repo), Bundle.open(again), STABLE)

    manifest = again / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "1.2.3"', '"version": "1.2.4"'))

    assert publish(opened(repo), Bundle.open(again), STABLE).version == "1.2.4"


def test_terms_that_robots_cannot_read_are_rejected_before_writing(repo: Path, first: Bundle) -> None:
    for terms, field in (
        (Terms(channel="stable", percent=101.0), "rollout.percent"),
        (Terms(channel="stable", hardware_ids=["Orin NX"]), "hardware_ids"),
        (Terms(channel="stable", budgets={"latency_p99_ms": -1.0}), "budgets.latency_p99_ms"),
    ):
        with pytest.raises(TrustError, match=field, check=code("trust.release_invalid")):
            publish(opened(repo), first, terms)
    assert list((repo / "targets").iterdir()) == []


def test_rollout_grows_and_shrinks_only_on_request(repo: Path, first: Bundle, tmp_path: Path) -> None:
    client = Client(repo, tmp_path / "robot")
    publish(opened(repo), first, Terms(channel="stable", percent=1.0, salt="salt"))
    for percent in (10.0, 50.0):
        rollout(opened(repo), "stable", MODEL, percent)
        release = client.latest()
        assert release is not None
        assert (release.rollout.percent, release.rollout.salt, release.release_seq) == (percent, "salt", 1)
    with pytest.raises(JepaExportError, check=code("release.rollout_shrinks")):
        rollout(opened(repo), "stable", MODEL, 20.0)
    assert rollout(opened(repo), "stable", MODEL, 20.0, shrink=True).rollout.percent == 20.0


def test_downgrade_is_a_new_release_of_the_old_version_with_its_terms(
    repo: Path, first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    budgets = {"latency_p99_ms": 12.5, "max_error_ratio": 1.2}
    publish(
        opened(repo), first, Terms(channel="stable", hardware_ids=["orin"], budgets=budgets, percent=30.0)
    )
    publish(opened(repo), second, STABLE)
    downgrade(opened(repo), "stable", MODEL, "1.2.3")
    client = Client(repo, tmp_path / "robot")
    release = client.latest()
    assert release is not None
    assert (release.version, release.release_seq, release.rollout.percent) == ("1.2.3", 3, 100)
    assert release.hardware_ids == ("orin",)
    assert (release.budgets.latency_p99_ms, release.budgets.max_error_ratio) == (12.5, 1.2)
    assert [delta.path for delta in release.deltas] == [WEIGHTS]
    assert client.install(tmp_path / "installed").sha256 == first.sha256
    assert history(opened(repo), "stable", MODEL) == {"1.2.3": [1, 3], "1.2.4": [2]}


def test_downgrade_targets_an_earlier_version_that_is_not_revoked(
    repo: Path, first: Bundle, second: Bundle
) -> None:
    publish(opened(repo), first, STABLE)
    publish(opened(repo), second, STABLE)
    for version in ("1.2.4", "9.9.9"):
        with pytest.raises(JepaExportError, check=code("release.unknown_version")):
            downgrade(opened(repo), "stable", MODEL, version)
    revoke(opened(repo), "stable", MODEL, 1)
    with pytest.raises(JepaExportError, check=code("release.revoked")):
        downgrade(opened(repo), "stable", MODEL, "1.2.3")


def test_revoked_release_stays_revoked(repo: Path, toy_bundle: Path, tmp_path: Path) -> None:
    for n in range(3):
        publish(opened(repo), variant(toy_bundle, tmp_path / str(n), f"2.0.{n}"), STABLE)
    revoke(opened(repo), "stable", MODEL, 2)
    client = Client(repo, tmp_path / "robot")
    release = client.latest()
    assert release is not None and (release.release_seq, release.revoked) == (3, (2,))
    assert len(release.revoked_manifests) == 1 and release.manifest_sha256 not in release.revoked_manifests
    publish(opened(repo), variant(toy_bundle, tmp_path / "3", "2.0.3"), STABLE)
    release = client.latest()
    assert release is not None and (release.release_seq, release.revoked) == (4, (2,))


def test_latest_version_and_unknown_release_cannot_be_revoked(
    repo: Path, first: Bundle, second: Bundle
) -> None:
    publish(opened(repo), first, STABLE)
    publish(opened(repo), second, STABLE)
    downgrade(opened(repo), "stable", MODEL, "1.2.3")
    for seq in (1, 3):
        with pytest.raises(JepaExportError, check=code("release.revoking_latest")):
            revoke(opened(repo), "stable", MODEL, seq)
    with pytest.raises(JepaExportError, check=code("release.unknown_release")):
        revoke(opened(repo), "stable", MODEL, 7)


def test_unknown_channel_or_model_is_answered_with_the_existing_ones(repo: Path, first: Bundle) -> None:
    publish(opened(repo), first, STABLE)
    with pytest.raises(JepaExportError, check=code("release.unknown_channel")):
        publish(opened(repo), first, Terms(channel="beta"))
    with pytest.raises(JepaExportError, check=code("release.unknown_model")):
        rollout(opened(repo), "stable", "cat", 100.0)


def test_bundle_with_too_deep_paths_is_rejected(repo: Path, first: Bundle, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    shutil.copytree(first.path, deep)
    (deep / "notes" / "of" / "last" / "year").mkdir(parents=True)
    (deep / "notes" / "of" / "last" / "year" / "a.json").write_text("{}")
    with pytest.raises(JepaExportError, check=code("release.path_too_deep")):
        publish(opened(repo), seal(deep, first.manifest), STABLE)


def test_content_that_differs_from_the_signed_one_is_rejected(
    repo: Path, first: Bundle, second: Bundle
) -> None:
    publish(opened(repo), first, STABLE)
    snapshot = repo / "metadata" / "2.snapshot.json"
    snapshot.write_bytes(snapshot.read_bytes().replace(b"channel-stable", b"channel-canary"))
    with pytest.raises(JepaExportError, check=code("release.metadata_damaged")):
        publish(opened(repo), second, STABLE)


def test_pointer_in_the_metadata_is_parsed_as_by_robots(repo: Path, first: Bundle) -> None:
    release = publish(opened(repo), first, STABLE)
    repository: Repository = opened(repo)
    target = repository.channel("stable").targets["models/stable/toy/latest.json"]
    assert parse_release(repository.content(target)) == release


def test_unknown_fields_of_a_later_version_are_preserved(repo: Path, first: Bundle, tmp_path: Path) -> None:
    fields = publish(opened(repo), first, STABLE).model_dump(mode="json")
    fields["later"] = fields["rollout"]["later"] = {"more": [1]}
    repository = opened(repo)
    repository.add("stable", "models/stable/toy/latest.json", json.dumps(fields).encode())
    repository.commit("channel-stable")
    rollout(opened(repo), "stable", MODEL, 100.0)
    release = Client(repo, tmp_path / "robot").latest()
    assert release is not None
    assert release.model_dump(mode="json") == fields


def test_copy_of_an_earlier_pointer_has_the_final_rollout_of_its_version(
    repo: Path, first: Bundle, second: Bundle, tmp_path: Path
) -> None:
    """A fleet server may still order that version."""
    publish(opened(repo), first, Terms(channel="stable", percent=10.0))
    rollout(opened(repo), "stable", "toy", 100.0)
    publish(opened(repo), second, STABLE)
    trust = Robot(repo, tmp_path / "meta").refresh()
    path = f"models/stable/toy/releases/{first.manifest.version}.json"
    copy = parse_release(trust.read(path, MAX_POINTER_BYTES))
    assert (copy.version, copy.rollout.percent) == ("1.2.3", 100.0)
