"""Verdicts of the world model's diagnostics."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.serving.pipeline import STAGES, Stats
from jepa_runtime.telemetry import diagnostics
from tests.errors import code

Health, Level, Limits, assess = diagnostics.Health, diagnostics.Level, diagnostics.Limits, diagnostics.assess

pytestmark = pytest.mark.ros

LIMITS = Limits(deadline_ms=33.0, max_miss_run=10, stale_after_s=1.0)
NEVER = float("inf")
BEFORE = Health(active_for_s=9.0, frame_age_s=0.01, result_age_s=0.02, received=270, processed=270)
WELL = Health(active_for_s=10.0, frame_age_s=0.01, result_age_s=0.02, received=300, processed=300)
RESULT = {
    "futures": None,
    "surprise": None,
    "calibration": None,
    "deadline_missed": False,
    "compensated_ns": 0,
}


def verdict(**changes):
    return assess(replace(WELL, **changes), BEFORE, LIMITS)


def test_serving_node_is_ok():
    assert verdict().level is Level.OK


def test_results_over_the_budget_are_a_counted_warning():
    late = verdict(late=3, miss_run=1)
    assert late.level is Level.WARN
    assert "3 of 30" in late.message and "33 ms" in late.message
    assert verdict(late=2, miss_run=1).level is Level.WARN
    assert verdict(late=1, miss_run=1).level is Level.OK, "one in twenty may be late"


def test_run_of_deadline_misses_is_an_error():
    assert verdict(late=10, miss_run=10).level is Level.ERROR


def test_run_of_deadline_misses_that_ended_before_the_check_is_an_error():
    serving = pytest.importorskip("jepa_ros.world_model.camera_streams")
    nothing = Stats(*[0] * 7, resets={})
    watch = serving.StreamMonitor(nothing, clock=lambda: 0.0)

    def level_after(*missed):
        for late in missed:
            times = dict.fromkeys(STAGES, 1.0)
            watch.on_result(SimpleNamespace(**RESULT | {"deadline_missed": late}, timings_ms=times))
        given = {"deadline_ms": 33.0, "max_miss_run": 10, "stale_after_s": 1.0}
        watch.on_frame()
        return watch.verdict(stats=nothing, bad_frames={}, active=True, fault="", limits=given)[0].level

    assert level_after(*[True] * 20, *[False] * 10) is Level.ERROR
    assert level_after(False) is not Level.ERROR
    assert level_after(*[True] * 6) is not Level.ERROR
    assert level_after(*[True] * 6) is Level.ERROR, "a run continues across verdicts"


def test_images_without_predictions_are_a_warning_with_the_reason():
    assert verdict(without_futures_s=0.9).level is Level.OK, "a history begins with images without futures"
    result = verdict(without_futures_s=3.0)
    assert result.level is Level.WARN
    assert "no futures for 3.0 s" in result.message and "actions executed" in result.message


def test_images_without_surprise_are_a_warning_with_the_reason():
    assert verdict(without_surprise_s=2.9).level is Level.OK, "a history begins with images without surprise"
    limits = replace(LIMITS, stale_after_s=2.0)
    assert assess(replace(WELL, without_surprise_s=5.9), BEFORE, limits).level is Level.OK
    result = verdict(without_surprise_s=4.0)
    assert result.level is Level.WARN
    assert "no surprise for 4.0 s" in result.message and "actions executed" in result.message


@pytest.mark.parametrize(("age_s", "words"), [(7.0, "7.0 s behind"), (-7.0, "7.0 s ahead of")])
def test_stamps_of_another_clock_than_the_commands_are_a_warning(age_s, words):
    assert verdict(stamp_age_s=age_s / 10).level is Level.OK
    result = verdict(stamp_age_s=age_s)
    assert result.level is Level.WARN and f"{words} this node's clock" in result.message


@pytest.mark.parametrize("what", ["futures", "surprise"])
def test_time_without_a_value_counts_from_the_first_image_without_it(what):
    serving = pytest.importorskip("jepa_ros.world_model.camera_streams")
    nothing, now = Stats(*[0] * 7, resets={}), [0.0]
    watch = serving.StreamMonitor(nothing, clock=lambda: now[0])
    times = dict.fromkeys(STAGES, 1.0)
    given = {"deadline_ms": 33.0, "max_miss_run": 10, "stale_after_s": 1.0}

    def since(at_s, value):
        now[0] = at_s
        watch.on_frame()
        fields = RESULT | {"futures": object(), "surprise": 1.0, what: value}
        watch.on_result(SimpleNamespace(**fields, timings_ms=times))
        _, figures = watch.verdict(stats=nothing, bad_frames={}, active=True, fault="", limits=given)
        return figures[f"without_{what}_s"]

    assert [since(at_s, None) for at_s in (20.0, 20.5, 22.0)] == [0.0, 0.5, 2.0]
    assert since(22.1, object()) == 0.0
    assert since(30.0, None) == 0.0


def test_failures_of_an_earlier_period_are_ignored():
    past_errors = {"failed": 2, "unpublished": 3, "errors": 4, "late": 5, "dropped": 60}
    past = past_errors | {"bad_frames": {"bad_stamp": 9}}
    before, now = replace(BEFORE, **past), replace(WELL, **past)
    assert assess(now, before, LIMITS).level is Level.OK
    refused = replace(now, bad_frames={"bad_stamp": 10, "bad_image": 2})
    assert assess(refused, before, LIMITS).message.startswith("3 frames rejected: bad_image")
    assert assess(replace(now, unpublished=4), before, LIMITS).message.startswith("1 results could not be")


def test_node_without_frames_is_stale_whatever_the_last_result():
    silent = verdict(frame_age_s=4.2, result_age_s=4.2, received=270, processed=270)
    assert silent.level is Level.STALE
    assert "4.2 s" in silent.message


def test_topic_that_never_delivered_is_stale_and_named():
    nothing = Health(active_for_s=5.0, frame_age_s=NEVER, result_age_s=NEVER)
    result = assess(nothing, nothing, LIMITS)
    assert result.level is Level.STALE
    assert "topic" in result.message


def test_causes_precede_the_verdict_and_raise_it_to_a_warning():
    well, stalled = verdict(), verdict(result_age_s=3.0)
    assert diagnostics.with_causes(well, ()) is well and diagnostics.with_warnings(well, ()) is well
    assert diagnostics.with_causes(well, ["two", "clocks"]) == diagnostics.Verdict(
        Level.WARN, "two; clocks; running"
    )
    result = diagnostics.with_causes(stalled, ["two clocks"])
    assert result.level is Level.ERROR and result.message.startswith("two clocks; stalled")


def test_just_activated_node_without_frames_is_ok():
    fresh = Health(active_for_s=0.2, frame_age_s=NEVER, result_age_s=NEVER)
    assert assess(fresh, fresh, LIMITS).level is Level.OK


def test_stalled_node_is_an_error():
    stalled = verdict(result_age_s=3.0, received=300, processed=270)
    assert stalled.level is Level.ERROR
    assert "stalled" in stalled.message


def test_node_without_any_result_is_stalled():
    stalled = Health(active_for_s=5.0, frame_age_s=0.01, result_age_s=NEVER, received=150)
    assert assess(stalled, stalled, LIMITS).level is Level.ERROR


def test_failed_frames_are_an_error_with_the_reason():
    failed = verdict(failed=2, last_error="engine gone")
    assert failed.level is Level.ERROR
    assert "engine gone" in failed.message


def test_unpublished_results_are_an_error_with_the_reason():
    unsent = verdict(unpublished=2, errors=2, last_error="cannot publish data")
    assert unsent.level is Level.ERROR
    assert "2 results" in unsent.message and "cannot publish data" in unsent.message


def test_errors_outside_frames_are_a_warning():
    verdict_with_error = verdict(errors=1, last_error="goal cannot be encoded")
    assert verdict_with_error.level is Level.WARN and "goal cannot be encoded" in verdict_with_error.message
    assert assess(replace(WELL, errors=1), replace(BEFORE, errors=1), LIMITS).level is Level.OK


def test_some_rejected_frames_are_a_warning_with_the_reason():
    some = verdict(bad_frames={"bad_stamp": 1})
    assert some.level is Level.WARN
    assert "bad_stamp" in some.message


def test_only_rejected_frames_are_an_error():
    refused = verdict(bad_frames={"bad_image": 30}, processed=270, result_age_s=1.5)
    assert refused.level is Level.ERROR
    assert "bad_image" in refused.message


def test_single_camera_has_plain_topics_and_several_are_prefixed():
    serving = pytest.importorskip("jepa_ros.world_model.camera_streams")
    (alone,) = serving.create_camera_streams(["image"]).values()
    assert (alone.prefix, alone.goal_topic, alone.label) == ("~", "goal_image", "inference")
    front = serving.create_camera_streams(["front/image_raw", "rear"])["front/image_raw"]
    assert front.prefix == "~/front/image_raw"
    assert front.goal_topic == "front/image_raw/goal_image"
    assert front.label == "inference front/image_raw"


@pytest.mark.parametrize("topics", [[], ["front", "front"], ["/front"], ["front/"], ["9"], ["a b"], [""]])
def test_camera_names_must_be_distinct_relative_topics(topics):
    serving = pytest.importorskip("jepa_ros.world_model.camera_streams")
    with pytest.raises(JepaRuntimeError, check=code("node.invalid_parameter")):
        serving.create_camera_streams(topics)


def test_drops_beyond_a_tenth_are_a_warning():
    assert verdict(received=360, processed=300, dropped=60).level is Level.WARN
    assert verdict(received=301, processed=300, dropped=1).level is Level.OK
