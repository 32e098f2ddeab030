"""A rollback that the serving process refuses: the model that is active then, and after the next start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import ReleaseRejectedError, StorageError, UpdateError
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.util import atomic_files
from tests.ota.robots import Serving, Site, unreachable

REFUSED, BUSY = ReleaseRejectedError("it has nothing in int8"), UpdateError("the memory is taken")


class Choosy(Serving):
    """Raises, instead of taking a version, what ``errors`` says; 3.0.0 fails in service."""

    def __init__(self) -> None:
        super().__init__(bad=("3.0.0",))
        self.errors: dict[str, Exception] = {}

    def swap(self, folder: Path) -> None:
        error = self.errors.get(Bundle.open(folder).manifest.version)
        if error is not None:
            raise error
        super().swap(folder)

    @property
    def version(self) -> str:
        """What serves."""
        assert self.serves is not None
        return self.serves.manifest.version


@pytest.fixture
def choosy() -> Choosy:
    return Choosy()


@pytest.fixture
def updated(site: Site, bundles: list[Bundle], choosy: Choosy) -> Site:
    """2.0.0 serves after 1.0.0."""
    site.serving = choosy
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    return site


def go_back(site: Site) -> State:
    with site.opened() as client:
        return client.rollback("it drifts")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on the disk takes no content any more, and still takes links."""

    def write(path: Path, content: bytes) -> None:
        raise StorageError(f"{path}: cannot be written: No space left on device")

    return lambda: monkeypatch.setattr(atomic_files, "write", write)


@pytest.mark.parametrize("revoked", [False, True], ids=["by hand", "revoked"])
def test_a_way_back_that_a_full_disk_did_not_let_be_kept_is_not_undone(
    updated: Site,
    bundles: list[Bundle],
    choosy: Choosy,
    full: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    revoked: bool,
) -> None:
    if revoked:
        updated.repository.publish(bundles[2], 3, revoked=(2,), rollout={"percent": 0.0, "salt": "s"})
    for _ in range(2):
        with pytest.raises(StorageError, match="No space left"):
            if revoked:
                updated.update(on_state=lambda kept, _: full() if kept.phase is Phase.RESOLVE else None)
            else:
                full()
                go_back(updated)
        assert choosy.version == updated.version == updated.good == "1.0.0"
    monkeypatch.undo()
    updated.repository.error = unreachable()
    for _ in range(3):
        kept = updated.update()
        assert choosy.version == updated.version == updated.good == "1.0.0"
    assert kept.current == kept.good and kept.good is not None and kept.good.version == "1.0.0"
    updated.repository.error = None
    updated.update()
    assert updated.version == "1.0.0", "2.0.0 is on offer, or revoked, and not taken"


def test_what_serves_is_to_serve_after_the_next_start_where_the_way_back_is_refused(
    updated: Site, choosy: Choosy
) -> None:
    choosy.errors = {"1.0.0": REFUSED}
    for kept in (go_back(updated), updated.update()):
        assert kept.alarm == "the rollback failed: it has nothing in int8"
        assert choosy.version == updated.version == "2.0.0" and updated.good == "1.0.0"
    choosy.errors = {}
    assert updated.update().alarm == "" and choosy.version == updated.version == "1.0.0"


def test_a_candidate_that_failed_is_not_to_serve_after_the_next_start(
    updated: Site, bundles: list[Bundle], choosy: Choosy
) -> None:
    updated.repository.publish(bundles[2], 3)
    choosy.errors = {"2.0.0": REFUSED}
    assert updated.update().alarm and choosy.version == "3.0.0"
    assert updated.version == updated.good == "2.0.0"


def test_a_look_leaves_the_link_that_whoever_serves_may_have_followed_by_now(
    updated: Site, choosy: Choosy
) -> None:
    choosy.errors = {"1.0.0": BUSY}
    assert go_back(updated).alarm == "the rollback failed: the memory is taken"
    assert choosy.version == "2.0.0" and updated.version == "1.0.0", "the serving process goes on trying"
    with updated.opened() as client:
        assert client.check() is None
    assert updated.version == "1.0.0"
    choosy.errors = {}
    assert updated.update().alarm == "" and choosy.version == "1.0.0"


def test_where_what_was_to_be_gone_back_to_is_revoked_as_well_the_one_before_serves(
    updated: Site, bundles: list[Bundle], choosy: Choosy
) -> None:
    updated.repository.publish(bundles[2], 3)
    choosy.errors = {"2.0.0": REFUSED}
    updated.update()
    updated.repository.publish(bundles[3], 4, revoked=(2, 3), rollout={"percent": 0.0, "salt": "s"})
    assert updated.update().alarm == ""
    assert choosy.version == updated.version == updated.good == "1.0.0"


def test_the_way_back_by_hand_to_what_is_good_keeps_the_one_before_it(
    updated: Site, bundles: list[Bundle], choosy: Choosy
) -> None:
    updated.repository.publish(bundles[2], 3)
    choosy.errors = {"2.0.0": REFUSED}
    assert updated.update().alarm
    choosy.errors = {}
    assert go_back(updated).alarm == ""
    assert choosy.version == updated.version == updated.good == "2.0.0"
    updated.repository.publish(bundles[3], 4, revoked=(2,), rollout={"percent": 0.0, "salt": "s"})
    assert updated.update().alarm == ""
    assert choosy.version == updated.version == updated.good == "1.0.0"


def test_what_could_not_be_gone_back_to_and_is_offered_again_is_taken_like_any_other(
    updated: Site, bundles: list[Bundle], choosy: Choosy
) -> None:
    updated.repository.publish(bundles[2], 3)
    choosy.errors = {"2.0.0": REFUSED}
    assert updated.update().alarm
    updated.repository.publish(bundles[1], 4)
    kept = updated.update(
        on_state=lambda kept, _: choosy.errors.clear() if kept.phase is Phase.CHECK else None
    )
    assert (kept.result, choosy.version, updated.good) == ("updated", "2.0.0", "2.0.0")
    assert kept.previous is not None and kept.previous.version == "1.0.0"
    for _ in range(2):
        kept = updated.update()
        assert (kept.result, kept.reason) == ("unchanged", "release 4 (2.0.0) is active")
