"""A rollback that the serving process refuses: the model that is active then, and after the next start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import ReleaseRejectedError, StorageError, UpdateError
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.util import atomic_files
from tests.errors import code
from tests.ota.robots import Serving, Site, unreachable

REFUSED, BUSY = ReleaseRejectedError("it has nothing in int8"), UpdateError("the memory is taken")


class SelectiveServing(Serving):
    """A serving process that raises ``errors`` instead of swapping; 3.0.0 fails in service."""

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
        """Return the active version."""
        assert self.serves is not None
        return self.serves.manifest.version


@pytest.fixture
def selective() -> SelectiveServing:
    return SelectiveServing()


@pytest.fixture
def updated(site: Site, bundles: list[Bundle], selective: SelectiveServing) -> Site:
    """Return a robot with the active model 2.0.0 after 1.0.0."""
    site.serving = selective
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    return site


def go_back(site: Site) -> State:
    with site.opened() as client:
        return client.rollback("it drifts")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that fills the disk: it accepts no more content, but still accepts links."""

    def write(path: Path, content: bytes) -> None:
        raise StorageError(f"{path}: cannot be written: No space left on device", code="storage.full")

    return lambda: monkeypatch.setattr(atomic_files, "write", write)


@pytest.mark.parametrize("revoked", [False, True], ids=["by hand", "revoked"])
def test_rollback_that_a_full_disk_could_not_record_is_not_undone(
    updated: Site,
    bundles: list[Bundle],
    selective: SelectiveServing,
    full: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    revoked: bool,
) -> None:
    if revoked:
        updated.repository.publish(bundles[2], 3, revoked=(2,), rollout={"percent": 0.0, "salt": "s"})
    for _ in range(2):
        with pytest.raises(StorageError, check=code("storage.full")):
            if revoked:
                updated.update(on_state=lambda state, _: full() if state.phase is Phase.RESOLVE else None)
            else:
                full()
                go_back(updated)
        assert selective.version == updated.version == updated.good == "1.0.0"
    monkeypatch.undo()
    updated.repository.error = unreachable()
    for _ in range(3):
        state = updated.update()
        assert selective.version == updated.version == updated.good == "1.0.0"
    assert state.current == state.good and state.good is not None and state.good.version == "1.0.0"
    updated.repository.error = None
    updated.update()
    assert updated.version == "1.0.0", "2.0.0 is offered or revoked, and not installed"


def test_active_model_is_selected_for_the_next_start_when_the_server_rejects_the_rollback(
    updated: Site, selective: SelectiveServing
) -> None:
    selective.errors = {"1.0.0": REFUSED}
    for state in (go_back(updated), updated.update()):
        assert state.alarm == "the rollback failed: it has nothing in int8"
        assert selective.version == updated.version == "2.0.0" and updated.good == "1.0.0"
    selective.errors = {}
    assert updated.update().alarm == "" and selective.version == updated.version == "1.0.0"


def test_failed_candidate_is_not_selected_for_the_next_start(
    updated: Site, bundles: list[Bundle], selective: SelectiveServing
) -> None:
    updated.repository.publish(bundles[2], 3)
    selective.errors = {"2.0.0": REFUSED}
    assert updated.update().alarm and selective.version == "3.0.0"
    assert updated.version == updated.good == "2.0.0"


def test_check_leaves_the_link_that_the_server_may_have_followed(
    updated: Site, selective: SelectiveServing
) -> None:
    selective.errors = {"1.0.0": BUSY}
    assert go_back(updated).alarm == "the rollback failed: the memory is taken"
    assert selective.version == "2.0.0" and updated.version == "1.0.0", "the serving process goes on trying"
    with updated.opened() as client:
        assert client.check() is None
    assert updated.version == "1.0.0"
    selective.errors = {}
    assert updated.update().alarm == "" and selective.version == "1.0.0"


def test_rollback_with_a_revoked_target_activates_the_release_before_it(
    updated: Site, bundles: list[Bundle], selective: SelectiveServing
) -> None:
    updated.repository.publish(bundles[2], 3)
    selective.errors = {"2.0.0": REFUSED}
    updated.update()
    updated.repository.publish(bundles[3], 4, revoked=(2, 3), rollout={"percent": 0.0, "salt": "s"})
    assert updated.update().alarm == ""
    assert selective.version == updated.version == updated.good == "1.0.0"


def test_manual_rollback_to_the_last_known_good_model_keeps_the_previous_one(
    updated: Site, bundles: list[Bundle], selective: SelectiveServing
) -> None:
    updated.repository.publish(bundles[2], 3)
    selective.errors = {"2.0.0": REFUSED}
    assert updated.update().alarm
    selective.errors = {}
    assert go_back(updated).alarm == ""
    assert selective.version == updated.version == updated.good == "2.0.0"
    updated.repository.publish(bundles[3], 4, revoked=(2,), rollout={"percent": 0.0, "salt": "s"})
    assert updated.update().alarm == ""
    assert selective.version == updated.version == updated.good == "1.0.0"


def test_rollback_target_that_was_unusable_is_installed_when_offered_again(
    updated: Site, bundles: list[Bundle], selective: SelectiveServing
) -> None:
    updated.repository.publish(bundles[2], 3)
    selective.errors = {"2.0.0": REFUSED}
    assert updated.update().alarm
    updated.repository.publish(bundles[1], 4)
    state = updated.update(
        on_state=lambda state, _: selective.errors.clear() if state.phase is Phase.CHECK else None
    )
    assert (state.result, selective.version, updated.good) == ("updated", "2.0.0", "2.0.0")
    assert state.previous is not None and state.previous.version == "1.0.0"
    for _ in range(2):
        state = updated.update()
        assert (state.result, state.reason) == ("unchanged", "release 4 (2.0.0) is active")
