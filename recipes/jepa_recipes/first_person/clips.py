"""Clips: frames of drives, rendered with new textures and light, and what the odometry measured.

The last frames of a clip are earlier ones of the same drive after a turn on the spot. Simulation allows any
turn there; a robot would turn, and its odometry measures by how much. In most drives, they all look to about
the same side: these frames are side by side, as those along the drive are not. In some, they look back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_recipes.first_person.library import DriveLibrary, take_layouts
from jepa_sim.worlds.first_person.camera import with_noise
from jepa_sim.worlds.first_person.layouts import TEXTURE, PackedLayouts
from jepa_sim.worlds.first_person.odometry import WheelOdometry
from jepa_sim.worlds.first_person.rendering import HEIGHT_PX, WIDTH_PX, render
from jepa_sim.worlds.first_person.textures import texture_numbers

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Columns of PackedLayouts.lights.
_INTENSITY, _AMBIENT = 2, 3
_MAX_STRIDE = 10
# Turns of this proportion of drives are up to the first limit, those of the others up to half a circle.
_OVERLAPPING, _MAX_OVERLAPPING_RAD = 0.75, 1.6
# In this proportion of drives, all turned frames look to one side, up to a deviation in this range.
_ASIDE, _ASIDE_DEVIATION_RAD = 0.8, (0.2, 0.9)
_MAX_NOISE, _GAIN = 5.0, (0.75, 1.3)


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """Size of a batch of clips.

    Attributes:
        drives: Number of drives D.
        frames: Frames of each drive F, with those after a turn.
        turned: How many of them were taken after a turn on the spot.
        consecutive: How many drives, from the first, have frames one model step apart; in the others, one to
            ten.
    """

    drives: int = 12
    frames: int = 10
    turned: int = 5
    consecutive: int = 4


@dataclass(frozen=True)
class Turns:
    """Pairs of frames between which the robot turned on the spot.

    Attributes:
        first: Numbers of the first frames among all D F frames [P].
        second: Those of the second frames [P].
    """

    first: Ints
    second: Ints


@dataclass(frozen=True)
class Clips:
    """F frames of each of D drives.

    Attributes:
        images: uint8 RGB [D, F, height, width, 3].
        odometry: Odometry at each frame [D, F, 3].
        commands: Command that the robot held from each frame on [D, F, 2].
        turns: Turns on the spot.
        which: Number of the layout of each drive in the library [D].
        poses: True poses [D, F, 3]; only the expert of behavior cloning uses them.
    """

    images: NDArray[np.uint8]
    odometry: Floats
    commands: Floats
    turns: Turns
    which: Ints
    poses: NDArray[np.float64]


def sample_clips(
    library: DriveLibrary, shape: ClipShape, rng: np.random.Generator, *, augment: bool = True
) -> Clips:
    """Return frames of random drives.

    Args:
        library: The drives.
        shape: Number of drives and frames.
        rng: Random numbers.
        augment: Whether to permute the textures for training and to change lights, exposure and noise, each
            time. Without, images are those of the robot's camera.
    """
    drives = rng.integers(len(library), size=shape.drives)
    times = _times(library.poses.shape[1], shape, rng)
    poses = library.poses[drives[:, None], times].astype(np.float64)
    odometry = library.odometry[drives[:, None], times]
    commands = library.commands[drives[:, None], np.minimum(times, library.commands.shape[1] - 1)]
    turns = _turn(poses, odometry, shape, rng)
    which = library.which[drives]
    layouts = take_layouts(library.layouts, which)
    if augment:
        _redecorate(layouts, rng)
    images = render(layouts, poses.reshape(-1, 3), np.repeat(np.arange(shape.drives), shape.frames))
    images = images.reshape(shape.drives, shape.frames, HEIGHT_PX, WIDTH_PX, 3)
    images = _degrade(images, rng) if augment else with_noise(images, rng)
    return Clips(images, odometry, commands, turns, which, poses)


def _times(steps: int, shape: ClipShape, rng: np.random.Generator) -> Ints:
    """Return the steps of the drives at which frames are taken [D, F]; the turned ones are replaced."""
    stride = rng.integers(1, _MAX_STRIDE, size=shape.drives, endpoint=True)
    stride[: shape.consecutive] = 1
    span = stride * (shape.frames - shape.turned - 1)
    start = rng.integers(0, np.maximum(1, steps - span))
    times: Ints = np.minimum(steps - 1, start[:, None] + stride[:, None] * np.arange(shape.frames))
    return times


def _turn(poses: NDArray[np.float64], odometry: Floats, shape: ClipShape, rng: np.random.Generator) -> Turns:
    """Replace the last frames of each drive by earlier ones after a turn on the spot."""
    untouched = shape.frames - shape.turned
    source = rng.integers(untouched, size=(shape.drives, shape.turned))
    limit = np.where(rng.random((shape.drives, 1)) < _OVERLAPPING, _MAX_OVERLAPPING_RAD, np.pi)
    angle = limit * rng.uniform(-1, 1, source.shape)
    aside = rng.random(shape.drives) < _ASIDE
    deviation = rng.uniform(*_ASIDE_DEVIATION_RAD, (shape.drives, 1)) * rng.uniform(-1, 1, source.shape)
    angle[aside] = (angle[:, :1] + deviation)[aside]
    measured = np.array([_measure(turn, rng) for turn in angle.flat]).reshape(source.shape)
    drive = np.arange(shape.drives)[:, None]
    for values, turn in ((poses, angle), (odometry, measured)):
        values[:, untouched:] = values[drive, source]
        values[:, untouched:, 2] += turn
    first = (source + drive * shape.frames).reshape(-1)
    second = (np.arange(untouched, shape.frames) + drive * shape.frames).reshape(-1)
    return Turns(first, second)


def _measure(angle: float, rng: np.random.Generator) -> float:
    """Return a turn on the spot as the odometry of a robot measures it."""
    odometry = WheelOdometry(rng)
    odometry.update(np.array([0.0, 0.0, angle]))
    return float(odometry.pose[2])


def _redecorate(layouts: PackedLayouts, rng: np.random.Generator) -> None:
    """Permute the textures of each layout among those for training, and change its lights, in place."""
    count = len(layouts)
    numbers = texture_numbers(held_out=False)
    permuted = rng.permuted(np.tile(numbers, (count, 1)), axis=1)
    solids, surfaces, lights = layouts.solids, layouts.surfaces, layouts.lights
    solids[..., TEXTURE] = np.take_along_axis(permuted, solids[..., TEXTURE].astype(np.int64), 1)
    surfaces[:] = np.take_along_axis(permuted, surfaces.reshape(count, -1), 1).reshape(surfaces.shape)
    lights[..., _INTENSITY] = rng.uniform(0.5, 2.2, lights.shape[:2])
    lights[..., _AMBIENT] = rng.uniform(0.3, 0.75, lights.shape[:2])


def _degrade(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return images with another exposure each, and sensor noise."""
    gain = rng.uniform(*_GAIN, (*images.shape[:2], 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal(images.shape, np.float32) * np.float32(rng.uniform(0, _MAX_NOISE))
    degraded: NDArray[np.uint8] = np.clip(images * gain + noise, 0, 255).astype(np.uint8)
    return degraded
