"""Two Rooms as a world to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jepa_export.data.two_rooms_recordings import STEP_S, Recordings, record
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS, LayoutKind


@dataclass(frozen=True)
class TwoRoomsTrainingWorld:
    """Two Rooms with fixed or random layouts, as a :class:`~.interface.TrainingWorld`."""

    kind: LayoutKind
    top_speed = MAX_SPEED_MPS
    step_s = STEP_S
    joints = 0
    action_names = ("linear.x", "linear.y")
    action_units = ("m/s", "m/s")

    @property
    def model_id(self) -> str:
        return "two_rooms" if self.kind == "random" else "two_rooms_fixed"

    @property
    def description(self) -> str:
        return f"Two Rooms, {self.kind} layouts: a mobile base in two rooms, seen from above"

    @property
    def varies(self) -> bool:
        return self.kind == "random"

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
        return record(
            seed,
            layouts=layouts,
            trajectories=trajectories,
            frames=frames,
            kind=self.kind,
            steady_light=steady_light,
            standing=standing,
            pressing=pressing,
        )

    def held_out(self) -> TwoRoomsTrainingWorld:
        return self

    def world(self) -> TwoRooms:
        return TwoRooms(layout=self.kind, seed=0)
