"""A world as something to learn from: what :mod:`jepa_export.training` needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_sim.worlds import World


class TrainingWorld(Protocol):
    """Draws recordings, and says what they are of. It travels to another process.

    Attributes:
        kind: by which recipes know it.
        model_id, description: of the bundles.
        varies: whether there is more than one layout to tell apart.
        top_speed: greatest norm of an action, in ``action_units``.
    """

    kind: str
    model_id: str
    description: str
    varies: bool
    top_speed: float
    action_names: tuple[str, str]
    action_units: tuple[str, str]

    def record(
        self,
        seed: Sequence[int],
        *,
        layouts: int,
        trajectories: int,
        frames: int,
        steady_light: float = 0.6,
        standing: bool = False,
        pressing: float = 0.0,
    ) -> Recordings:
        """See :func:`jepa_export.data.two_rooms_recordings.record`."""
        ...

    def world(self) -> World:
        """Where what was learnt is scored."""
        ...
