"""Monitoring of a camera since its activation and since the last verdict."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jepa_runtime.calibration import Calibration, CoverageRate
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.pipeline import STAGES, Stats

serving = pytest.importorskip(
    "jepa_ros.world_model.camera_streams", reason="the workspace is not on the paths: . scripts/env.sh"
)
from jepa_runtime.telemetry.diagnostics import Level, Verdict  # noqa: E402
from tests.errors import code  # noqa: E402

pytestmark = pytest.mark.ros

COUNTERS = ("received", "processed", "dropped", "failed", "callback_errors", "late")
BASE = Stats(*range(100, 106), longest_miss_run=7, resets={})
NOW = Stats(*range(200, 212, 2), longest_miss_run=8, resets={})


class Served:
    """Represent a camera since its activation, with a settable clock."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.watch = serving.StreamMonitor(BASE, clock=lambda: self.now_s)

    def result(
        self,
        total_ms: float = 1.0,
        calibration: Calibration | None = None,
        surprise: float | None = 1.0,
        compensated_ns: int = 0,
    ) -> None:
        times = dict.fromkeys(STAGES, 1.0) | {"total": total_ms}
        self.watch.on_frame()
        self.watch.on_result(
            SimpleNamespace(
                futures=object(),
                surprise=surprise,
                calibration=calibration,
                deadline_missed=False,
                timings_ms=times,
                compensated_ns=compensated_ns,
            )
        )

    def verdict(self, **changes):
        given = {"stats": NOW, "bad_frames": {}, "active": True, "fault": ""}
        limits = {"deadline_ms": 33.0, "max_miss_run": 10, "stale_after_s": 1.0}
        return self.watch.verdict(**given | changes, limits=limits)


@pytest.fixture
def served() -> Served:
    return Served()


def test_compensated_latency_is_a_value_of_the_diagnostics(served):
    served.result(compensated_ns=250_000_000)
    _, values = served.verdict()
    assert values["compensated_ms"] == 250.0


def test_counters_start_at_activation_and_ages_at_the_last_image(served):
    _, figures = served.verdict()
    assert figures["frame_age_s"] == figures["result_age_s"] == float("inf"), "no image yet"
    served.now_s = 51.0
    served.result(total_ms=12.3456)
    served.now_s = 51.25
    served.watch.on_frame()
    served.now_s = 51.75
    _, figures = served.verdict(bad_frames={"bad_stamp": 3, "zero_size": 1})
    assert (figures["active_for_s"], figures["frame_age_s"], figures["result_age_s"]) == (1.75, 0.5, 0.75)
    assert (figures["received"], figures["processed"], figures["dropped"]) == (100 + 4, 101, 102)
    assert (figures["failed"], figures["unpublished"], figures["late"]) == (103, 104, 105)
    assert figures["miss_run"] == 0
    assert (figures["bad_frames/bad_stamp"], figures["bad_frames/zero_size"]) == (3, 1)
    assert (figures["total_ms"], figures["encode_ms"]) == (12.346, 1.0)


def test_reported_errors_are_not_repeated_in_the_next_verdict(served):
    served.watch.on_error(JepaRuntimeError("engine gone"))
    served.result()
    verdicts = [served.verdict(bad_frames={"bad_stamp": 1})[0].message for _ in range(2)]
    assert verdicts == ["103 frames failed: engine gone", "running"]


def test_error_outside_frames_is_a_warning_once(served):
    served.result()
    served.watch.on_error(JepaRuntimeError("the goal cannot be encoded"))
    verdicts = [served.verdict(stats=BASE)[0] for _ in range(2)]
    assert verdicts == [Verdict(Level.WARN, "the goal cannot be encoded"), Verdict(Level.OK, "running")]


def test_inactive_node_reports_the_reason(served):
    assert served.verdict(fault="it broke", active=False) == (Verdict(Level.ERROR, "it broke"), {})
    assert served.verdict(active=False) == (Verdict(Level.OK, "not active"), {})
    assert served.verdict(active=False, stats=None) == (Verdict(Level.OK, "not configured"), {})


def test_last_known_bounds_remain_when_a_result_has_none(served):
    served.result(
        calibration=Calibration(0.9, np.array([0.25]), (CoverageRate(1, 2),), (CoverageRate(1, 2),))
    )
    served.result()
    assert served.verdict()[1]["error_bounds/step_1"].startswith("0.25, coverage 0.500 over the last 2")


def test_time_without_surprise_counts_from_the_end_of_a_silence(served):
    for served.now_s in (50.0, 54.0):
        served.result(surprise=None)
    assert served.verdict()[1]["without_surprise_s"] == 4.0
    served.now_s = 56.0
    assert served.verdict()[0].level is Level.STALE
    for served.now_s in (60.0, 60.5):
        served.result(surprise=None)
    assert served.verdict()[1]["without_surprise_s"] == 0.5


def test_final_report_has_every_sample_and_counter(served):
    assert served.watch.report() == {"counters": {}, "samples_ms": {}, "error_bounds": None}
    shares = CoverageRate(3, 4), CoverageRate(0, 0)
    for total_ms in (1.0, 2.5):
        served.result(total_ms, Calibration(0.9, np.array([0.25, np.inf]), shares, (CoverageRate(0, 1),) * 2))
    served.watch.final = NOW
    report = served.watch.report()
    assert report["samples_ms"]["total"] == [1.0, 2.5] and set(report["samples_ms"]) == set(STAGES)
    assert [report["counters"][name] for name in COUNTERS] == [100, 101, 102, 103, 104, 105]
    assert report["error_bounds"] == {
        "probability": 0.9,
        "bounds": [0.25, None],
        "within": [3, 0],
        "errors": [4, 0],
    }


def test_new_activation_resets_the_monitor():
    (camera,) = serving.create_camera_streams(["image"]).values()
    camera.reader.rejected["bad_stamp"] += 1
    camera.monitor.final = NOW
    assert camera.report()["bad_frames"] == {"bad_stamp": 1}
    camera.begin(BASE)
    assert camera.report() == {
        "bad_frames": {},
        "counters": {},
        "samples_ms": {},
        "error_bounds": None,
    }
    camera.monitor.final = NOW
    assert camera.report()["counters"]["received"] == 100


def test_camera_must_be_named_when_there_are_several():
    one, two = serving.create_camera_streams(["image"]), serving.create_camera_streams(["front", "rear"])
    assert serving.find_camera(one, "") is serving.find_camera(one, "image") is one["image"]
    assert serving.find_camera(two, "rear") is two["rear"]
    for cameras, name in ((one, "rear"), (two, ""), (two, "image")):
        with pytest.raises(JepaRuntimeError, check=code("node.unknown_camera")):
            serving.find_camera(cameras, name)
