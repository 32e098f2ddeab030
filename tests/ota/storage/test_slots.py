"""The slots of a robot: a slot is complete or ignored, and needed slots are never removed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_runtime.bundle import MANIFEST_NAME, Bundle
from jepa_runtime.errors import StorageError
from jepa_runtime.ota.storage.slots import BUNDLE, MARK, SlotStore
from jepa_runtime.util import atomic_files
from tests.errors import code
from tests.ota.robots import sha256, tree


@pytest.fixture
def store(tmp_path: Path) -> SlotStore:
    store = SlotStore(tmp_path / "robot")
    store.recover()
    return store


def gather(store: SlotStore, bundle: Bundle) -> str:
    """Write files like a download."""
    for relative, content in tree(bundle.path).items():
        part = store.part(sha256(content))
        part.write_bytes(content)
        store.place(part, bundle.sha256, relative)
    return bundle.sha256


def fill(store: SlotStore, bundle: Bundle) -> str:
    store.adopt(gather(store, bundle))
    return bundle.sha256


def test_adopted_slot_is_a_bundle_and_staging_is_empty(store: SlotStore, bundles: list[Bundle]) -> None:
    slot = fill(store, bundles[0])
    assert Bundle.open(store.folder(slot)).sha256 == slot
    assert store.present() == [slot] and not list(store.staging.iterdir())
    store.adopt(slot)
    assert store.manifest(slot).version == "1.0.0"


def test_slot_is_read_only(store: SlotStore, bundles: list[Bundle]) -> None:
    folder = store.folder(fill(store, bundles[0]))
    for path in [folder, *folder.rglob("*")]:
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH), path


def test_slot_without_its_marker_is_removed(store: SlotStore, bundles: list[Bundle]) -> None:
    whole, half = fill(store, bundles[0]), fill(store, bundles[1])
    (store.slots / half / MARK).unlink()
    assert store.recover() == [f"slots/{half}"]
    assert store.present() == [whole]


def test_slot_left_without_its_marker_by_a_full_disk_is_replaced(
    store: SlotStore, bundles: list[Bundle]
) -> None:
    slot = fill(store, bundles[0])
    (store.slots / slot / MARK).unlink()
    fill(store, bundles[0])
    assert store.present() == [slot] and Bundle.open(store.folder(slot)).sha256 == slot


def test_leftovers_of_a_power_cut_are_removed_and_usable_files_stay(
    store: SlotStore, bundles: list[Bundle]
) -> None:
    slot = fill(store, bundles[0])
    state = gather(store, bundles[1])
    part = store.part("a" * 64)
    part.write_bytes(b"half")
    (store.root / ".current.3.tmp").symlink_to(store.folder(slot))
    for rest in (
        store.root / ".state.json.1.tmp",
        store.staging / "b.copy.tmp",
        store.slots / slot / f".{MARK}.2.tmp",
    ):
        rest.touch()
    (store.trash / "old" / "below").mkdir(parents=True)
    assert sorted(store.recover()) == [
        ".current.3.tmp",
        ".state.json.1.tmp",
        f"slots/{slot}/.{MARK}.2.tmp",
        "staging/b.copy.tmp",
    ]
    assert store.recover() == [] and not list(store.trash.iterdir())
    assert part.exists() and store.staged(state).is_dir() and store.present() == [slot]
    assert stat.S_IMODE(store.folder(slot).stat().st_mode) == 0o555, "no link was followed"


def test_links_point_to_complete_slots_only(store: SlotStore, bundles: list[Bundle]) -> None:
    slot = fill(store, bundles[0])
    store.point("current", slot)
    store.point("good", slot)
    assert os.readlink(store.root / "current") == f"slots/{slot}/{BUNDLE}"
    assert (store.current(), store.good()) == (slot, slot)
    with pytest.raises(StorageError, check=code("storage.incomplete_slot")):
        store.point("current", "f" * 64)
    assert store.current() == slot
    store.point("current", None)
    assert store.current() is None


def test_entry_that_is_not_a_link_is_an_error(store: SlotStore) -> None:
    (store.root / "current").mkdir()
    with pytest.raises(StorageError, check=code("storage.invalid_link")):
        store.current()


@pytest.mark.parametrize("target", ["/etc", "slots/../../elsewhere", "slots/0/bundle"])
def test_link_to_another_place_is_not_followed(store: SlotStore, target: str) -> None:
    (store.root / "current").symlink_to(target)
    with pytest.raises(StorageError, check=code("storage.invalid_link")):
        store.current()


def test_linked_and_retained_slots_are_never_collected(store: SlotStore, bundles: list[Bundle]) -> None:
    slots = [fill(store, bundle) for bundle in bundles]
    for age, slot in enumerate(slots):
        os.utime(store.slots / slot / MARK, (age, age))
    store.point("current", slots[0])
    store.point("good", slots[1])
    assert store.collect([slots[2]], 1) == []
    assert store.collect([], 1) == [slots[2]]
    assert store.collect([], 0) == [slots[3]]
    assert set(store.present()) == set(slots[:2])


def test_file_is_found_by_its_hash_and_copied_without_links(
    store: SlotStore, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    safe: list[bytes] = []
    monkeypatch.setattr(atomic_files, "sync_file", lambda path: safe.append(path.read_bytes()))
    slot = fill(store, bundles[0])
    record = bundles[0].manifest.files[0]
    result = store.find(record.sha256)
    assert result == store.folder(slot) / record.path
    copied = store.copy(result, record.sha256)
    assert copied is not None and copied.read_bytes() == result.read_bytes()
    assert safe == [result.read_bytes()]
    assert result.stat().st_nlink == 1 and copied.stat().st_ino != result.stat().st_ino
    assert store.find("f" * 64) is None


def test_file_corrupted_on_disk_is_not_copied(store: SlotStore, bundles: list[Bundle]) -> None:
    fill(store, bundles[0])
    record = bundles[0].manifest.files[0]
    result = store.find(record.sha256)
    assert result is not None
    result.chmod(0o644)
    result.write_bytes(b"rotten")
    assert store.copy(result, record.sha256) is None
    assert not list(store.staging.iterdir())


def change(manifest: Path) -> None:
    manifest.chmod(0o644)
    manifest.write_bytes(manifest.read_bytes() + b" ")


def lose(manifest: Path) -> None:
    manifest.parent.chmod(0o755)
    manifest.unlink()


@pytest.mark.parametrize("harm", [change, lose])
def test_slot_with_a_damaged_manifest_is_skipped(
    store: SlotStore, bundles: list[Bundle], harm: Callable[[Path], None]
) -> None:
    damaged, whole = (fill(store, bundle) for bundle in bundles[:2])
    for age, slot in enumerate((whole, damaged)):
        os.utime(store.slots / slot / MARK, (age, age))
    manifest = store.folder(damaged) / MANIFEST_NAME
    harm(manifest)
    with pytest.raises(StorageError) as caught:
        store.manifest(damaged)
    assert str(manifest) in str(caught.value)
    for record in bundles[0].manifest.files:
        expected = None if record.path == "report.json" else store.folder(whole) / record.path
        assert store.find(record.sha256) == expected


def test_slot_of_a_later_version_of_jepa_edge_is_skipped(store: SlotStore) -> None:
    content = b'{"schema_version": 1000}'
    later = sha256(content)
    store.part(later).write_bytes(content)
    store.place(store.part(later), later, MANIFEST_NAME)
    store.adopt(later)
    with pytest.raises(StorageError, check=code("storage.damaged_slot")):
        store.manifest(later)
    assert store.find(later) is None


def test_staging_retains_only_requested_files(store: SlotStore, bundles: list[Bundle]) -> None:
    expected, other = gather(store, bundles[0]), gather(store, bundles[1])
    for name in ("a" * 64, "b" * 64):
        store.part(name).touch()
        store.part(f"{name}.delta").touch()
    store.prune_staged(expected, {"a" * 64})
    assert {path.name for path in store.staging.iterdir()} == {
        expected,
        f"{'a' * 64}.part",
        f"{'a' * 64}.delta.part",
    }
    assert other not in os.listdir(store.staging)


def test_dropping_a_release_keeps_the_active_and_the_last_known_good_slot(
    store: SlotStore, bundles: list[Bundle]
) -> None:
    serving, good, other = (fill(store, bundle) for bundle in bundles[:3])
    store.point("current", serving)
    store.point("good", good)
    for slot in (serving, good, other):
        store.drop(slot)
    assert {*store.present()} == {serving, good}
