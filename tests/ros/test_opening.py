"""The model of a node, and the threads that come with it."""

from __future__ import annotations

import threading

import pytest

opening = pytest.importorskip(
    "jepa_ros.opening", reason="the workspace is not on the paths: . scripts/env.sh"
)
from jepa_ros.world_model_parameters import PARAMETERS  # noqa: E402

from jepa_runtime import realtime  # noqa: E402
from jepa_runtime.recording.black_box import Topics  # noqa: E402

pytestmark = pytest.mark.ros


def test_threads_of_others_that_begin_while_a_model_is_exchanged_do_not_join_it(toy_bundle, monkeypatch):
    joined, let_go, others = set(), threading.Event(), []
    monkeypatch.setattr(realtime, "join", lambda settings, which: joined.update(which))

    def another_begins():
        others.append(threading.Thread(target=let_go.wait))
        others[-1].start()

    chosen = {each.name: each.default for each in PARAMETERS} | {
        "bundle": str(toy_bundle),
        "lock_memory": False,
    }
    served = opening.Served(
        chosen,
        on_model=lambda model, kept: None,
        on_result=lambda result: None,
        topics={"image": Topics("a", "b")},
    )
    try:
        served.swap(str(toy_bundle), another_begins)
        inference = {each.native_id for each in threading.enumerate() if each.name == "jepa-inference"}
        assert others and joined & inference
        assert not joined & {each.native_id for each in others}
    finally:
        let_go.set()
        served.stop()
