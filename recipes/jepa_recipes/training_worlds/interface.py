"""The interface of a world that models are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_sim.worlds import World


class TrainingWorld(Protocol):
    """A world that renders recordings and describes them; it can be pickled.

    Attributes:
        kind: Key of its recipe.
        model_id: Model ID of the bundle.
        description: Description in the bundle.
        varies: There is more than one layout.
        top_speed: Largest norm of an action, in ``action_units``.
        step_s: Duration of an action.
        joints: Number of joints whose angles are recorded and are a training target.
    """

    @property
    def kind(self) -> str: ...

    @property
    def model_id(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def varies(self) -> bool: ...

    @property
    def top_speed(self) -> float: ...

    @property
    def step_s(self) -> float: ...

    @property
    def joints(self) -> int: ...

    @property
    def action_names(self) -> tuple[str, str]: ...

    @property
    def action_units(self) -> tuple[str, str]: ...

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
        """Record trajectories, see :func:`jepa_export.data.two_rooms_recordings.record`."""
        ...

    def held_out(self) -> TrainingWorld:
        """Return the world whose recordings errors and thresholds are measured on."""
        ...

    def world(self) -> World | None:
        """Return the world in which a trained model is evaluated; None: no closed loop is run."""
        ...
