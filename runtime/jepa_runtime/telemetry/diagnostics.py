"""Is the node well? Decided from counters alone, so that every case can be tested without a graph.

A node that has stalled must not stay OK: the verdict depends on how long ago the last frame and the last
result came, never on the last value alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

# So many times stale_after_s without surprise are a warning: a new history takes a step and a command first.
_JUDGED_WITHIN = 3


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to complain: ``deadline_ms`` names the budget, ``max_miss_run`` consecutive misses are an error,
    silence of ``stale_after_s`` is stale, and more than ``max_drop_fraction`` of dropped frames is worth a
    warning."""

    deadline_ms: float
    max_miss_run: int
    stale_after_s: float
    max_drop_fraction: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Health:
    """A node's counters since activation, at one moment. Ages are seconds, infinite if nothing came yet;
    ``unforeseen_s``, ``unjudged_s``: since when results have been without futures, and without surprise, 0 if
    the last one had them; ``stamp_age_s``: how old the last frame was when it came, by the node's clock;
    ``undelivered``: results that could not be published; ``errors``: of all kinds."""

    active_for_s: float
    frame_age_s: float
    result_age_s: float
    unforeseen_s: float = 0.0
    unjudged_s: float = 0.0
    stamp_age_s: float = 0.0
    received: int = 0
    processed: int = 0
    dropped: int = 0
    failed: int = 0
    undelivered: int = 0
    errors: int = 0
    deadline_misses: int = 0
    miss_run: int = 0
    bad_frames: dict[str, int] = field(default_factory=dict)
    last_error: str = ""


@dataclass(frozen=True)
class Verdict:
    """A level and the sentence that explains it."""

    level: Level
    message: str


def with_complaints(verdict: Verdict, complaints: Sequence[str]) -> Verdict:
    """A warning instead of OK where all is served, but something beside it is not as it should be."""
    if verdict.level is not Level.OK or not complaints:
        return verdict
    return Verdict(Level.WARN, "; ".join(complaints))


def with_causes(verdict: Verdict, causes: Sequence[str]) -> Verdict:
    """At least a warning, beginning with ``causes``: they may be why whatever else is wrong."""
    if not causes:
        return verdict
    return Verdict(max(verdict.level, Level.WARN), "; ".join([*causes, verdict.message]))


def judge(now: Health, before: Health, limits: Limits) -> Verdict:
    """The verdict on the period from ``before`` to ``now``, the gravest finding first."""
    refused = sum(now.bad_frames.values()) - sum(before.bad_frames.values())
    if refused > 0 and now.result_age_s > limits.stale_after_s:
        return Verdict(Level.ERROR, f"every frame is refused: {_worst(now, before)}")
    if now.frame_age_s > limits.stale_after_s:
        return _silence(now, limits)
    if now.failed > before.failed:
        return Verdict(Level.ERROR, f"{now.failed - before.failed} frames failed: {now.last_error}")
    if now.undelivered > before.undelivered:
        unsent = now.undelivered - before.undelivered
        return Verdict(Level.ERROR, f"{unsent} results could not be published: {now.last_error}")
    if min(now.result_age_s, now.active_for_s) > limits.stale_after_s:
        return Verdict(Level.ERROR, f"stalled: frames arrive but there is no result {_age(now.result_age_s)}")
    if now.miss_run >= limits.max_miss_run:
        return Verdict(
            Level.ERROR, f"{now.miss_run} results in a row were later than {limits.deadline_ms:g} ms"
        )
    if refused > 0:
        return Verdict(Level.WARN, f"{refused} frames refused: {_worst(now, before)}")
    if now.errors > before.errors:
        return Verdict(Level.WARN, now.last_error)
    if now.unforeseen_s > limits.stale_after_s:
        return Verdict(
            Level.WARN,
            f"no futures for {now.unforeseen_s:.1f} s: images have no others whole steps of the model before "
            "them, or what was executed between them is not known",
        )
    if abs(now.stamp_age_s) > limits.stale_after_s:
        where = "behind" if now.stamp_age_s > 0 else "ahead of"
        return Verdict(
            Level.WARN,
            f"stamps of images are {abs(now.stamp_age_s):.1f} s {where} this node's clock, by which commands "
            "are taken for those of another moment: is use_sim_time, or the camera's clock, right?",
        )
    if now.unjudged_s > _JUDGED_WITHIN * limits.stale_after_s:
        return Verdict(
            Level.WARN,
            f"no surprise for {now.unjudged_s:.1f} s: images have no other a step of the model before them"
            " (do stamps go back and forth?), or what was executed since is not known (are commands heard?)",
        )
    late, done = now.deadline_misses - before.deadline_misses, now.processed - before.processed
    if late > 0:
        return Verdict(Level.WARN, f"{late} of {done} results were later than {limits.deadline_ms:g} ms")
    dropped, came = now.dropped - before.dropped, now.received - before.received
    if dropped > limits.max_drop_fraction * max(came, 1):
        return Verdict(
            Level.WARN, f"{dropped} of {came} frames dropped: they come faster than they can be processed"
        )
    return Verdict(Level.OK, "running")


def _silence(now: Health, limits: Limits) -> Verdict:
    if now.received == 0 and now.active_for_s <= limits.stale_after_s:
        return Verdict(Level.OK, "waiting for the first frame")
    if now.received == 0:
        return Verdict(Level.STALE, f"no frame came in {now.active_for_s:.1f} s: is the image topic right?")
    return Verdict(Level.STALE, f"no frame {_age(now.frame_age_s)}")


def _worst(now: Health, before: Health) -> str:
    grown = {reason: count - before.bad_frames.get(reason, 0) for reason, count in now.bad_frames.items()}
    return max(grown, key=lambda reason: grown[reason])


def _age(seconds: float) -> str:
    return f"for {seconds:.1f} s" if seconds != float("inf") else "yet"
