"""The run of a profile as a Perfetto trace: frames with their stages, lost frames, and sensor readings.

The trace opens in the Perfetto UI. Events are track events (https://perfetto.dev/docs/reference/synthetic-track-event);
timestamps are nanoseconds since the start of the run, or since the first reading if that is earlier.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.profile import OPTIONAL_STAGES, Profile, Run, stage_order
from jepa_runtime.util.output_files import write_file

_SEQUENCE = 1
_PID = 1


def import_perfetto(path: Path) -> tuple[Any, Any]:
    """Return the modules of the messages and of their builder, for a trace to ``path``.

    Raises:
        ProfileError: The perfetto package is not installed.
    """
    try:
        return (
            importlib.import_module("perfetto.protos.perfetto.trace.perfetto_trace_pb2"),
            importlib.import_module("perfetto.trace_builder.proto_builder"),
        )
    except ImportError as error:
        raise ProfileError(
            f"{path}: a trace needs the package perfetto: pip install 'jepa-edge[viz]'",
            code="profile.perfetto_missing",
        ) from error


def write_trace(profile: Profile, path: Path) -> None:
    """Write the run of ``profile`` as a Perfetto trace (protobuf); missing folders are created.

    A frame is a slice from its scheduled time to its result; overlapping frames are on separate lanes. Its
    stages are slices inside it, in the order of ``STAGES``: a profile contains the duration of each, not its
    start. The rest of the frame, at its end, is the residual.

    Raises:
        ProfileError: The perfetto package is not installed.
        JepaRuntimeError: The file cannot be written.
    """
    protos, builders = import_perfetto(path)
    trace = BytesIO()
    _Trace(builders.StreamingTraceProtoBuilder(trace), protos.TrackEvent, profile).write()
    write_file(path, trace.getvalue())


class _Trace:
    """Writes packets. Tracks are numbered in the order of their creation; the process is the first."""

    def __init__(self, builder: Any, event: Any, profile: Profile) -> None:
        starts = [moment for reading in profile.readings for moment in reading.times_s[:1]]
        self._builder = builder
        self._event = event
        self._profile = profile
        self._origin_s = min([0.0, *starts])
        self._tracks = 0

    def write(self) -> None:
        subject, run = self._profile.subject, self._profile.run
        packet = self._builder.create_packet()
        process = self._add_track(packet).process
        process.pid = _PID
        process.process_name = f"{subject.model_id or 'model'} on {subject.engine}:{subject.device}"
        self._builder.write_packet(packet)
        self._write_frames(run)
        self._write_instants("dropped", run.dropped_s)
        self._write_instants("failed", run.failed_s)
        if run.deadline_ms is not None:
            pairs = zip(run.scheduled_s, run.latency_ms, strict=True)
            late = [start + run.deadline_ms / 1000 for start, latency in pairs if latency > run.deadline_ms]
            self._write_instants("deadline missed", late)
        for reading in self._profile.readings:
            if reading.values:
                track = self._track(reading.name, unit=reading.unit)
                for moment, value in zip(reading.times_s, reading.values, strict=True):
                    self._write(self._event.TYPE_COUNTER, track, self._ns(moment), counter=value)

    def _write_frames(self, run: Run) -> None:
        names = stage_order(run.stages_ms)
        lanes: list[int] = []
        for index, lane, begin, end in self._lanes(run):
            if lane == len(lanes):
                lanes.append(self._track("frames"))
            latency_ms = run.latency_ms[index]
            residual = latency_ms - sum(run.stages_ms[name][index] for name in names)
            details = {"frame": float(index), "latency_ms": latency_ms, "residual_ms": residual}
            self._write(self._event.TYPE_SLICE_BEGIN, lanes[lane], begin, name="frame", details=details)
            at = begin
            for name in names:
                if name in OPTIONAL_STAGES and not run.stages_ms[name][index]:
                    continue
                self._write(self._event.TYPE_SLICE_BEGIN, lanes[lane], at, name=name)
                # Stages are rounded separately: their sum may slightly exceed the frame.
                at = min(at + max(round(run.stages_ms[name][index] * 1e6), 0), end)
                self._write(self._event.TYPE_SLICE_END, lanes[lane], at)
            self._write(self._event.TYPE_SLICE_END, lanes[lane], end)

    def _lanes(self, run: Run) -> Iterator[tuple[int, int, int, int]]:
        """Yield index, lane, begin and end [ns] of each frame; the lane is the first free one."""
        ends: list[int] = []
        for index in sorted(range(len(run.scheduled_s)), key=run.scheduled_s.__getitem__):
            begin = self._ns(run.scheduled_s[index])
            end = begin + max(round(run.latency_ms[index] * 1e6), 0)
            lane = next((lane for lane, until in enumerate(ends) if until <= begin), len(ends))
            ends[lane : lane + 1] = [end]
            yield index, lane, begin, end

    def _write_instants(self, name: str, moments_s: list[float]) -> None:
        if moments_s:
            track = self._track(name)
            for moment in moments_s:
                self._write(self._event.TYPE_INSTANT, track, self._ns(moment), name=name)

    def _track(self, name: str, *, unit: str | None = None) -> int:
        """Add a track to the process and return its number.

        A track with a unit is a counter. Tracks of the same name are shown together.
        """
        packet = self._builder.create_packet()
        track = self._add_track(packet)
        track.parent_uuid = 1
        track.name = name
        if unit is not None:
            track.counter.unit_name = unit
        self._builder.write_packet(packet)
        return self._tracks

    def _add_track(self, packet: Any) -> Any:
        self._tracks += 1
        packet.track_descriptor.uuid = self._tracks
        return packet.track_descriptor

    def _write(
        self,
        kind: int,
        track: int,
        time_ns: int,
        *,
        name: str | None = None,
        counter: float | None = None,
        details: dict[str, float] | None = None,
    ) -> None:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = _SEQUENCE
        packet.timestamp = time_ns
        event = packet.track_event
        event.type, event.track_uuid = kind, track
        if name is not None:
            event.name = name
        if counter is not None:
            event.double_counter_value = counter
        for key, value in (details or {}).items():
            event.debug_annotations.add(name=key, double_value=value)
        self._builder.write_packet(packet)

    def _ns(self, moment_s: float) -> int:
        return round((moment_s - self._origin_s) * 1e9)
