"""Procedural textures of MuJoCo's houses, by what they cover: none is of the ray caster's pool.

A texture follows from what it covers and from the number that the layout gives it.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIZE_PX = 128
_SEED = 2718

Floats = NDArray[np.float64]
Texture = NDArray[np.uint8]
_Paint = Callable[[np.random.Generator], Floats]


@lru_cache(maxsize=512)
def texture(surface: str, number: int) -> Texture:
    """Return a texture, uint8 [SIZE_PX, SIZE_PX, 3] RGB, which repeats without a seam, except for pictures.

    Args:
        surface: ``wall``, ``floor``, ``ceiling``, ``furniture``, ``picture``, ``trim`` or ``door``.
        number: Number of the texture in the layout.
    """
    paints = _PAINTS[surface]
    rng = np.random.default_rng((_SEED, list(_PAINTS).index(surface), number))
    image = paints[rng.integers(len(paints))](rng)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _color(
    rng: np.random.Generator,
    hues: tuple[float, float],
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Floats:
    """Return a random color [3]; hues beyond 1 wrap around."""
    return np.array(
        colorsys.hsv_to_rgb(rng.uniform(*hues) % 1, rng.uniform(*saturation), rng.uniform(*value))
    )


def _any_color(rng: np.random.Generator, value: tuple[float, float] = (0.35, 0.95)) -> Floats:
    return _color(rng, (0, 1), (0.05, 0.75), value)


def _wood_color(rng: np.random.Generator) -> Floats:
    return _color(rng, (0.04, 0.11), (0.25, 0.7), (0.3, 0.85))


def _wall_color(rng: np.random.Generator) -> Floats:
    return _color(rng, (0, 1), (0.03, 0.45), (0.6, 0.95))


def _grid() -> tuple[Floats, Floats]:
    """Return rows and columns as fractions of the texture."""
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX] / SIZE_PX
    return rows, columns


def _cloud(rng: np.random.Generator, roughness: float, stretch: float = 1.0) -> Floats:
    """Return periodic noise of unit standard deviation whose spectrum falls with frequency.

    Args:
        rng: Random numbers.
        roughness: 0: the spectrum falls steeply; 1: it is flat.
        stretch: How much longer structures are along rows.
    """
    rows, columns = np.meshgrid(np.fft.fftfreq(SIZE_PX), np.fft.fftfreq(SIZE_PX), indexing="ij")
    frequency = np.hypot(rows, columns * stretch)
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((SIZE_PX, SIZE_PX))) * frequency ** (-2 * (1 - roughness))
    noise: Floats = np.fft.ifft2(spectrum).real
    scaled: Floats = noise / noise.std()
    return scaled


def _mix(one: Floats, other: Floats, weight: NDArray[np.generic]) -> Floats:
    mixed: Floats = one + (other - one) * np.asarray(weight, float)[..., None]
    return mixed


def _shaded(color: Floats, noise: Floats, amount: float) -> Floats:
    shaded: Floats = color * (1 + amount * noise[..., None])
    return shaded


def _plaster(rng: np.random.Generator) -> Floats:
    return _shaded(_wall_color(rng), _cloud(rng, 0.5), rng.uniform(0.02, 0.06))


def _wallpaper(rng: np.random.Generator) -> Floats:
    """Return stripes of two widths with a thin line between them."""
    base, other, (_, x) = _wall_color(rng), _any_color(rng), _grid()
    phase = (x * rng.integers(2, 6)) % 1
    image = _mix(base, other, 0.7 * (phase < rng.uniform(0.3, 0.6)))
    line = np.abs(phase - 0.8) < 0.04
    return _shaded(_mix_at(image, other, line), _cloud(rng, 0.6), 0.03)


def _mix_at(image: Floats, color: Floats, where: NDArray[np.bool_]) -> Floats:
    mixed: Floats = np.where(where[..., None], color, image)
    return mixed


def _medallions(rng: np.random.Generator) -> Floats:
    """Return a staggered pattern of flowers, as on old wallpaper."""
    base, other, (y, x) = _wall_color(rng), _any_color(rng), _grid()
    count, petals = rng.integers(2, 5), rng.integers(4, 8)
    image = np.broadcast_to(base, (SIZE_PX, SIZE_PX, 3)).copy()
    for shift in (0.0, 0.5):
        dy, dx = (y * count + shift) % 1 - 0.5, (x * count + shift) % 1 - 0.5
        radius = 0.24 + 0.09 * np.cos(petals * np.arctan2(dy, dx))
        image = _mix_at(image, other, np.hypot(dy, dx) < radius)
        image = _mix_at(image, base * 0.8, np.hypot(dy, dx) < 0.07)
    return _shaded(image, _cloud(rng, 0.6), 0.03)


def _masonry(rng: np.random.Generator) -> Floats:
    """Return courses of bricks, each with a shade of its own."""
    brick = _color(rng, (0.98, 1.1), (0.15, 0.65), (0.45, 0.85))
    return _blocks(rng, brick, courses=int(rng.choice([8, 10, 12])), across=4, joint_px=2, spread=0.12)


def _wall_tiles(rng: np.random.Generator) -> Floats:
    count = int(rng.choice([4, 6, 8]))
    return _blocks(rng, _any_color(rng, (0.6, 0.95)), courses=count, across=count, joint_px=2, spread=0.05)


def _paneling(rng: np.random.Generator) -> Floats:
    """Return vertical boards."""
    return np.swapaxes(_planks(rng), 0, 1)


def _blocks(
    rng: np.random.Generator, color: Floats, *, courses: int, across: int, joint_px: int, spread: float
) -> Floats:
    """Return rectangular blocks; every other course is shifted if there are more courses than columns."""
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX]
    edges = np.linspace(0, SIZE_PX, courses + 1).round().astype(int)
    course = np.searchsorted(edges, rows, side="right") - 1
    shift = (course % 2) * (SIZE_PX // across // 2) if courses > across else 0 * course
    width = SIZE_PX // across
    shifted = (columns + shift) % (width * across)
    shade = rng.normal(0, spread, (courses, across + 1))[course, np.minimum(shifted // width, across)]
    joint = (rows - edges[course] < joint_px) | (shifted % width < joint_px)
    image = color * (1 + shade[..., None]) + 0.02 * _cloud(rng, 0.7)[..., None]
    return _mix_at(image, np.full(3, rng.uniform(0.45, 0.85)), joint)


def _planks(rng: np.random.Generator) -> Floats:
    """Return boards along rows, with grain and butt joints."""
    count, color = int(rng.choice([4, 6, 8])), _wood_color(rng)
    edges = np.linspace(0, SIZE_PX, count + 1).round().astype(int)
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX]
    board = np.searchsorted(edges, rows, side="right") - 1
    ends = rng.integers(0, SIZE_PX, count)
    shade = rng.normal(0, 0.1, count)[board] + 0.07 * _cloud(rng, 0.4, stretch=10.0)
    gap = (rows == edges[board]) | ((columns - ends[board]) % SIZE_PX < 1)
    image = color * (1 + shade[..., None])
    return _mix_at(image, color * 0.45, gap)


def _floor_tiles(rng: np.random.Generator) -> Floats:
    """Return square tiles, plain or in two colors."""
    count = int(rng.choice([2, 4]))
    base = _color(rng, (0, 1), (0.02, 0.4), (0.4, 0.9))
    image = _blocks(rng, base, courses=count, across=count, joint_px=3, spread=0.05)
    if rng.random() < 0.5:
        y, x = _grid()
        dark = (np.floor(y * count) + np.floor(x * count)) % 2 == 1
        image = np.where(dark[..., None], image * rng.uniform(0.3, 0.7), image)
    return image


def _carpet(rng: np.random.Generator) -> Floats:
    """Return a pile with a woven pattern of lozenges."""
    base, other, (y, x) = _any_color(rng, (0.3, 0.7)), _any_color(rng, (0.3, 0.8)), _grid()
    count = rng.integers(2, 5)
    lozenge = np.abs((x * count) % 1 - 0.5) + np.abs((y * count) % 1 - 0.5)
    rings = np.abs(lozenge - rng.uniform(0.2, 0.35)) < rng.uniform(0.04, 0.1)
    return _shaded(_mix(base, other, rings), _cloud(rng, 0.9), 0.12)


def _terrazzo(rng: np.random.Generator) -> Floats:
    """Return chips of three colors in a pale ground."""
    image = np.broadcast_to(_color(rng, (0, 1), (0, 0.2), (0.6, 0.9)), (SIZE_PX, SIZE_PX, 3)).copy()
    for _ in range(3):
        image = _mix_at(image, _any_color(rng), _cloud(rng, 0.55) > rng.uniform(1.3, 1.8))
    return _shaded(image, _cloud(rng, 0.8), 0.03)


def _white_ceiling(rng: np.random.Generator) -> Floats:
    return _shaded(_color(rng, (0, 1), (0, 0.08), (0.85, 0.97)), _cloud(rng, 0.5), 0.02)


def _ceiling_panels(rng: np.random.Generator) -> Floats:
    color = _color(rng, (0.05, 0.2), (0, 0.12), (0.75, 0.95))
    return _blocks(rng, color, courses=2, across=2, joint_px=3, spread=0.02)


def _veneer(rng: np.random.Generator) -> Floats:
    """Return wood with long grain and dark rings."""
    grain = _cloud(rng, 0.3, stretch=12.0)
    rings = np.sin(2 * np.pi * 3 * grain) > 0.6
    return _shaded(_mix(_wood_color(rng), _wood_color(rng) * 0.6, 0.5 * rings), grain, 0.06)


def _fabric(rng: np.random.Generator) -> Floats:
    """Return a weave, often checked."""
    color, other, (y, x) = _any_color(rng, (0.25, 0.85)), _any_color(rng), _grid()
    weave = np.sin(2 * np.pi * 32 * x) * np.sin(2 * np.pi * 32 * y)
    image = np.broadcast_to(color, (SIZE_PX, SIZE_PX, 3)).copy()
    if rng.random() < 0.6:
        count = rng.integers(1, 4)
        image = _mix(color, other, 0.35 * ((x * count) % 1 < 0.3) + 0.35 * ((y * count) % 1 < 0.3))
    return _shaded(image, weave, 0.06) + 0.02 * _cloud(rng, 0.5)[..., None]


def _lacquer(rng: np.random.Generator) -> Floats:
    """Return a painted front with a frame of grooves."""
    color, (y, x) = _any_color(rng), _grid()
    edge = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))
    groove = np.abs(edge - 0.12) < 0.02
    return _shaded(
        _mix_at(np.broadcast_to(color, (SIZE_PX, SIZE_PX, 3)), color * 0.6, groove), _cloud(rng, 0.4), 0.02
    )


def _landscape(rng: np.random.Generator) -> Floats:
    """Return sky, a sun or moon, and ranges of hills."""
    y, x = _grid()
    image = _mix(
        _color(rng, (0.5, 0.7), (0.2, 0.7), (0.5, 1)), _color(rng, (0, 0.2), (0.1, 0.6), (0.8, 1)), y
    )
    image = _mix_at(
        image, _color(rng, (0, 0.17), (0, 0.6), (0.9, 1)), np.hypot(y - 0.25, x - rng.uniform(0.2, 0.8)) < 0.1
    )
    for range_ in range(3):
        waves = sum(
            rng.uniform(0.02, 0.08) * np.sin(2 * np.pi * (k * x[0] + rng.random())) for k in range(1, 4)
        )
        hill = y > 0.45 + 0.17 * range_ + waves
        image = _mix_at(image, _color(rng, (0.2, 0.6), (0.2, 0.7), (0.15, 0.7)), hill)
    return image


def _composition(rng: np.random.Generator) -> Floats:
    """Return rectangles of plain colors between black lines."""
    image = np.ones((SIZE_PX, SIZE_PX, 3)) * 0.93
    cuts = [np.sort(np.append(rng.integers(10, SIZE_PX - 10, 3), (0, SIZE_PX))) for _ in range(2)]
    for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
        for left, right in zip(cuts[1], cuts[1][1:], strict=False):
            if rng.random() < 0.6:
                image[top:bottom, left:right] = _color(rng, (0, 1), (0.5, 0.9), (0.4, 1))
            image[top : top + 3, left:right] = image[top:bottom, left : left + 3] = 0.08
    return image


def _circles(rng: np.random.Generator) -> Floats:
    """Return overlapping discs."""
    y, x = _grid()
    image: Floats = np.broadcast_to(_any_color(rng), (SIZE_PX, SIZE_PX, 3)).copy()
    for _ in range(rng.integers(4, 9)):
        center_y, center_x = rng.random(2)
        inside = np.hypot(y - center_y, x - center_x) < rng.uniform(0.08, 0.3)
        image = _mix_at(image, 0.3 * image + 0.7 * _color(rng, (0, 1), (0.4, 0.9), (0.3, 1)), inside)
    return image


def _abstract(rng: np.random.Generator) -> Floats:
    """Return contours of a random relief."""
    relief = _cloud(rng, 0.05)
    image = _mix(_any_color(rng), _any_color(rng), relief > 0)
    image = _mix_at(image, _any_color(rng), relief > 0.8)
    return _mix_at(image, _any_color(rng), relief < -0.9)


def _trim(rng: np.random.Generator) -> Floats:
    """Return the paint of skirting boards and door frames."""
    color = _wood_color(rng) * 0.8 if rng.random() < 0.5 else _color(rng, (0, 1), (0, 0.15), (0.8, 0.97))
    return _shaded(color, _cloud(rng, 0.3, stretch=8.0), 0.04)


_PAINTS: dict[str, tuple[_Paint, ...]] = {
    "wall": (_plaster, _plaster, _wallpaper, _medallions, _masonry, _wall_tiles, _paneling),
    "floor": (_planks, _planks, _floor_tiles, _carpet, _terrazzo),
    "ceiling": (_white_ceiling, _white_ceiling, _ceiling_panels),
    "furniture": (_veneer, _fabric, _lacquer),
    "picture": (_landscape, _composition, _circles, _abstract),
    "trim": (_trim,),
    "door": (_veneer, _lacquer),
}
