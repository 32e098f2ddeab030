"""Sets up the folder of a robot, and rebuilds its state if that was lost."""

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
    """Set up a robot. The state is written last, so that an interrupted setup can be repeated.

    Args:
        root: The robot's folder, created if it is missing.
        settings: The content of ``config.json``.
        trusted_root: The metadata of the root role from a trusted source: all other trust derives from it.
        bundle: The factory model, trusted without a signature.
        now: The time of day.

    Raises:
        UpdateError: The robot is provisioned already, or the folder belongs to another account.
        BundleError: The bundle is not valid.
        StorageError: A file cannot be written.
    """
    folder_owner.require_owner(root)
    first = None if bundle is None else Bundle.open(bundle)
    atomic_files.make_folder(root)
    with atomic_files.locked(root / LOCK, purpose="provisioning"):
        if (root / STATE).exists():
            raise UpdateError(
                f"{root}: is provisioned already: edit {root / CONFIG}, or use an empty folder",
                code="update.already_provisioned",
            )
        store = SlotStore(root)
        store.recover()
        stored = State()
        if first is not None:
            installed = _install(store, first, settings.channel)
            stored = State(current=installed, good=installed)
        atomic_files.write(root / TRUSTED_ROOT, trusted_root)
        config.save(root / CONFIG, settings)
        active = "none" if stored.current is None else stored.current.version
        audit_log.AuditLog(root / AUDIT, now).append("provisioned", channel=settings.channel, active=active)
        state.save(root / STATE, stored)
    return stored


def check_root(content: bytes, where: str) -> None:
    """Check that this is the metadata of a root role, from which trust can be established.

    Args:
        content: The file's content.
        where: The name of the file in errors.

    Raises:
        UpdateError: It is not.
    """
    try:
        metadata = Metadata[Root].from_bytes(content)
        if metadata.signed.type != Root.type:
            raise RepositoryError(f"its type is {metadata.signed.type}")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise UpdateError(
            f"{where}: not valid root metadata ({error}): use metadata/1.root.json of the repository",
            code="update.invalid_root",
        ) from error


def rebuild(root: Path) -> State:
    """Rebuild the state from the links and slots.

    Rejections, the pin and the latest offer are lost. If an update was between switch and commit, the next
    one begins with a rollback.

    Raises:
        UpdateError: The robot is not provisioned, or its folder belongs to another account.
        StorageError: A file cannot be read or written.
    """
    settings = config.load(root / CONFIG)
    folder_owner.require_owner(root)
    with atomic_files.locked(root / LOCK, purpose="provisioning"):
        store = SlotStore(root)
        store.recover()
        current, good = (
            _installed(store, slot, settings.channel) for slot in (store.current(), store.good())
        )
        stored = State(current=current, good=good)
        audit_log.AuditLog(root / AUDIT, utc_now).append("state rebuilt from the slots")
        state.save(root / STATE, stored)
    return stored


def _install(store: SlotStore, bundle: Bundle, channel: str) -> Installed:
    manifest, sha256 = bundle.manifest, bundle.sha256
    if not store.complete(sha256):
        for record in manifest.files:
            copied = store.copy(bundle.path / record.path, record.sha256)
            if copied is None:
                raise StorageError(
                    f"{bundle.path / record.path}: was changed while it was copied: try again",
                    code="storage.changed_while_copied",
                )
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
    """Return what a slot holds, without a release number, which only a channel knows."""
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
