"""The Perfetto trace, parsed: frames with stages, lost frames, and sensor readings."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.perfetto_trace import write_trace
from jepa_runtime.profiling.profile import Profile, Run, stage_order
from jepa_runtime.telemetry.measurements import Reading
from tests.errors import code
from tests.runtime.profiles import make_profile, make_run

PROTOS = "perfetto.protos.perfetto.trace.perfetto_trace_pb2"


@dataclass
class Slice:
    name: str
    begin: int
    end: int = 0
    inside: list[Slice] = field(default_factory=list)


@dataclass
class Trace:
    """The content of a trace: slices, instants or counter values per track."""

    process: Any = None
    tracks: dict[int, Any] = field(default_factory=dict)
    slices: dict[int, list[Slice]] = field(default_factory=lambda: defaultdict(list))
    instants: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    counters: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))

    def frames(self) -> list[Slice]:
        return sorted(
            (frame for lane in self.slices.values() for frame in lane), key=lambda frame: frame.begin
        )


def read(path: Path) -> Trace:
    """Replay the events in the order of their timestamps, as the trace processor does."""
    protos = pytest.importorskip(PROTOS, reason="perfetto is not installed (extra viz)")
    packets = protos.Trace.FromString(path.read_bytes()).packet
    trace, stacks = Trace(), defaultdict(list)
    for packet in packets:
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            assert track.uuid not in trace.tracks
            trace.tracks[track.uuid] = track
            if track.HasField("process"):
                trace.process = track.process
    event = protos.TrackEvent
    for packet in sorted((p for p in packets if p.HasField("track_event")), key=lambda p: p.timestamp):
        assert packet.trusted_packet_sequence_id
        uuid = packet.track_event.track_uuid
        stack, track = stacks[uuid], trace.tracks[uuid]
        if packet.track_event.type == event.TYPE_SLICE_BEGIN:
            opened = Slice(packet.track_event.name, packet.timestamp)
            (stack[-1].inside if stack else trace.slices[uuid]).append(opened)
            stack.append(opened)
        elif packet.track_event.type == event.TYPE_SLICE_END:
            stack.pop().end = packet.timestamp
        elif packet.track_event.type == event.TYPE_INSTANT:
            trace.instants[track.name].append(packet.timestamp)
        else:
            assert packet.track_event.type == event.TYPE_COUNTER
            trace.counters[track.name].append((packet.timestamp, packet.track_event.double_counter_value))
    assert not any(stacks.values()), "every slice must end"
    return trace


def written(profile: Profile, folder: Path) -> Trace:
    write_trace(profile, folder / "out" / "run.pftrace")
    return read(folder / "out" / "run.pftrace")


def ns(moment_s: float) -> int:
    return round(moment_s * 1e9)


def test_frame_is_a_slice_from_schedule_to_result(tmp_path: Path) -> None:
    profile = make_profile(frames=100)
    frames = written(profile, tmp_path).frames()
    assert [frame.begin for frame in frames] == [ns(due) for due in profile.run.scheduled_s]
    took = [frame.end - frame.begin for frame in frames]
    assert took == [round(latency * 1e6) for latency in profile.run.latency_ms]
    assert {frame.name for frame in frames} == {"frame"}


def test_stages_are_consecutive_slices_inside_the_frame(tmp_path: Path) -> None:
    run = make_run(frames=100)
    shuffled = {name: run.stages_ms[name] for name in ("predict", "wait", "encode", "preprocess", "receive")}
    profile = make_profile(run=run.model_copy(update={"stages_ms": {"h2d": shuffled["wait"], **shuffled}}))
    for index, frame in enumerate(written(profile, tmp_path).frames()):
        assert [stage.name for stage in frame.inside] == [
            *("receive", "wait", "preprocess", "encode", "predict", "h2d"),
        ]
        at = frame.begin
        for stage in frame.inside:
            assert stage.begin == at
            at = min(at + round(profile.run.stages_ms[stage.name][index] * 1e6), frame.end)
            assert stage.end == at
        assert at <= frame.end


def test_skipped_stage_is_no_slice(tmp_path: Path) -> None:
    run = make_run(frames=4)
    stages = {"wait": [0.0, 0.0, 0.1, 0.1], "predict": [0.0, 1.0, 0.0, 1.0]}
    frames = written(make_profile(run=run.model_copy(update={"stages_ms": stages})), tmp_path).frames()
    assert [[stage.name for stage in frame.inside] for frame in frames] == 2 * [["wait"], ["wait", "predict"]]


def test_overlapping_frames_are_on_separate_lanes(tmp_path: Path) -> None:
    run = Run(
        rate_hz=10,
        deadline_ms=100,
        duration_s=1,
        scheduled_s=[0.0, 0.1, 0.2, 0.3],
        latency_ms=[250.0, 150.0, 100.0, 50.0],
        stages_ms={},
    )
    trace = written(make_profile(run=run), tmp_path)
    lanes = {uuid: [(s.begin, s.end) for s in slices] for uuid, slices in trace.slices.items()}
    assert [len(lane) for lane in lanes.values()] == [2, 1, 1]
    assert all(end <= begin for lane in lanes.values() for (_, end), (begin, _) in pairwise(lane))
    assert {trace.tracks[uuid].name for uuid in lanes} == {"frames"}
    assert all(not frame.inside for frame in trace.frames()), "a lane must not nest one frame in another"


def test_drops_failures_and_misses_are_instants(tmp_path: Path) -> None:
    run = make_run(frames=100).model_copy(update={"deadline_ms": 13.0})
    trace = written(make_profile(run=run), tmp_path)
    assert trace.instants["dropped"] == [ns(moment) for moment in run.dropped_s]
    assert trace.instants["failed"] == [ns(moment) for moment in run.failed_s]
    late = [due + 0.013 for due, took in zip(run.scheduled_s, run.latency_ms, strict=True) if took > 13.0]
    assert late
    assert trace.instants["deadline missed"] == [ns(moment) for moment in late]


def test_readings_are_counters_with_units(tmp_path: Path) -> None:
    profile = make_profile(frames=100)
    trace = written(profile, tmp_path)
    present = {reading.name: reading for reading in profile.readings if reading.values}
    assert set(trace.counters) == set(present)
    for name, reading in present.items():
        times = [ns(moment) for moment in reading.times_s]
        assert trace.counters[name] == list(zip(times, reading.values, strict=True))
    units = {
        track.name: track.counter.unit_name for track in trace.tracks.values() if track.HasField("counter")
    }
    assert units == {name: reading.unit for name, reading in present.items()}


def test_earlier_readings_shift_all_timestamps(tmp_path: Path) -> None:
    early = Reading(name="rss", unit="MB", times_s=[-0.5, 0.5], values=[1.0, 2.0])
    trace = written(make_profile(frames=10, readings=[early]), tmp_path)
    assert trace.counters["rss"] == [(0, 1.0), (ns(1.0), 2.0)]
    assert trace.frames()[0].begin == ns(0.5) + ns(make_run(frames=10).scheduled_s[0])


def test_tracks_belong_to_one_process_named_after_the_model(tmp_path: Path) -> None:
    trace = written(make_profile(frames=10), tmp_path)
    assert trace.process.process_name == "vit_s on openvino:CPU"
    (process,) = (uuid for uuid, track in trace.tracks.items() if track.HasField("process"))
    assert all(track.parent_uuid == process for uuid, track in trace.tracks.items() if uuid != process)


def test_write_trace_without_perfetto_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PROTOS, None)
    with pytest.raises(ProfileError, check=code("profile.perfetto_missing")):
        write_trace(make_profile(frames=10), tmp_path / "run.pftrace")
    assert not list(tmp_path.iterdir())


def test_stage_order_puts_unknown_stages_last() -> None:
    assert stage_order(["h2d", "predict", "receive"]) == ["receive", "predict", "h2d"]
