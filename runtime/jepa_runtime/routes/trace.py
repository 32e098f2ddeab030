"""What happened while a route was repeated, image by image."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from jepa_runtime.errors import RouteError
from jepa_runtime.routes.follower import FollowerState, RouteFollower, RouteResult
from jepa_runtime.routes.localizer import Place


@dataclass(frozen=True, kw_only=True)
class TracePoint:
    """One image.

    Attributes:
        time_s: Time since the start.
        progress: The place on the route, from 0 to 1.
        key_frame: The most likely key frame.
        confidence: Confidence in the place.
        energy: Energy between that key frame and the image; NaN: unknown.
        goal: Key frame that the robot drives to; None: it stands.
        state: State of the follower.
    """

    time_s: float
    progress: float
    key_frame: int
    confidence: float
    energy: float
    goal: int | None
    state: FollowerState


@dataclass
class Trace:
    """All images of a drive, and how it ended.

    Attributes:
        points: The images.
        stops: Places, as fractions of the route, and reasons of all stops on the way.
        result: How the drive ended; None: it is in progress.
    """

    points: list[TracePoint] = field(default_factory=list)
    stops: list[tuple[float, str]] = field(default_factory=list)
    result: RouteResult | None = None

    def add(self, place: Place, follower: RouteFollower, *, time_s: float) -> None:
        """Add an image after the follower has processed it."""
        self.points.append(
            TracePoint(
                time_s=time_s,
                progress=place.progress,
                key_frame=place.key_frame,
                confidence=place.confidence,
                energy=place.energy,
                goal=None if follower.goal is None else follower.goal.index,
                state=follower.state,
            )
        )
        self.stops, self.result = list(follower.stops), follower.result

    @property
    def ended(self) -> RouteResult:
        """How the drive ended.

        Raises:
            RouteError: It is in progress.
        """
        if self.result is None:
            raise RouteError("the drive along the route is in progress", code="route.in_progress")
        return self.result

    def as_dict(self) -> dict[str, Any]:
        """Return the drive as JSON data."""
        result = self.ended
        return {
            "outcome": str(result.outcome),
            "reason": result.reason,
            "stops": [{"progress": progress, "reason": reason} for progress, reason in self.stops],
            "points": [
                asdict(point) | {"energy": point.energy if math.isfinite(point.energy) else None}
                for point in self.points
            ],
        }
