"""Sets up the folder of a robot, and makes its state again where that was lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from jepa_runtime.bundle import MANIFEST_NAME, Bundle
from jepa_runtime.bundle.manifest import MAX_MANIFEST_BYTES
from jepa_runtime.bundle.untrusted_folder import UntrustedFolder
from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.ota import audit_log, config, state
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.robot import AUDIT, CONFIG, LOCK, STATE, TRUSTED_ROOT, utc_now
from jepa_runtime.ota.state import Installed, State
from jepa_runtime.ota.storage import folder_owner
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.util import atomic_files


def provision(
    root: Path,
    settings: Config,
    trusted_root: bytes,
    *,
    bundle: Path | None = None,
    now: Callable[[], datetime] = utc_now,
) -> State:
    """Set up a robot; the state comes last, so that what was cut off can be done again.

    Args:
        root: its folder, made unless it is there.
        trusted_root: the metadata of the root role, from a source that is trusted: all else follows from it.
        bundle: the model that it has from the start, trusted as it is.

    Raises:
        UpdateError: it is set up already, or belongs to another account.
        BundleError: the bundle is not valid.
        StorageError: something cannot be written.
    """
    folder_owner.require_owner(root)
    first = None if bundle is None else Bundle.open(bundle)
    atomic_files.make_folder(root)
    with atomic_files.locked(root / LOCK, purpose="the set-up"):
        if (root / STATE).exists():
            raise UpdateError(
                f"{root}: is set up already: edit {root / CONFIG}, or start with an empty folder"
            )
        store = SlotStore(root)
        store.recover()
        kept = State()
        if first is not None:
            installed = _install(store, first, settings.channel)
            kept = State(current=installed, good=installed)
        atomic_files.write(root / TRUSTED_ROOT, trusted_root)
        config.save(root / CONFIG, settings)
        serves = "nothing" if kept.current is None else kept.current.version
        audit_log.AuditLog(root / AUDIT, now).append("set up", channel=settings.channel, serves=serves)
        state.save(root / STATE, kept)
    return kept


def check_root(content: bytes, where: str) -> None:
    """Check that this is the metadata of a root role, with which trust can begin.

    Args:
        where: how errors call it.

    Raises:
        UpdateError: it is not.
    """
    try:
        metadata = Metadata[Root].from_bytes(content)
        if metadata.signed.type != Root.type:
            raise RepositoryError(f"it is a {metadata.signed.type}")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise UpdateError(
            f"{where}: is no root of a repository ({error}): give its metadata/1.root.json"
        ) from error


def rebuild(root: Path) -> State:
    """Make the state again from the links and slots. What was refused, pinned or offered is forgotten; if an
    update was between switch and commit, the next one begins with the way back.

    Raises:
        UpdateError: the robot is not set up, or its folder belongs to another account.
        StorageError: something cannot be read or written.
    """
    settings = config.load(root / CONFIG)
    folder_owner.require_owner(root)
    with atomic_files.locked(root / LOCK, purpose="the set-up"):
        store = SlotStore(root)
        store.recover()
        current, good = (
            _installed(store, slot, settings.channel) for slot in (store.current(), store.good())
        )
        kept = State(current=current, good=good)
        audit_log.AuditLog(root / AUDIT, utc_now).append("state made again from the slots")
        state.save(root / STATE, kept)
    return kept


def _install(store: SlotStore, bundle: Bundle, channel: str) -> Installed:
    manifest, sha256 = bundle.manifest, bundle.sha256
    if not store.complete(sha256):
        for record in manifest.files:
            copied = store.copy(bundle.path / record.path, record.sha256)
            if copied is None:
                raise StorageError(f"{bundle.path / record.path}: was changed while it was copied: try again")
            store.place(copied, sha256, record.path)
        with UntrustedFolder(bundle.path) as folder:
            content = folder.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        atomic_files.write(store.part(sha256), content)
        store.place(store.part(sha256), sha256, MANIFEST_NAME)
        Bundle.open(store.staged(sha256))
        store.adopt(sha256)
    for name in ("current", "good"):
        store.point(name, sha256)
    installed = _installed(store, sha256, channel)
    assert installed is not None
    return installed


def _installed(store: SlotStore, slot: str | None, channel: str) -> Installed | None:
    """What a slot holds; under which number a channel offers it, the slot does not know."""
    if slot is None or not store.complete(slot):
        return None
    manifest = store.manifest(slot)
    return Installed(
        channel=channel,
        model_id=manifest.model_id,
        version=manifest.version,
        release_seq=0,
        manifest_sha256=slot,
    )
