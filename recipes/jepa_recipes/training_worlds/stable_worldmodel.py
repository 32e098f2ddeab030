"""Recordings of TwoRoom of stable-worldmodel: the package's expert with the noise of its own script.

An action of the model is the mean of :data:`BLOCK` successive actions of the environment. The last tenth of
the recordings is held out.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.errors import JepaExportError
from jepa_runtime.imaging import resize_into
from jepa_sim.worlds.gymnasium_adapter import FRAME_PX

ENVIRONMENT = "swm/TwoRoom-v1"
SIDE_PX = 224
BLOCK = 3
# Of the package's script that records TwoRoom.
NOISE, REPEAT = 2.0, 0.05
_MAX_STEPS = 200
_PARALLEL = 10
_HELD_OUT = 0.1
_EXPERT = "stable_worldmodel.envs.two_room.expert_policy"
_FRAMES, _ROWS = "frames.npy", "rows.npz"


def package() -> ModuleType:
    """Import stable-worldmodel.

    Raises:
        JepaExportError: It is not installed.
    """
    try:
        return importlib.import_module("stable_worldmodel")
    except ImportError as error:
        raise JepaExportError(
            f"{error}: pip install -r benchmarks/stable_worldmodel.txt, in an environment of its own",
            code="export.package_missing",
        ) from error


def expert(swm: ModuleType, **settings: Any) -> Any:
    """Return the package's expert, which knows positions and the door."""
    del swm
    return importlib.import_module(_EXPERT).ExpertPolicy(**settings)


def record_expert(folder: Path, episodes: int, seed: int) -> Any:
    """Return recordings of the expert in ``folder`` as the package's dataset; record them if it has none.

    Raises:
        JepaExportError: The package is not installed.
    """
    swm = package()
    path = folder.resolve() / f"two_room_{episodes}_{seed}.lance"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        world = swm.World(
            ENVIRONMENT, _PARALLEL, image_shape=(SIDE_PX, SIDE_PX), max_episode_steps=_MAX_STEPS
        )
        world.set_policy(expert(swm, action_noise=NOISE, action_repeat_prob=REPEAT, seed=seed))
        # An interrupted recording is not taken for a complete one.
        with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
            recorded = Path(unfinished) / path.name
            world.collect(recorded, episodes=episodes, seed=seed)
            recorded.rename(path)
        world.close()
    return swm.data.load_dataset(str(path))


def extract(dataset: Any, folder: Path) -> None:
    """Write the images of ``dataset``, resized for the model, its actions and positions to ``folder``."""
    if (folder / _ROWS).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.asarray(dataset.lengths, np.int64)
    frames = np.lib.format.open_memmap(
        folder / _FRAMES, "w+", np.uint8, (int(lengths.sum()), FRAME_PX, FRAME_PX, 3)
    )
    actions, positions, row = [], [], 0
    for index in track(range(len(lengths)), description="       extract"):
        episode = dataset.load_episode(index)
        for image in episode["pixels"].permute(0, 2, 3, 1).contiguous().numpy():
            resize_into(image, frames[row])
            row += 1
        actions.append(np.asarray(episode["action"], np.float32))
        positions.append(np.asarray(episode["state"], np.float32))
    frames.flush()
    np.savez(
        folder / _ROWS, lengths=lengths, actions=np.concatenate(actions), positions=np.concatenate(positions)
    )


@dataclass(frozen=True)
class TwoRoomTrainingWorld:
    """TwoRoom as a :class:`~.interface.TrainingWorld`: windows of recordings, which are never rendered again.

    Attributes:
        folder: Folder that :func:`extract` wrote.
        from_held_out: Windows are drawn from the recordings that are held out, instead of the others.
    """

    folder: Path
    from_held_out: bool = False
    kind = "stable_worldmodel"
    model_id = "swm_two_room"
    description = "TwoRoom of stable-worldmodel: a dot in two rooms, seen from above"
    varies = False
    top_speed = 1.0
    # The environment draws ten images per second.
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
        images, actions, positions, starts = _windows(self.folder, self.from_held_out, frames)
        chosen = np.random.default_rng(seed).choice(starts, (layouts, trajectories))
        rows = chosen[..., None] + np.arange(frames) * BLOCK * (not standing)
        held = actions[rows[..., :-1, None] + np.arange(BLOCK)].mean(axis=-2) * (not standing)
        return Recordings(images[rows], held.astype(np.float32), positions[rows])

    def held_out(self) -> TwoRoomTrainingWorld:
        return replace(self, from_held_out=True)

    def world(self) -> None:
        """Return none: benchmarks/stable_worldmodel.py evaluates the model under the package's evaluator."""
        return


@lru_cache(maxsize=8)
def _windows(
    folder: Path, held_out: bool, frames: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return images, actions and positions of all rows, and the first rows of windows."""
    images = np.load(folder / _FRAMES, mmap_mode="r")
    with np.load(folder / _ROWS) as rows:
        lengths, actions, positions = rows["lengths"], rows["actions"], rows["positions"]
    ends = np.cumsum(lengths)
    first_held_out = int(len(lengths) * (1 - _HELD_OUT))
    part = slice(first_held_out, None) if held_out else slice(first_held_out)
    steps = (frames - 1) * BLOCK
    starts = [
        np.arange(end - length, end - steps) for length, end in zip(lengths[part], ends[part], strict=True)
    ]
    if not (found := np.concatenate(starts)).size:
        raise JepaExportError(
            f"{folder}: no recording has {steps + 1} steps; record more", code="training.too_few_recordings"
        )
    return images, actions, positions, found
