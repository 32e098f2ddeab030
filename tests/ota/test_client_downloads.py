"""Downloads of a release into a real folder: fetched files, locally created files, and disk space."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.errors import TransferLimitError
from jepa_runtime.ota.release import Delta
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.ota.transport.repository_sources import Limits
from tests.ota.fleets import edit
from tests.ota.robots import Repository, Site, settings, tree, unreachable


def test_download_fetches_only_files_that_no_slot_has(site: Site, bundles: list[Bundle]) -> None:
    release = site.repository.publish(bundles[1], 2)
    site.update()
    assert site.repository.fetched == [f"{release.folder}/report.json"]


def test_unused_slots_are_removed_for_a_release_that_needs_space(
    site: Site, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(site.root, keep_slots=1)
    for seq in (1, 2):
        site.repository.publish(bundles[seq], seq + 1)
        site.update()

    def used() -> int:
        return sum(map(len, tree(site.root / "slots").values()))

    assert (site.slots, site.version) == (3, "3.0.0")
    disk = used() + used() // 6 + settings().fetch.free_bytes

    def disk_usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=disk - used())

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    site.repository.publish(bundles[3], 4)
    assert site.update().result == "updated" and site.version == "4.0.0"
    assert site.slots == 3


def test_delta_creates_the_file_and_a_damaged_one_falls_back_to_the_whole_file(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    release_deltas = pytest.importorskip(
        "jepa_export.release.delta_maker", reason="extra export is not installed"
    )
    path = "encoder/openvino/model.bin"
    base = next(record for record in bundles[0].manifest.files if record.path == path)
    old = (bundles[0].path / path).read_bytes()
    new = old[:100] + bytes([old[100] ^ 1]) + old[101:]
    target = Path(shutil.copytree(bundles[1].path, tmp_path / "target"))
    (target / path).write_bytes(new)
    bundle = seal(target, bundles[1].manifest)
    content = release_deltas.make(old, new)
    for damaged, expected in ((False, True), (True, True), (False, False)):
        site = Site(tmp_path / f"robot-{damaged}-{expected}", bundles[0], deltas=expected)
        delta = Delta(path=path, base_sha256=base.sha256, target="deltas/one", bytes=len(content))
        release = site.repository.publish(bundle, 2, deltas=(delta,))
        site.repository.files["deltas/one"] = content[: len(content) // 2] if damaged else content
        assert site.update().result == "updated"
        whole = f"{release.folder}/{path}" in site.repository.fetched
        assert whole == (damaged or not expected)
        assert ("deltas/one" in site.repository.fetched) == expected
        output = (site.root / "audit.log").read_text()
        assert ("delta not usable" in output) == damaged


def test_delta_missing_on_the_server_falls_back_to_the_whole_file(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    path = "report.json"
    base = next(record for record in bundles[0].manifest.files if record.path == path)

    class Broken(Repository):
        def download(self, path: str, part: Path, progress: Progress | None = None) -> None:
            if path == "deltas/one":
                self.fetched.append(path)
                raise unreachable()
            super().download(path, part, progress)

    site = Site(tmp_path / "robot", bundles[0])
    site.repository = Broken()
    delta = Delta(path=path, base_sha256=base.sha256, target="deltas/one", bytes=1)
    site.repository.publish(bundles[1], 2, deltas=(delta,))
    assert site.update().result == "updated"
    assert site.repository.fetched.count("deltas/one") == 3


def test_release_above_the_download_limit_is_fetched_in_parts(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    site.repository.error = None
    download = site.repository.download
    spent = TransferLimitError("the 10 bytes of one update are used up")

    def used_up(*_: object) -> None:
        raise spent

    site.repository.download = used_up  # type: ignore[method-assign]
    state = site.update()
    assert (state.result, state.reason, state.rejections) == ("failed", str(spent), {})
    assert site.clock.seconds == 0, "another attempt would not have any budget left either"
    site.repository.download = download  # type: ignore[method-assign]
    assert site.update().result == "updated"


def test_release_that_exceeds_the_free_space_is_rejected_before_the_first_byte(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    site = Site(tmp_path / "robot", bundles[0], fetch=Limits(free_bytes=1 << 60))
    site.repository.publish(bundles[1], 2)
    state = site.update()
    assert state.result == "failed" and "make room on this disk" in state.reason
    assert not site.repository.fetched and not list((site.root / "staging").glob("*/bundle/*"))


def test_damaged_staging_file_is_fetched_again(site: Site, bundles: list[Bundle]) -> None:
    site.repository.publish(bundles[1], 2)
    rotten: list[str] = []

    def rot(state: State, _: str) -> None:
        if state.phase is Phase.VERIFY and not rotten:
            path = SlotStore(site.root).staged(bundles[1].sha256) / "report.json"
            path.write_bytes(b"{}")
            rotten.append(str(path))

    assert site.update(on_state=rot).result == "updated" and rotten
