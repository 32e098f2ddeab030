"""A small signed repository in a folder, in which everything can be modified."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from jepa_runtime.bundle import MANIFEST_NAME, Bundle
from jepa_runtime.ota.release import Release, pointer_path, release_path
from jepa_runtime.ota.trust.metadata import SIGNED_AT

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
LIVES = {
    "root": 365,
    "targets": 180,
    "channel-stable": 90,
    "channel-canary": 30,
    "snapshot": 7,
    "timestamp": 1,
}
CHANNELS = ("channel-stable", "channel-canary")
FILE = "models/stable/toy/1.0/encoder.bin"
CONTENT = b"weights " * 1000


class Repository:
    """A repository that has one file, :data:`FILE`, from the start.

    Attributes:
        now: Time of the next signatures.
        first_root: The initial root of a robot.
        signers: Signers of each role; can be replaced or removed without a change of the root.
        signed: Metadata of each role; can be changed before it is published.
    """

    def __init__(self, folder: Path, now: datetime = START) -> None:
        self.folder = folder
        self.now = now
        self.signers = {role: [CryptoSigner.generate_ed25519()] for role in LIVES}
        root = Root(consistent_snapshot=True)
        for role in ("root", "timestamp", "snapshot", "targets"):
            root.add_key(self.signers[role][0].public_key, role)
        self.signed: dict[str, Any] = {
            "root": root,
            "targets": Targets(delegations=Delegations({}, {name: _delegated(name) for name in CHANNELS})),
            "snapshot": Snapshot(meta={}),
            "timestamp": Timestamp(),
        }
        for name in CHANNELS:
            self.signed[name] = Targets()
            self.signed["targets"].add_key(self.signers[name][0].public_key, name)
        (folder / "metadata").mkdir(parents=True)
        self.add(FILE, CONTENT)
        for role in ("root", "targets", *CHANNELS, "snapshot", "timestamp"):
            self.write(role)
        self.first_root = (folder / "metadata" / "1.root.json").read_bytes()

    def add(self, path: str, content: bytes, role: str = "channel-stable") -> None:
        """List a file in a role and store it; it is visible once the role is published."""
        target = TargetFile.from_data(path, content)
        self.signed[role].targets[path] = target
        self.stored(path, role).parent.mkdir(parents=True, exist_ok=True)
        self.stored(path, role).write_bytes(content)

    def stored(self, path: str, role: str = "channel-stable") -> Path:
        """Return the path of a stored file."""
        name = Path(path)
        return (
            self.folder
            / "targets"
            / name.with_name(f"{self.signed[role].targets[path].hashes['sha256']}.{name.name}")
        )

    def publish(self, *roles: str) -> None:
        """Write the next version of these roles, and of the snapshot and timestamp."""
        for role in (*roles, "snapshot", "timestamp"):
            self.signed[role].version += 1
            self.write(role)

    def release(self, bundle: Bundle, release: Release) -> None:
        """Publish a bundle and its pointer in the channel."""
        for record in bundle.manifest.files:
            self.add(f"{release.folder}/{record.path}", bundle.read(record.path))
        self.add(release.manifest_target, (bundle.path / MANIFEST_NAME).read_bytes())
        for path in (
            pointer_path("stable", release.model_id),
            release_path("stable", release.model_id, release.version),
        ):
            self.add(path, release.model_dump_json().encode())
        self.publish("channel-stable")

    def write(self, role: str) -> None:
        """Sign the metadata of a role and write it, under its present version."""
        signed = self.signed[role]
        if role == "snapshot":
            names = ("targets", *CHANNELS)
            signed.meta = {f"{name}.json": MetaFile(self.signed[name].version) for name in names}
        elif role == "timestamp":
            signed.snapshot_meta = MetaFile(self.signed["snapshot"].version)
        self.seal(role)

    def seal(self, role: str) -> None:
        """Write like :meth:`write`, but without a change of the snapshot and the timestamp."""
        signed = self.signed[role]
        signed.expires = self.now + timedelta(days=LIVES[role])
        signed.unrecognized_fields[SIGNED_AT] = self.now.isoformat()
        metadata: Metadata[Any] = Metadata(signed)
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        self.file(role).write_bytes(metadata.to_bytes())

    def file(self, role: str, version: int | None = None) -> Path:
        """Return the path of the metadata of a role, in this version or its present one."""
        version = version or self.signed[role].version
        return (
            self.folder / "metadata" / ("timestamp.json" if role == "timestamp" else f"{version}.{role}.json")
        )

    def rotate(self, *roles: str) -> None:
        """Replace the keys of roles, in the next version of the root."""
        old = list(self.signers["root"])
        for role in roles:
            for keyid in list(self.signed["root"].roles[role].keyids):
                self.signed["root"].revoke_key(keyid, role)
            self.signers[role] = [CryptoSigner.generate_ed25519()]
            self.signed["root"].add_key(self.signers[role][0].public_key, role)
        new = self.signers["root"]
        self.signers["root"] = [*old, *(signer for signer in new if signer not in old)]
        self.signed["root"].version += 1
        self.seal("root")
        self.signers["root"] = new

    def copy(self, name: str) -> Path:
        """Return a copy of the folder under another name."""
        return Path(shutil.copytree(self.folder, self.folder.with_name(name)))


def _delegated(name: str) -> DelegatedRole:
    folder = f"models/{name.removeprefix('channel-')}"
    return DelegatedRole(name, [], 1, True, paths=[folder + "/*" * depth for depth in range(2, 9)])
