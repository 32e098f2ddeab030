"""A candidate that takes the machine down is opened a bounded number of times, counted by who opens it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BackendError, StorageError
from jepa_runtime.update import durable, operator, trials
from jepa_runtime.update.local_serving import LocalServing
from jepa_runtime.update.state import Phase
from jepa_runtime.update.store import Store
from jepa_runtime.update.trials import MOST_ATTEMPTS, Trials
from tests.update.following import running, served
from tests.update.robots import Died, Site, dies_in

# One boot: `run --robot` in a process that is killed when it opens the candidate, as the machine would be.
BOOT = """
import os, signal, sys
from jepa_runtime import cli
from jepa_runtime.commands import run
from jepa_runtime.update import local_serving, trials
root, boot, candidate = sys.argv[1:]
local_serving.boot_id = trials.boot_id = lambda: boot
open_model = run.open_model
def opens(args, bundle):
    version = bundle.manifest.version
    print(version, flush=True)
    if version == candidate:
        os.kill(os.getpid(), signal.SIGKILL)
    return open_model(args, bundle)
run.open_model = opens
sys.exit(cli.main(["run", "--robot", root, "--source", "two_rooms", "--rate", "50", "--duration", "0.3"]))
"""


@pytest.fixture
def switched(site: Site, bundles: list[Bundle]) -> Site:
    """A robot whose machine went down when the update had switched to 2.0.0 and was to watch it."""
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(tell=dies_in(Phase.OBSERVE))
    assert (site.version, site.good) == ("2.0.0", "1.0.0")
    return site


def boot(site: Site, number: int) -> tuple[list[str], int, str]:
    """What one boot opens, how its process ends, and what it reports."""
    command = [sys.executable, "-c", BOOT, str(site.root), f"boot-{number}", "2.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    opened = [line for line in done.stdout.splitlines() if line.count(".") == 2 and line[0].isdigit()]
    return opened, done.returncode, done.stderr


def test_a_candidate_that_takes_the_machine_down_is_opened_three_times_then_the_good_model_serves(
    switched: Site,
) -> None:
    """Without any process but the one that serves."""
    boots = [boot(switched, number) for number in range(MOST_ATTEMPTS + 1)]
    assert [opened for opened, _, _ in boots] == [["2.0.0"]] * MOST_ATTEMPTS + [["1.0.0"]]
    assert [status for _, status, _ in boots] == [-9] * MOST_ATTEMPTS + [0]
    assert "the last known good model" in boots[-1][2] and "was opened 3 times, in 3 boots" in boots[-1][2]
    kept = switched.update(serving=LocalServing(switched.root, gone_s=0.1))
    assert (kept.result, switched.version) == ("refused", "1.0.0") and "in 3 boots" in kept.reason


def test_a_served_model_that_refuses_a_candidate_tells_the_update_why(
    switched: Site, bundles: list[Bundle]
) -> None:
    candidate = bundles[1].sha256
    (switched.root / "serving").mkdir()
    record = {"manifest_sha256": candidate, "boots": ["a", "b", "b"]}
    (switched.root / "serving/attempts.json").write_text(json.dumps(record))
    with running(switched.root):
        assert served(switched) == "1.0.0"
        with pytest.raises(Exception, match="was opened 3 times, in 2 boots"):
            LocalServing(switched.root).swap(Store(switched.root).folder(candidate))


def test_an_attempt_that_cannot_be_recorded_is_not_made(
    switched: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise StorageError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(durable, "write", full)
    opened: list[str] = []
    with running(switched.root, opens=opened.append):
        assert opened == ["1.0.0"]


def attempts(site: Site) -> int:
    try:
        return len(json.loads((site.root / "serving/attempts.json").read_text())["boots"])
    except FileNotFoundError:
        return 0


def test_restarts_that_are_asked_for_and_ordinary_failures_are_no_attempts(switched: Site) -> None:
    for _ in range(MOST_ATTEMPTS + 1):
        with running(switched.root):
            assert served(switched) == "2.0.0" and attempts(switched) == 1
        assert attempts(switched) == 0

    def fails(version: str) -> None:
        if version == "2.0.0":
            raise BackendError("no such device")

    with running(switched.root, opens=fails):
        assert attempts(switched) == 0 and served(switched) == "1.0.0"


def test_a_candidate_that_has_served_for_long_enough_is_not_counted_any_more(
    switched: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "STABLE_S", 0.2)
    store = Store(switched.root)
    candidate = store.current()
    assert candidate
    tried = Trials(store)
    with tried.opening(candidate):
        assert attempts(switched) == 1
    tried._timer.join()  # type: ignore[union-attr]
    assert attempts(switched) == 0


def test_a_candidate_that_was_rolled_back_is_tried_again_by_a_later_update(switched: Site) -> None:
    store = Store(switched.root)
    candidate = store.current()
    assert candidate
    for _ in range(MOST_ATTEMPTS):
        with Trials(store).opening(candidate):
            pass
    with pytest.raises(BackendError, match="was opened 3 times"), Trials(store).opening(candidate):
        pass
    operator.rollback(switched.root, "by hand", now=switched.clock.now)
    assert switched.version == "1.0.0" and attempts(switched) == 0


def test_a_record_that_is_damaged_is_replaced(switched: Site) -> None:
    store = Store(switched.root)
    candidate = store.current()
    assert candidate
    (switched.root / "serving").mkdir()
    for content in (
        "",
        "[]",
        "{}",
        '{"manifest_sha256": 1}',
        json.dumps({"manifest_sha256": candidate, "boots": 1}),
    ):
        (switched.root / "serving/attempts.json").write_text(content)
        with Trials(store).opening(candidate):
            assert attempts(switched) == 1


@pytest.mark.parametrize("where", ["serves", "is damaged"])
def test_a_slot_that_holds_another_bundle_than_the_signed_one_is_not_served(
    site: Site, bundles: list[Bundle], where: str
) -> None:
    """Another whole bundle is put into the slot, as a bad restore or a disk edited elsewhere does."""
    store = Store(site.root)
    slot = store.folder(bundles[0].sha256)
    for path in (slot, *slot.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(slot)
    shutil.copytree(bundles[1].path, slot)
    if where == "is damaged":
        assert "holds another bundle" in store.damage(bundles[0].sha256)
    else:
        with pytest.raises(Exception, match="holds another bundle"), running(site.root):
            pass


def test_a_first_model_that_takes_the_machine_down_is_not_opened_for_ever(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    """There is none to go back to: the serving process ends, and the update can."""
    site = Site(tmp_path / "empty", None)
    site.repository.publish(bundles[1], 2)
    with pytest.raises(Died):
        site.update(tell=dies_in(Phase.OBSERVE))
    boots = [boot(site, number) for number in range(MOST_ATTEMPTS + 1)]
    assert [opened for opened, _, _ in boots] == [["2.0.0"]] * MOST_ATTEMPTS + [[]]
    assert boots[-1][1] == 1 and "was opened 3 times, in 3 boots" in boots[-1][2]
    kept = site.update(serving=LocalServing(site.root, gone_s=0.1))
    assert kept.result == "refused" and Store(site.root).current() is None
