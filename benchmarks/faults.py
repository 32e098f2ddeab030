"""Camera faults while the driver continues to send images; used by safety.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds import TwoRooms

RATE_HZ = 30.0

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Sent:
    """One image that the world model receives within a period.

    Attributes:
        behind_s: Age of its stamp.
        later_s: Delay of its arrival within the period.
        publishers: Number of publishers of its topic.
    """

    image: Image
    behind_s: float = 0.0
    later_s: float = 0.0
    publishers: int = 1


class Fault(Protocol):
    """Replacement of the live images that the world model would receive, period by period."""

    def before(self, image: Image) -> None:
        """Record a live image before the fault begins."""

    def sent(self, image: Image) -> list[Sent]:
        """Return the images that are received instead of a live image."""


@dataclass
class Ring:
    """The driver repeats its last buffers.

    Args:
        size: Number of buffers.
        noise: Amplitude of the uniform noise added to each.
        drift: Angular frequency (rad/s) of the brightness of the images.
        jitter_s: Standard deviation of the stamps.
    """

    size: int
    noise: int = 0
    drift: float = 0.0
    jitter_s: float = 0.0
    _buffers: list[Image] = field(default_factory=list)
    _count: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def before(self, image: Image) -> None:
        self._buffers = [*self._buffers, image][-self.size :]

    def picture(self) -> Image:
        picture = self._buffers[self._count % len(self._buffers)].astype(np.float32)
        self._count += 1
        if self.drift:
            picture *= 1 + 0.15 * np.sin(self.drift * self._count / RATE_HZ)
        if self.noise:
            picture += self._rng.integers(-self.noise, self.noise + 1, picture.shape)
        return np.clip(np.rint(picture), 0, 255).astype(np.uint8)

    def sent(self, image: Image) -> list[Sent]:
        behind_s = abs(self._rng.normal(0, self.jitter_s)) if self.jitter_s else 0.0
        return [Sent(self.picture(), behind_s)]


class Clock(Ring):
    """One image with a clock drawn over it: a small part changes with each image."""

    def sent(self, image: Image) -> list[Sent]:
        picture = self.picture()
        picture[2:14, 2:60] = self._rng.integers(0, 2, (12, 58, 1)) * 255
        return [Sent(picture)]


@dataclass
class Half(Ring):
    """Half of each image is no longer transferred and shows the last image.

    Args:
        part: The half.
    """

    size: int = 1
    part: str = "lower"

    def sent(self, image: Image) -> list[Sent]:
        picture, frozen = image.copy(), self.picture()
        middle = len(image) // 2
        which = {
            "lower": np.s_[middle:],
            "upper": np.s_[:middle],
            "left": np.s_[:, :middle],
            "right": np.s_[:, middle:],
            "rows": np.s_[::2],
        }[self.part]
        picture[which] = frozen[which]
        return [Sent(picture)]


@dataclass
class Alternate(Ring):
    """Live images and the last image in turn.

    Args:
        live: Number of consecutive live images.
        frozen: Number of consecutive frozen images.
        last: The frozen images repeat the previous live image, not the one from the beginning.
    """

    size: int = 1
    live: int = 1
    frozen: int = 1
    last: bool = False
    _turn: int = 0

    def sent(self, image: Image) -> list[Sent]:
        is_live = self._turn % (self.live + self.frozen) < self.live
        self._turn += 1
        if is_live and self.last:
            self.before(image)
        return [Sent(image if is_live else self.picture())]


@dataclass
class Others:
    """A second publisher sends images of another room on the same topic.

    Args:
        own: Number of consecutive images of the robot's camera.
        other: Number of consecutive images of the other camera.
        together: Both arrive in each period, the robot's own first.
        behind_s: Age of the other camera's stamps.
        counted: The world model reports the number of publishers.
    """

    own: int = 1
    other: int = 1
    together: bool = False
    behind_s: float = 0.0
    counted: bool = False
    _room: TwoRooms = field(default_factory=lambda: TwoRooms(seed=77))
    _turn: int = 0

    def before(self, image: Image) -> None:
        """Record nothing."""

    def sent(self, image: Image) -> list[Sent]:
        publishers = 2 if self.counted else 1
        theirs = Sent(self._room.render(), self.behind_s, later_s=0.001, publishers=publishers)
        ours = Sent(image, publishers=publishers)
        if self.together:
            return [ours, theirs]
        is_own = self._turn % (self.own + self.other) < self.own
        self._turn += 1
        return [ours if is_own else theirs]


@dataclass
class Wrong:
    """Every ``each``-th image is noise."""

    each: int = 2
    _count: int = 0
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def before(self, image: Image) -> None:
        """Record nothing."""

    def sent(self, image: Image) -> list[Sent]:
        self._count += 1
        if self._count % self.each:
            return [Sent(image)]
        return [Sent(self._rng.integers(0, 256, image.shape).astype(np.uint8))]


@dataclass
class Late:
    """Images arrive late with fresh stamps: a buffer has filled up."""

    images: int
    _waiting: list[Image] = field(default_factory=list)

    def before(self, image: Image) -> None:
        self._waiting = [*self._waiting, image][-self.images :]

    def sent(self, image: Image) -> list[Sent]:
        self._waiting.append(image)
        return [Sent(self._waiting.pop(0))]


@dataclass
class Dark(Ring):
    """The lens is covered: only noise on black remains."""

    size: int = 1
    noise: int = 2

    def sent(self, image: Image) -> list[Sent]:
        self._buffers = [np.zeros_like(image)]
        return [Sent(self.picture())]


FAULTS: dict[str, Callable[[], Fault]] = {
    **{f"ring of {size}": lambda size=size: Ring(size) for size in range(1, 9)},
    **{f"one image, noise {noise}": lambda noise=noise: Ring(1, noise=noise) for noise in (1, 2, 3)},
    "overlaid clock": lambda: Clock(1),
    **{
        f"{part} half frozen": lambda part=part: Half(part=part)
        for part in ("lower", "upper", "left", "right")
    },
    "every second row frozen": lambda: Half(part="rows"),
    "every second image repeated": lambda: Alternate(last=True),
    "two publishers in turn": Others,
    "two publishers, 2 : 1": lambda: Others(own=2),
    "two publishers, 1 : 2": lambda: Others(other=2),
    "two publishers, 5 ms behind": lambda: Others(together=True, behind_s=0.005),
    "two publishers, counted": lambda: Others(own=2, counted=True),
    "every second image wrong": Wrong,
    # Designed to defeat the checks.
    "ring of 12": lambda: Ring(12),
    "ring of 8, noise 3": lambda: Ring(8, noise=3),
    "ring of 30, noise 2": lambda: Ring(30, noise=2),
    "ring of 90, noise 2": lambda: Ring(90, noise=2),
    "one image, drifting brightness": lambda: Ring(1, noise=1, drift=1.0),
    "one image, jittering stamps": lambda: Ring(1, noise=1, jitter_s=0.004),
    "live and frozen in turn": Alternate,
    "live 0.5 s, frozen 0.5 s": lambda: Alternate(live=15, frozen=15, last=True),
    "every fifth image wrong": lambda: Wrong(5),
    "lens covered": Dark,
    "0.5 s late": lambda: Late(15),
}
