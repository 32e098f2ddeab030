"""TwoRoom of stable-worldmodel: the package's expert with the noise of its own script.

An action of the model is the mean of :data:`BLOCK` successive actions of the environment.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_recipes.stable_worldmodel.recordings import Rows, Source, read

BLOCK = 3
# Of the package's script that records TwoRoom.
NOISE, REPEAT = 2.0, 0.05
_EXPERT = "stable_worldmodel.envs.two_room.expert_policy"


def expert(seed: int, **settings: Any) -> Any:
    """Return the package's expert, which knows positions and the door."""
    return importlib.import_module(_EXPERT).ExpertPolicy(seed=seed, **settings)


def _noisy_expert(swm: ModuleType, seed: int) -> Any:
    del swm
    return expert(seed, action_noise=NOISE, action_repeat_prob=REPEAT)


SOURCE = Source("two_room", "swm/TwoRoom-v1", _noisy_expert, ("state",))


@dataclass(frozen=True)
class TwoRoomTrainingWorld:
    """TwoRoom as a :class:`~jepa_recipes.training_worlds.interface.TrainingWorld`.

    Its data are windows of recordings, which are never rendered again.

    Attributes:
        folder: Folder that :func:`~.recordings.extract` wrote.
        from_held_out: Windows are drawn from the recordings that are held out, instead of the others.
    """

    folder: Path
    from_held_out: bool = False
    kind = "stable_worldmodel"
    model_id = "swm_two_room"
    description = "TwoRoom of stable-worldmodel: a dot in two rooms, seen from above"
    varies = False
    top_speed = 1.0
    # A step of the environment takes 0.1 s.
    step_s = BLOCK / 10
    joints = 0
    action_names = ("action.x", "action.y")
    action_units = ("1", "1")

    def record(
        self,
        seed: Sequence[int],
        *,
        layouts: int,
        trajectories: int,
        frames: int,
        steady_light: float = 1.0,
        standing: bool = False,
        pressing: float = 0.0,
    ) -> Recordings:
        """Draw windows; positions are in pixels. If ``standing``, a window repeats its first frame.

        Raises:
            JepaExportError: No recording is long enough.
        """
        del steady_light, pressing
        rows, starts = _windows(self.folder, self.from_held_out, (frames - 1) * BLOCK)
        chosen = np.random.default_rng(seed).choice(starts, (layouts, trajectories))
        window = chosen[..., None] + np.arange(frames) * BLOCK * (not standing)
        held = rows.actions[window[..., :-1, None] + np.arange(BLOCK)].mean(axis=-2) * (not standing)
        return Recordings(rows.frames[window], held.astype(np.float32), rows.states[window])

    def held_out(self) -> TwoRoomTrainingWorld:
        return replace(self, from_held_out=True)

    def world(self) -> None:
        """Return none: benchmarks/stable_worldmodel_goals.py evaluates with the package."""
        return


@lru_cache(maxsize=8)
def _windows(folder: Path, held_out: bool, steps: int) -> tuple[Rows, NDArray[np.int64]]:
    """Return all rows, and the first rows of windows."""
    rows = read(folder)
    return rows, rows.starts(steps, held_out=held_out)
