"""Recordings of environments of stable-worldmodel: recorded with one of its policies, read as arrays."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_export.errors import JepaExportError
from jepa_runtime.imaging import Image, resize_into
from jepa_runtime.util import atomic_files
from jepa_sim.worlds.gymnasium_adapter import FRAME_PX

SIDE_PX = 224
HELD_OUT = 0.1
_MAX_STEPS = 200
_PARALLEL = 10
_FRAMES, _ROWS = "frames.npy", "rows.npz"
# A number that is never set: Lance refuses columns without a value.
_WITHOUT_VALUES = frozenset({"success"})


@dataclass(frozen=True)
class Source:
    """What is recorded.

    Attributes:
        name: Name for files.
        environment: Id of the environment.
        policy: Creates the policy from the package and a seed.
        states: Columns of the state, which is what :attr:`Rows.states` holds.
        settings: Settings of the environment.
    """

    name: str
    environment: str
    policy: Callable[[ModuleType, int], Any]
    states: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """The steps of all recordings, one after another.

    Attributes:
        frames: uint8 [N, FRAME_PX, FRAME_PX, 3].
        actions: float32 [N, A], in force from the frame on; meaningless at the last step of a recording.
        states: float32 [N, S].
        lengths: Steps of each recording.
    """

    frames: Image
    actions: NDArray[np.float32]
    states: NDArray[np.float32]
    lengths: NDArray[np.int64]

    def recordings(self, *, held_out: bool) -> list[range]:
        """Return the rows of each recording in the last tenth, which is held out, or in the rest."""
        first_held_out = int(len(self.lengths) * (1 - HELD_OUT))
        ends = np.cumsum(self.lengths)
        found = [range(end - length, end) for length, end in zip(self.lengths, ends, strict=True)]
        return found[first_held_out:] if held_out else found[:first_held_out]

    def starts(self, steps: int, *, held_out: bool) -> NDArray[np.int64]:
        """Return the rows that ``steps`` further steps of the same recording follow.

        Raises:
            JepaExportError: No recording is long enough.
        """
        found = [np.arange(each.start, each.stop - steps) for each in self.recordings(held_out=held_out)]
        starts = np.concatenate([np.empty(0, np.int64), *found])
        if not starts.size:
            raise JepaExportError(
                f"no recording has {steps + 1} steps; record more", code="training.too_few_recordings"
            )
        return starts


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


def record(folder: Path, source: Source, episodes: int, seed: int) -> Any:
    """Return recordings in ``folder`` as the package's dataset; record them if it has none.

    Recording k begins as ``seed`` + k says: seeds of data that must not overlap are further apart than the
    number of recordings.

    Raises:
        JepaExportError: The package is not installed.
    """
    swm = package()
    path = folder.resolve() / f"{source.name}_{episodes}_{seed}.lance"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        world = swm.World(
            source.environment,
            min(_PARALLEL, episodes),
            image_shape=(SIDE_PX, SIDE_PX),
            max_episode_steps=_MAX_STEPS,
            **source.settings,
        )
        # An interrupted recording is not taken for a complete one.
        with closing(world), tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
            world.set_policy(source.policy(swm, seed))
            recorded = Path(unfinished) / path.name
            writer = _EpisodeWriter(swm.data.get_format("lance").open_writer(recorded))
            world.collect(writer=writer, episodes=episodes, seed=seed)
            recorded.rename(path)
    return swm.data.load_dataset(str(path))


class _EpisodeWriter:
    """The package's writer, one episode at a time.

    Given all episodes, it would step the environment in its own thread, which cannot render with EGL.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __enter__(self) -> _EpisodeWriter:
        self._writer.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._writer.__exit__(*raised)

    def write_episodes(self, episodes: Iterable[dict[str, Any]]) -> None:
        """Write all episodes."""
        for episode in episodes:
            self._writer.write_episode(
                {name: column for name, column in episode.items() if name not in _WITHOUT_VALUES}
            )


def extract(dataset: Any, source: Source, folder: Path) -> Rows:
    """Return the rows of ``dataset``, with images of the model's size; write them if ``folder`` has none."""
    if not (folder / _ROWS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        lengths = np.asarray(dataset.lengths, np.int64)
        frames = np.lib.format.open_memmap(
            folder / _FRAMES, "w+", np.uint8, (int(lengths.sum()), FRAME_PX, FRAME_PX, 3)
        )
        actions, states, row = [], [], 0
        for index in track(range(len(lengths)), description="       extract"):
            episode = dataset.load_episode(index)
            for image in episode["pixels"].permute(0, 2, 3, 1).contiguous().numpy():
                resize_into(image, frames[row])
                row += 1
            actions.append(np.asarray(episode["action"], np.float32))
            states.append(np.concatenate([np.asarray(episode[name]) for name in source.states], axis=1))
        frames.flush()
        with atomic_files.replacing(folder / _ROWS) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                lengths=lengths,
                actions=np.concatenate(actions),
                states=np.concatenate(states).astype(np.float32),
            )
    return read(folder)


def read(folder: Path) -> Rows:
    """Return the rows that :func:`extract` wrote to ``folder``."""
    with np.load(folder / _ROWS) as rows:
        return Rows(
            np.load(folder / _FRAMES, mmap_mode="r"), rows["actions"], rows["states"], rows["lengths"]
        )
