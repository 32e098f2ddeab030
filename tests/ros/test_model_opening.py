"""The model of a node and its threads."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

opening = pytest.importorskip(
    "jepa_ros.world_model.model_opening", reason="the workspace is not on the paths: . scripts/env.sh"
)
from jepa_ros.world_model.parameters import PARAMETERS  # noqa: E402

from jepa_runtime.errors import BackendError  # noqa: E402
from jepa_runtime.ota.storage.slots import SlotStore  # noqa: E402
from jepa_runtime.recording.black_box import Topics  # noqa: E402
from jepa_runtime.serving import realtime  # noqa: E402
from tests.errors import code  # noqa: E402
from tests.ota.robots import Site, variant  # noqa: E402

pytestmark = pytest.mark.ros


def serving(bundle: Path) -> opening.ServingSession:
    chosen = {each.name: each.default for each in PARAMETERS}
    return opening.ServingSession(
        chosen | {"bundle": str(bundle), "lock_memory": False},
        on_model=lambda model, kept_previous: None,
        on_result=lambda result: None,
        topics={"image": Topics("a", "b")},
    )


def test_other_threads_started_during_a_swap_get_no_real_time_settings(toy_bundle, monkeypatch):
    joined, let_go, others = set(), threading.Event(), []
    monkeypatch.setattr(realtime, "apply_to_threads", lambda settings, which: joined.update(which))

    def another_begins():
        others.append(threading.Thread(target=let_go.wait))
        others[-1].start()

    served = serving(toy_bundle)
    try:
        served.swap(str(toy_bundle), another_begins)
        inference = {each.native_id for each in threading.enumerate() if each.name == "jepa-inference"}
        assert others and joined & inference
        assert not joined & {each.native_id for each in others}
    finally:
        let_go.set()
        served.stop()


def test_candidate_that_crashed_the_machine_three_times_is_not_opened(toy_bundle, tmp_path):
    bundles = [variant(toy_bundle, tmp_path / version, version) for version in ("1.0.0", "2.0.0")]
    site = Site(tmp_path / "robot", bundles[0])
    site.repository.publish(bundles[1], 2)
    site.update()
    store, attempts = SlotStore(site.root), site.root / f"serving/{bundles[1].sha256}.attempts"
    store.point("good", bundles[0].sha256)

    served = serving(site.root / "current")
    assert served.model.bundle.sha256 == bundles[1].sha256
    assert len(json.loads(attempts.read_text())) == 1, "counted before it is opened"
    served.stop()
    assert not attempts.exists(), "a requested stop is not its fault"

    attempts.write_text(json.dumps(["a", "b", "c"]))
    served = serving(site.root / "current")
    try:
        assert served.model.bundle.sha256 == bundles[0].sha256
        with pytest.raises(BackendError, check=code("serving.too_many_attempts")):
            served.swap(str(store.folder(bundles[1].sha256)), lambda: None)
    finally:
        served.stop()


def test_active_model_that_crashed_the_machine_in_five_boots_is_not_opened(toy_bundle, tmp_path):
    bundles = [variant(toy_bundle, tmp_path / version, version) for version in ("1.0.0", "2.0.0")]
    site = Site(tmp_path / "robot", bundles[0])
    site.repository.publish(bundles[1], 2)
    assert site.update().result == "updated"
    store, attempts = SlotStore(site.root), site.root / f"serving/{bundles[1].sha256}.attempts"

    served = serving(site.root / "current")
    assert len(json.loads(attempts.read_text())) == 1, "counted before it is opened"
    served.stop()
    attempts.write_text(json.dumps(["a", "b", "c", "d", "e"]))
    earlier = site.root / f"serving/{bundles[0].sha256}.attempts"
    earlier.write_text(json.dumps(["a", "b", "c"]))
    with pytest.raises(BackendError, check=code("serving.too_many_attempts")):
        serving(site.root / "current")
    earlier.unlink()
    served = serving(site.root / "current")
    try:
        assert served.model.bundle.sha256 == bundles[0].sha256
        with pytest.raises(BackendError, check=code("serving.too_many_attempts")):
            served.swap(str(store.folder(bundles[1].sha256)), lambda: None)
    finally:
        served.stop()
