"""What became of every image, joined from what its camera, the world model and the profiler say about it.

Pure: no clock is read here. Moments are nanoseconds of CLOCK_MONOTONIC, which all processes of a host share
and which nobody sets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jepa_runtime.profiling.profile import Run

_RECENT = 300

# Why a stage that no frame went through is missing.
_WHY_ABSENT = {
    "predict": "nothing was predicted: the history was too short, or actions in it were unknown",
    "energy": "no goal was set",
    "surprise": "nothing had been predicted for any of the images",
}
_AFTERWARDS = "it is computed once the futures are sent: it is no part of their latency"


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What the world model says about one image.

    Attributes:
        received_ns: its callback began.
        published_ns: its first result (futures, or the latent where nothing was predicted) had been handed
            over; None: there was none.
        stages_ms: what was done in between, in order; zero: not gone through. Ends with ``publish``.
        device_ms: of some of them, what the device's own clock says.
        error: why it failed; empty: it did not.
    """

    received_ns: int
    published_ns: int | None
    stages_ms: Mapping[str, float]
    device_ms: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(slots=True)
class _Passage:
    """One image on its way; None: has not happened."""

    sent_ns: int | None = None
    latent_ns: int | None = None
    futures_ns: int | None = None
    inside: Inside | None = None

    @property
    def done_ns(self) -> int | None:
        """When its result was here: the futures, or the latent where nothing was predicted."""
        if self.futures_ns is not None:
            return self.futures_ns
        predicted = self.inside is None or self.inside.stages_ms.get("predict", 0.0) > 0
        return None if predicted else self.latent_ns

    @property
    def settled(self) -> bool:
        return self.inside is not None and (bool(self.inside.error) or self.done_ns is not None)


class FrameLedger:
    """Every image of one run.

    Args:
        start_ns: when image 0 is due; image i is due i / rate_hz later.
        rate_hz: images per second.
        offset_ns: stamps of images minus CLOCK_MONOTONIC.
        frames: how many images there are.
    """

    def __init__(self, *, start_ns: int, rate_hz: float, offset_ns: int, frames: int) -> None:
        self.start_ns = start_ns
        self.rate_hz = rate_hz
        self._first_stamp_ns = start_ns + offset_ns
        self._passages = [_Passage() for _ in range(frames)]
        self._sent = 0
        self._recent_ms: deque[float] = deque(maxlen=_RECENT)

    @property
    def frames(self) -> int:
        """How many images there are."""
        return len(self._passages)

    @property
    def sent(self) -> int:
        """How many images the camera has published."""
        return self._sent

    @property
    def processed(self) -> int:
        """How many results have come."""
        return sum(passage.done_ns is not None for passage in self._passages[: self._sent])

    @property
    def idle(self) -> bool:
        """Whether everything is known about the newest image, so that nothing is under way."""
        return self._sent == 0 or self._passages[self._sent - 1].settled

    @property
    def recent_ms(self) -> list[float]:
        """The last latencies [ms]."""
        return list(self._recent_ms)

    def add_sent(self, index: int, moment_ns: int) -> None:
        """The camera began to publish image ``index``."""
        self._passages[index].sent_ns = moment_ns
        self._sent = index + 1

    def add_futures(self, stamp_ns: int, moment_ns: int) -> None:
        """Futures were received."""
        index = self._index(stamp_ns)
        if index is not None:
            self._passages[index].futures_ns = moment_ns
            self._recent_ms.append((moment_ns - self.due_ns(index)) / 1e6)

    def add_latent(self, stamp_ns: int, moment_ns: int) -> None:
        """A latent was received."""
        index = self._index(stamp_ns)
        if index is not None:
            self._passages[index].latent_ns = moment_ns

    def add_inside(self, stamp_ns: int, inside: Inside) -> None:
        """The world model told its stage times."""
        index = self._index(stamp_ns)
        if index is not None:
            self._passages[index].inside = inside

    def due_ns(self, index: int) -> int:
        """When image ``index`` is due."""
        return self.start_ns + round(index * 1e9 / self.rate_hz)

    def run(self, deadline_ms: float) -> Run:
        """The run so far, with every image that was published."""
        done, dropped_s, failed_s = [], [], []
        for index, passage in enumerate(self._passages[: self._sent]):
            if passage.done_ns is not None:
                done.append(index)
            elif passage.inside is not None and passage.inside.error:
                failed_s.append(self._seconds(index))
            else:
                dropped_s.append(self._seconds(index))
        columns = _columns([self._stages(index) for index in done])
        absent = {name: why for name, why in _WHY_ABSENT.items() if not any(columns.get(name, ()))}
        if "surprise" in absent and "predict" not in absent:
            absent["surprise"] = _AFTERWARDS
        insides = [self._passages[index].inside for index in done]
        ends_ns = [end for index in done if (end := self._passages[index].done_ns) is not None]
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
            device_ms=_columns([inside.device_ms if inside else {} for inside in insides]),
            absent=absent,
        )

    def notes(self) -> list[str]:
        """What a reader must know to judge the run."""
        passages = self._passages[: self._sent]
        done = [passage for passage in passages if passage.done_ns is not None]
        latents = sum(passage.futures_ns is None for passage in done)
        blind = sum(passage.inside is None for passage in done)
        errors = [passage.inside.error for passage in passages if passage.inside and passage.inside.error]
        found = {
            f"{latents} images gave a latent and no futures; their latency ends with the latent": latents,
            f"{blind} results came without stage times; all their time is residual": blind,
            f"{len(errors)} images failed; the last: {errors[-1] if errors else ''}": len(errors),
        }
        return [note for note, count in found.items() if count]

    def _index(self, stamp_ns: int) -> int | None:
        """Which image bears this stamp; None: none of this run's (images came before it, to warm up)."""
        since_ns = stamp_ns - self._first_stamp_ns
        index = round(since_ns * self.rate_hz / 1e9)
        known = 0 <= index < len(self._passages) and self.due_ns(index) - self.start_ns == since_ns
        return index if known else None

    def _seconds(self, index: int) -> float:
        return round((self.due_ns(index) - self.start_ns) / 1e9, 9)

    def _stages(self, index: int) -> dict[str, float]:
        """The stages of an image whose result has come [ms]; they adjoin each other and never overlap."""
        passage, due_ns = self._passages[index], self.due_ns(index)
        inside, done_ns = passage.inside, passage.done_ns
        if passage.sent_ns is None or done_ns is None:
            return {}
        found = {"receive": (passage.sent_ns - due_ns) / 1e6}
        if inside is None or inside.published_ns is None:
            return found
        found["transport"] = (inside.received_ns - passage.sent_ns) / 1e6
        found |= inside.stages_ms
        # The result may be here before the call that published it returns.
        early_ms = max(0.0, (inside.published_ns - done_ns) / 1e6)
        found["publish"] = max(0.0, found.get("publish", 0.0) - early_ms)
        found["delivery"] = max(0.0, (done_ns - inside.published_ns) / 1e6)
        return found


def _columns(entries: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """One column for each name, with a row for each entry; zero where it has no such name."""
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: [round(entry.get(name, 0.0), 4) for entry in entries] for name in names}
