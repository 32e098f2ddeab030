"""Record of each image, joined from the messages of its camera, the world model and the profiler.

No clock is read here. Times are in nanoseconds of CLOCK_MONOTONIC, which all processes of a host share and
which is never set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jepa_runtime.profiling import Run

_RECENT = 300

# Why a stage has no samples.
_WHY_ABSENT = {
    "predict": "nothing was predicted: the history was too short, or its actions were unknown",
    "energy": "no goal was set",
    "surprise": "no image had a prediction to compare with",
}
_AFTER_FUTURES = "it is computed after the futures are sent and is not part of their latency"


@dataclass(frozen=True, kw_only=True)
class NodeTimes:
    """Represent the stage times that the world model reports for one image.

    Attributes:
        received_ns: Start of the image callback.
        published_ns: When the first result (futures, or the latent if nothing was predicted) was published.
            None if there was no result.
        stages_ms: Durations in between, in order, ending with ``publish``. Zero: skipped.
        device_ms: Durations of some of them by the clock of the device.
        error: Why the image failed, or an empty string.
    """

    received_ns: int
    published_ns: int | None
    stages_ms: Mapping[str, float]
    device_ms: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(slots=True)
class _FrameRecord:
    """Represent one image; times are None until the event happens."""

    sent_ns: int | None = None
    latent_ns: int | None = None
    futures_ns: int | None = None
    node_times: NodeTimes | None = None

    @property
    def done_ns(self) -> int | None:
        """Arrival of its result: the futures, or the latent if nothing was predicted."""
        if self.futures_ns is not None:
            return self.futures_ns
        predicted = self.node_times is None or self.node_times.stages_ms.get("predict", 0.0) > 0
        return None if predicted else self.latent_ns

    @property
    def complete(self) -> bool:
        return self.node_times is not None and (bool(self.node_times.error) or self.done_ns is not None)


class FrameLedger:
    """Record all images of one run.

    Args:
        start_ns: When image 0 is due. Image i is due i / rate_hz later.
        rate_hz: Image rate [Hz].
        offset_ns: Image stamps minus CLOCK_MONOTONIC.
        frames: Number of images.
    """

    def __init__(self, *, start_ns: int, rate_hz: float, offset_ns: int, frames: int) -> None:
        self.start_ns = start_ns
        self.rate_hz = rate_hz
        self._first_stamp_ns = start_ns + offset_ns
        self._records = [_FrameRecord() for _ in range(frames)]
        self._sent = 0
        self._recent_ms: deque[float] = deque(maxlen=_RECENT)

    @property
    def frames(self) -> int:
        """Number of images."""
        return len(self._records)

    @property
    def sent(self) -> int:
        """Number of images that the camera has published."""
        return self._sent

    @property
    def processed(self) -> int:
        """Number of images with a result."""
        return sum(record.done_ns is not None for record in self._records[: self._sent])

    @property
    def idle(self) -> bool:
        """Whether the newest image is complete, so that none is in progress."""
        return self._sent == 0 or self._records[self._sent - 1].complete

    @property
    def recent_ms(self) -> list[float]:
        """Latest latencies [ms]."""
        return list(self._recent_ms)

    def add_sent(self, index: int, time_ns: int) -> None:
        """Record when the camera began to publish image ``index``."""
        self._records[index].sent_ns = time_ns
        self._sent = index + 1

    def add_futures(self, stamp_ns: int, time_ns: int) -> None:
        """Record when futures were received."""
        index = self._index(stamp_ns)
        if index is not None:
            self._records[index].futures_ns = time_ns
            self._recent_ms.append((time_ns - self.due_ns(index)) / 1e6)

    def add_latent(self, stamp_ns: int, time_ns: int) -> None:
        """Record when a latent was received."""
        index = self._index(stamp_ns)
        if index is not None:
            self._records[index].latent_ns = time_ns

    def add_node_times(self, stamp_ns: int, node_times: NodeTimes) -> None:
        """Record the stage times that the world model reports."""
        index = self._index(stamp_ns)
        if index is not None:
            self._records[index].node_times = node_times

    def due_ns(self, index: int) -> int:
        """Return when image ``index`` is due."""
        return self.start_ns + round(index * 1e9 / self.rate_hz)

    def run(self, deadline_ms: float) -> Run:
        """Return the run so far, with every published image."""
        done, dropped_s, failed_s = [], [], []
        for index, record in enumerate(self._records[: self._sent]):
            if record.done_ns is not None:
                done.append(index)
            elif record.node_times is not None and record.node_times.error:
                failed_s.append(self._seconds(index))
            else:
                dropped_s.append(self._seconds(index))
        columns = _columns([self._stages(index) for index in done])
        absent = {name: why for name, why in _WHY_ABSENT.items() if not any(columns.get(name, ()))}
        if "surprise" in absent and "predict" not in absent:
            absent["surprise"] = _AFTER_FUTURES
        node_times = [self._records[index].node_times for index in done]
        ends_ns = [end for index in done if (end := self._records[index].done_ns) is not None]
        return Run(
            rate_hz=self.rate_hz,
            deadline_ms=deadline_ms,
            duration_s=max((end - self.start_ns for end in ends_ns), default=0) / 1e9,
            scheduled_s=[self._seconds(index) for index in done],
            latency_ms=[
                round((end - self.due_ns(index)) / 1e6, 4) for index, end in zip(done, ends_ns, strict=True)
            ],
            stages_ms={name: values for name, values in columns.items() if any(values)},
            dropped_s=dropped_s,
            failed_s=failed_s,
            device_ms=_columns([times.device_ms if times else {} for times in node_times]),
            absent=absent,
        )

    def notes(self) -> list[str]:
        """Return notes about the validity of the run."""
        records = self._records[: self._sent]
        done = [record for record in records if record.done_ns is not None]
        latents = sum(record.futures_ns is None for record in done)
        without_times = sum(record.node_times is None for record in done)
        errors = [
            record.node_times.error for record in records if record.node_times and record.node_times.error
        ]
        counts = {
            f"{latents} images gave a latent and no futures; their latency ends with the latent": latents,
            f"{without_times} results had no stage times; all their time is residual": without_times,
            f"{len(errors)} images failed; the last: {errors[-1] if errors else ''}": len(errors),
        }
        return [note for note, count in counts.items() if count]

    def _index(self, stamp_ns: int) -> int | None:
        """Return the image with this stamp, or None for an image before the run (warm-up)."""
        since_ns = stamp_ns - self._first_stamp_ns
        index = round(since_ns * self.rate_hz / 1e9)
        known = 0 <= index < len(self._records) and self.due_ns(index) - self.start_ns == since_ns
        return index if known else None

    def _seconds(self, index: int) -> float:
        return round((self.due_ns(index) - self.start_ns) / 1e9, 9)

    def _stages(self, index: int) -> dict[str, float]:
        """Return the stages of an image with a result [ms]. They are adjacent and never overlap."""
        record, due_ns = self._records[index], self.due_ns(index)
        times, done_ns = record.node_times, record.done_ns
        if record.sent_ns is None or done_ns is None:
            return {}
        stages = {"receive": (record.sent_ns - due_ns) / 1e6}
        if times is None or times.published_ns is None:
            return stages
        stages["transport"] = (times.received_ns - record.sent_ns) / 1e6
        stages |= times.stages_ms
        # The result may arrive before the call that published it returns.
        early_ms = max(0.0, (times.published_ns - done_ns) / 1e6)
        stages["publish"] = max(0.0, stages.get("publish", 0.0) - early_ms)
        stages["delivery"] = max(0.0, (done_ns - times.published_ns) / 1e6)
        return stages


def _columns(entries: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return one column per name with a row per entry; zero where an entry lacks the name."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: [round(entry.get(name, 0.0), 4) for entry in entries] for name in names}
