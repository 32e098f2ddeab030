"""A robot recovers from stolen online keys, for any metadata shown by the thief during ``rotate``."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Timestamp

from jepa_runtime.errors import FetchError, TrustError
from jepa_runtime.ota.trust.metadata import SIGNED_AT
from jepa_runtime.util import atomic_files

pytest.importorskip("jepa_export.release.publish", reason="extra export is not installed")

from jepa_export.release.keys import KeyRing
from jepa_export.release.repository import utc_now
from jepa_export.release.roles import rotate
from tests.export.releases import Robot, new_repository, opened

HIGH = 2**31
YEARS = timedelta(days=3650)


class Thief:
    """Answer a robot with stolen keys.

    Args:
        keys: The stolen keys.
        drives: What is raised: the ``version`` of each role, or the ``time`` of signatures.
    """

    def __init__(self, keys: KeyRing, drives: tuple[str, ...]) -> None:
        self._keys, self._drives = keys, drives

    def forge(self, stage: Path, folder: Path) -> Path:
        """Return a copy of a repository with everything forged that the keys can sign."""
        shutil.copytree(stage, folder)
        metadata = folder / "metadata"
        root = Metadata[Root].from_bytes(_newest(metadata, "root").read_bytes()).signed
        timestamp = Metadata[Timestamp].from_file(str(metadata / "timestamp.json"))
        snapshot = Metadata[Snapshot].from_file(
            str(metadata / f"{timestamp.signed.snapshot_meta.version}.snapshot.json")
        )
        if self._signs(root, "snapshot"):
            self._drive(snapshot)
            if "version" in self._drives:
                snapshot.signed.meta["channel-stable.json"] = MetaFile(HIGH)
            self._sign(snapshot, root, metadata / f"{snapshot.signed.version}.snapshot.json")
            timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        if self._signs(root, "timestamp"):
            self._drive(timestamp)
            self._sign(timestamp, root, metadata / "timestamp.json")
        return folder

    def _signs(self, root: Root, role: str) -> bool:
        return any(self._keys.signer(root.keys[keyid]) for keyid in root.roles[role].keyids)

    def _drive(self, metadata: Metadata) -> None:
        signed = metadata.signed
        if "version" in self._drives:
            signed.version = HIGH
        if "time" in self._drives:
            signed.unrecognized_fields[SIGNED_AT] = (utc_now() + YEARS).strftime("%Y-%m-%dT%H:%M:%SZ")
        signed.expires = utc_now() + 2 * YEARS

    def _sign(self, metadata: Metadata, root: Root, path: Path) -> None:
        metadata.signatures.clear()
        for keyid in root.roles[metadata.signed.type].keyids:
            if signer := self._keys.signer(root.keys[keyid]):
                metadata.sign(signer, append=True)
        path.write_bytes(metadata.to_bytes())


def _newest(metadata: Path, role: str) -> Path:
    return max(metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.partition(".")[0]))


def stages_of(repo: Path, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return copies of the repository as robots can see it, one after each file that ``work`` publishes."""
    stages: list[Path] = []
    write = atomic_files.write

    def written(path: Path, content: bytes) -> None:
        write(path, content)
        if path.name == "timestamp.json" or path.name.endswith(".root.json"):
            stages.append(shutil.copytree(repo, repo.with_name(f"stage-{len(stages)}")))

    with monkeypatch.context() as patched:
        patched.setattr(atomic_files, "write", written)
        work()
    return stages


@pytest.mark.parametrize("drives", [("version",), ("time",), ("version", "time")], ids="-".join)
@pytest.mark.parametrize(
    ("stolen", "rotated"),
    [
        (("timestamp",), ("timestamp",)),
        (("timestamp", "snapshot"), ("timestamp", "snapshot")),
        (("timestamp", "snapshot"), ("snapshot", "timestamp")),
        (("snapshot",), ("snapshot",)),
    ],
    ids=lambda roles: "-".join(roles),
)
def test_robot_recovers_from_stolen_keys_with_any_metadata_seen_during_the_rotation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stolen: tuple[str, ...],
    rotated: tuple[str, ...],
    drives: tuple[str, ...],
) -> None:
    """Each stage of the rotation may have been shown, by the operator or the thief, or skipped."""
    repo = new_repository(tmp_path)
    (tmp_path / "stolen").mkdir()
    for role in stolen:
        (key,) = (tmp_path / "keys").glob(f"{role}.*")
        shutil.copy(key, tmp_path / "stolen")
    stages = [shutil.copytree(repo, tmp_path / "before")]
    stages += stages_of(repo, lambda: [rotate(opened(repo), role) for role in rotated], monkeypatch)
    thief = Thief(KeyRing(tmp_path / "stolen"), drives)
    shown = [
        (None, stage, thief.forge(stage, tmp_path / f"forged-{n}")) for n, stage in enumerate(stages[:-1])
    ]
    driven = 0
    for n, sequence in enumerate(_spread(list(product(*shown)), 30)):
        robot = Robot(repo, tmp_path / f"robot-{n}")
        for folder in filter(None, sequence):
            robot.repo = folder
            with suppress(TrustError, FetchError):
                robot.refresh()
            if robot.floors.versions.get("snapshot") == HIGH:
                robot.floors = replace(robot.floors, release_seqs={"stable/toy": 2**62})
        driven += HIGH in robot.floors.versions.values() or bool(
            robot.floors.signed_at and robot.floors.signed_at > utc_now() + YEARS / 2
        )
        robot.repo = repo
        for _ in range(2):
            robot.refresh()
        assert HIGH not in robot.floors.versions.values() and not robot.floors.release_seqs, sequence
        shutil.rmtree(robot.home)
    # The key of the snapshot alone raises nothing.
    assert (driven > 0) == ("timestamp" in stolen)


def _spread(cases: list[tuple[Path | None, ...]], most: int) -> list[tuple[Path | None, ...]]:
    return random.Random(0).sample(cases, min(most, len(cases)))
