"""Assess the health of a node from its counters alone, so that every case can be tested without a ROS graph.

A stalled node must not stay OK: the verdict depends on the age of the last frame and of the last result, not
only on the last values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

# Multiple of stale_after_s without surprise that is a warning: a new history needs a step and a command
# first.
_SURPRISE_WITHIN = 3


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a healthy node.

    Attributes:
        deadline_ms: The latency budget of a result, for messages.
        max_miss_run: This many consecutive late results are an error.
        stale_after_s: Without a frame for this long, the node is stale.
        max_late_fraction: A larger fraction of late results is a warning.
        max_drop_fraction: A larger fraction of dropped frames is a warning.
    """

    deadline_ms: float
    max_miss_run: int
    stale_after_s: float
    max_late_fraction: float = 0.05
    max_drop_fraction: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Health:
    """A node's counters since activation, at one time.

    Attributes:
        active_for_s: Time since activation.
        frame_age_s: Time since the last frame, infinite before the first.
        result_age_s: Time since the last result, infinite before the first.
        without_futures_s: For how long results have had no predicted futures; 0 if the last one had them.
        without_surprise_s: For how long results have had no surprise; 0 if the last one had it.
        stamp_age_s: The age of the last frame on arrival by the node's clock.
        received: Frames received.
        processed: Frames processed.
        dropped: Frames dropped because a newer one arrived.
        failed: Frames whose processing failed.
        skipped: Frames that complete no step of a model that reads clips.
        unpublished: Results that could not be published.
        errors: Errors of all kinds.
        late: Results later than the deadline.
        miss_run: The longest run of consecutive late results.
        bad_frames: Rejected frames by reason.
        last_error: The last error message.
        clip_obstacle: The reason why the newest frames form no clip; empty if they do.
    """

    active_for_s: float
    frame_age_s: float
    result_age_s: float
    without_futures_s: float = 0.0
    without_surprise_s: float = 0.0
    stamp_age_s: float = 0.0
    received: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0
    skipped: int = 0
    unpublished: int = 0
    errors: int = 0
    late: int = 0
    miss_run: int = 0
    bad_frames: dict[str, int] = field(default_factory=dict)
    last_error: str = ""
    clip_obstacle: str = ""


@dataclass(frozen=True)
class Verdict:
    """A level and the sentence that explains it."""

    level: Level
    message: str


def with_warnings(verdict: Verdict, warnings: Sequence[str]) -> Verdict:
    """Return a warning instead of OK if there are ``warnings``; other verdicts are returned unchanged."""
    if verdict.level is not Level.OK or not warnings:
        return verdict
    return Verdict(Level.WARN, "; ".join(warnings))


def with_causes(verdict: Verdict, causes: Sequence[str]) -> Verdict:
    """Return at least a warning that starts with ``causes``, which may explain the rest of the verdict."""
    if not causes:
        return verdict
    return Verdict(max(verdict.level, Level.WARN), "; ".join([*causes, verdict.message]))


def assess(now: Health, before: Health, limits: Limits) -> Verdict:
    """Return the most severe finding of the period from ``before`` to ``now``."""
    rejected = sum(now.bad_frames.values()) - sum(before.bad_frames.values())
    if rejected > 0 and now.result_age_s > limits.stale_after_s:
        return Verdict(Level.ERROR, f"all frames are rejected: {_most_frequent_reason(now, before)}")
    if now.frame_age_s > limits.stale_after_s:
        return _no_frames(now, limits)
    if now.failed > before.failed:
        return Verdict(Level.ERROR, f"{now.failed - before.failed} frames failed: {now.last_error}")
    if now.unpublished > before.unpublished:
        unpublished = now.unpublished - before.unpublished
        return Verdict(Level.ERROR, f"{unpublished} results could not be published: {now.last_error}")
    if now.clip_obstacle:
        return Verdict(Level.WARN, now.clip_obstacle)
    if min(now.result_age_s, now.active_for_s) > limits.stale_after_s:
        return Verdict(Level.ERROR, f"stalled: frames arrive, but no result {_age(now.result_age_s)}")
    if now.miss_run >= limits.max_miss_run:
        return Verdict(
            Level.ERROR, f"{now.miss_run} consecutive results were later than {limits.deadline_ms:g} ms"
        )
    if rejected > 0:
        return Verdict(Level.WARN, f"{rejected} frames rejected: {_most_frequent_reason(now, before)}")
    if now.errors > before.errors:
        return Verdict(Level.WARN, now.last_error)
    if now.without_futures_s > limits.stale_after_s:
        return Verdict(
            Level.WARN,
            f"no futures for {now.without_futures_s:.1f} s: no earlier images lie at multiples of the "
            "model's step before the current one, or the actions executed between them are unknown",
        )
    if abs(now.stamp_age_s) > limits.stale_after_s:
        where = "behind" if now.stamp_age_s > 0 else "ahead of"
        return Verdict(
            Level.WARN,
            f"image stamps are {abs(now.stamp_age_s):.1f} s {where} this node's clock, so commands are "
            "matched to the wrong images: check use_sim_time and the camera's clock",
        )
    if now.without_surprise_s > _SURPRISE_WITHIN * limits.stale_after_s:
        return Verdict(
            Level.WARN,
            f"no surprise for {now.without_surprise_s:.1f} s: no image lies one step of the model before the "
            "current one (check that stamps increase), or the actions executed since are unknown (check the "
            "command topic)",
        )
    late, processed = now.late - before.late, now.processed - before.processed
    if late > limits.max_late_fraction * max(processed, 1):
        return Verdict(Level.WARN, f"{late} of {processed} results were later than {limits.deadline_ms:g} ms")
    dropped = now.dropped - before.dropped
    received = now.received - before.received - (now.skipped - before.skipped)
    if dropped > limits.max_drop_fraction * max(received, 1):
        return Verdict(
            Level.WARN,
            f"{dropped} of {received} frames dropped: they arrive faster than they can be processed",
        )
    return Verdict(Level.OK, "running")


def _no_frames(now: Health, limits: Limits) -> Verdict:
    if now.received == 0 and now.active_for_s <= limits.stale_after_s:
        return Verdict(Level.OK, "waiting for the first frame")
    if now.received == 0:
        return Verdict(Level.STALE, f"no frame received in {now.active_for_s:.1f} s: check the image topic")
    return Verdict(Level.STALE, f"no frame {_age(now.frame_age_s)}")


def _most_frequent_reason(now: Health, before: Health) -> str:
    added = {reason: count - before.bad_frames.get(reason, 0) for reason, count in now.bad_frames.items()}
    return max(added, key=lambda reason: added[reason])


def _age(seconds: float) -> str:
    return f"for {seconds:.1f} s" if seconds != float("inf") else "yet"
