"""A run of the first-person demo: what happened, its figures, and whether it is what the demo claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import coverage, describe_files, describe_images, describe_model, summarize_images
from route_operator import Repetition, Taught

from jepa_runtime.routes import FollowerState, RouteOutcome, RouteResult, Trace, TracePoint

# Proportion of images that may be lost, of those without futures in time, and by how much the coverage of the
# error bounds may miss its target.
_MAX_DROPPED, _MAX_LATE, _MAX_UNCOVERED = 0.01, 0.05, 0.05
# This warning is about a second; a processor shared with others may cause it. Judged is the whole run.
_LATE = "results were later than"
# The robot stands below this.
_STANDS_MPS = 0.02


@dataclass(frozen=True)
class Run:
    """What happened.

    Attributes:
        seed: Seed of house and route.
        route: Name of the route.
        taught: How it was taught.
        repeated: How the robot repeated it.
        blocked: How it repeated it when a door was closed meanwhile.
        final_speed_mps: Speed of the robot after that.
    """

    seed: int
    route: str
    taught: Taught
    repeated: Repetition
    blocked: Repetition
    final_speed_mps: float


def summarize(run: Run, reports: dict[str, dict[str, Any]], stamps_ns: Sequence[int]) -> dict[str, Any]:
    """Return the figures of a run.

    Args:
        run: What happened.
        reports: Reports of the nodes.
        stamps_ns: Stamps of all images.
    """
    robot, decided_ns = reports["first_person"], reports["planner"]["stamps_ns"]
    planned = sum(decided_ns[0] <= stamp_ns <= decided_ns[-1] for stamp_ns in stamps_ns) if decided_ns else 0
    images = summarize_images(robot, reports["world_model"], reports["planner"], planned=planned)
    return images | {
        "seed": run.seed,
        "contacts": robot["contacts"],
        "taught": {"key_frames": run.taught.key_frames, "distance_m": round(run.taught.distance_m, 2)},
        "repeated": _figures(run.repeated),
        "door_closed": _figures(run.blocked),
    }


def failures(run: Run, summary: dict[str, Any]) -> list[str]:
    """Return an error for each claim of the demo that does not hold."""
    faults = []
    good, blocked = run.repeated, run.blocked
    if good.outcome != RouteOutcome.REACHED:
        faults.append(f"the route was not repeated: {good.outcome}: {good.reason}")
    elif not good.is_there:
        faults.append(
            f"the robot reports the end of the route, but is {good.error_m:.2f} m and {good.error_deg:.0f} "
            "degrees off"
        )
    faults += [
        f"warning while the route was repeated: {warning}"
        for warning in good.warnings
        if _LATE not in warning
    ]
    if blocked.outcome not in (RouteOutcome.BLOCKED, RouteOutcome.CHANGED):
        faults.append(f"with a closed door the route ended as {blocked.outcome}: {blocked.reason}")
    if run.final_speed_mps > _STANDS_MPS:
        faults.append(f"the robot still moves at {run.final_speed_mps:.2f} m/s in front of the closed door")
    if summary["frames_dropped"] > _MAX_DROPPED * summary["frames_published"]:
        faults.append(f"{summary['frames_dropped']} of {summary['frames_published']} images were dropped")
    if summary["deadline_misses"] > _MAX_LATE * summary["frames_planned"]:
        faults.append(
            f"{summary['deadline_misses']} of {summary['frames_planned']} images had no futures within "
            f"{summary['deadline_ms']:g} ms"
        )
    bounds = summary["error_bounds"]
    if bounds is None or not all(bounds["errors"]):
        faults.append("the error bounds were not evaluated")
    elif sum(bounds["within"]) < (bounds["probability"] - _MAX_UNCOVERED) * sum(bounds["errors"]):
        faults.append(f"the error bounds do not hold: {coverage(bounds)}")
    return faults


def describe(run: Run, summary: dict[str, Any], out: Path, note: str) -> str:
    """Return the run as text."""
    taught = run.taught
    return f"""
{describe_model(summary)}

  taught      {taught.distance_m:.1f} m by a scripted driver that knows the true pose: {taught.reason}
  repeated    {_line(run.repeated)}
              {run.repeated.error_m:.2f} m and {run.repeated.error_deg:.0f} degrees off the end, \
{len(run.repeated.warnings)} warnings
  door closed {_line(run.blocked)}
{describe_images(summary)}

  {out / "demo.html"}   {out / "demo.webp"}
  {out / "repeated.html"}   {out / "door_closed.html"}   (place and confidence)
{describe_files(out, note)}"""


def _line(done: Repetition) -> str:
    return f"{done.outcome} after {done.distance_m:.1f} m in {done.duration_s:.0f} s: {done.reason}"


def trace(done: Repetition) -> Trace:
    """Return the places of a repetition."""
    found = Trace()
    for each in done.feedback:
        point = TracePoint(
            time_s=(each.stamp_ns - done.began_ns) / 1e9,
            progress=each.progress,
            key_frame=each.key_frame,
            confidence=each.confidence,
            energy=each.energy,
            goal=None if each.goal < 0 else each.goal,
            state=FollowerState(each.state),
        )
        if found.points and each.reason and found.points[-1].state is not FollowerState.WAITING:
            found.stops.append((each.progress, each.reason))
        found.points.append(point)
    found.result = RouteResult(RouteOutcome(done.outcome), done.reason)
    return found


def _figures(done: Repetition) -> dict[str, Any]:
    return {
        "outcome": done.outcome,
        "reason": done.reason,
        "progress": round(done.progress, 3),
        "stops": done.stops,
        "duration_s": round(done.duration_s, 1),
        "distance_m": round(done.distance_m, 2),
        "error_m": round(done.error_m, 3),
        "error_deg": round(done.error_deg, 1),
        "warnings": done.warnings,
    }
