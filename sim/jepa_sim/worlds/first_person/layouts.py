"""Layouts: rooms on a grid, doors between them, furniture, pictures and lights.

Coordinates are meters and radians, with x and y on the floor, z up, and the origin in a corner of the house.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds.first_person.textures import texture_numbers

ROOM_HEIGHT_M = 2.6
DOOR_HEIGHT_M = 2.05
HALF_WALL_M = 0.06
MAX_SOLIDS, MAX_ROOMS, MAX_EDGES = 110, 9, 4
_HALF_LEAF_M = 0.02
# Columns of PackedLayouts.solids.
X, Y, HALF_X, HALF_Y, HEADING, BOTTOM, TOP, TEXTURE, TEXTURE_SIZE, IS_ROUND = range(10)

_SHAPES = ((2, 1), (3, 1), (2, 2), (3, 2), (1, 1))
_SHAPE_RATES = (0.25, 0.25, 0.25, 0.15, 0.1)
_EXTRA_DOOR_RATE = 0.4
# Clearance around the center of a door, which furniture leaves free.
_DOOR_CLEARANCE_M = 0.75
# From the half side of a square to its corner, with a margin.
_DIAGONAL = 1.42

Point = tuple[float, float]
Shape = tuple[int, int]
# A room's column and row.
Cell = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A box or a cylinder.

    Attributes:
        center: Its center [x, y].
        half_size: Half its sides [x, y] before it is turned; of a cylinder twice the radius.
        heading: Angle by which it is turned.
        bottom: Height of its lower end.
        top: Height of its upper end.
        texture: Number of its texture.
        texture_size: Side of one repetition of the texture.
        is_round: Whether it is a cylinder.
    """

    center: Point
    half_size: Point
    heading: float = 0.0
    bottom: float = 0.0
    top: float
    texture: int
    texture_size: float
    is_round: bool = False

    def row(self) -> list[float]:
        """Return the row of :attr:`PackedLayouts.solids`."""
        box = [*self.center, *self.half_size, self.heading, self.bottom, self.top]
        return [*box, self.texture, self.texture_size, self.is_round]


@dataclass(frozen=True)
class Door:
    """A door between two rooms.

    Attributes:
        rooms: Numbers of the rooms.
        center: Its center [x, y].
        width: Its width.
        is_crossed_along_x: Whether one passes it along x; otherwise along y.
    """

    rooms: tuple[int, int]
    center: Point
    width: float
    is_crossed_along_x: bool


@dataclass(frozen=True)
class Light:
    """The light of a room.

    Attributes:
        position: Where it hangs [x, y].
        intensity: Brightness of the surfaces near it.
        ambient: Brightness of all surfaces without it.
        tint: Factors of red, green and blue.
    """

    position: Point
    intensity: float
    ambient: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Room:
    """A room.

    Attributes:
        x: Its lower and upper x.
        y: Its lower and upper y.
        floor: Number of the floor's texture.
        ceiling: Number of the ceiling's texture.
        light: Its light.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    floor: int
    ceiling: int
    light: Light


@dataclass(frozen=True)
class Layout:
    """A house: rooms in rows and columns.

    Attributes:
        x_edges: Where columns begin and end.
        y_edges: Where rows begin and end.
        rooms: The rooms, row by row.
        doors: The doors; every room can be reached.
        walls: The walls.
        pictures: Pictures on walls, out of the robot's way.
        furniture: What stands on the floor.
    """

    x_edges: tuple[float, ...]
    y_edges: tuple[float, ...]
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    walls: tuple[Solid, ...]
    pictures: tuple[Solid, ...]
    furniture: tuple[Solid, ...]

    @property
    def size(self) -> Point:
        """Extent of the house along x and y."""
        return self.x_edges[-1], self.y_edges[-1]

    def room_at(self, x: float, y: float) -> int:
        """Return the number of the room at a point inside the house."""
        column, row = np.searchsorted(self.x_edges[1:-1], x), np.searchsorted(self.y_edges[1:-1], y)
        return int(row) * (len(self.x_edges) - 1) + int(column)

    def doors_on(self, path: NDArray[np.floating]) -> list[int]:
        """Return the numbers of the doors that a path [N, 2 or more] passes, in its order."""
        numbers = {frozenset(door.rooms): number for number, door in enumerate(self.doors)}
        rooms = [self.room_at(x, y) for x, y in path[:, :2]]
        return [numbers[frozenset((one, other))] for one, other in pairwise(rooms) if one != other]

    def door_leaf(self, number: int) -> Solid:
        """Return what closes a door: it fills the opening, with the held-out texture that is shown least."""
        door = self.doors[number]
        half_size = _HALF_LEAF_M, door.width / 2
        shown = Counter(solid.texture for solid in (*self.walls, *self.pictures, *self.furniture))
        shown.update(texture for room in self.rooms for texture in (room.floor, room.ceiling))
        return Solid(
            center=door.center,
            half_size=half_size if door.is_crossed_along_x else half_size[::-1],
            top=DOOR_HEIGHT_M,
            texture=int(min(texture_numbers(held_out=True), key=lambda texture: shown[int(texture)])),
            texture_size=1.0,
        )


@dataclass(frozen=True)
class PackedLayouts:
    """L layouts as arrays for compiled code, padded to the same size.

    Attributes:
        solids: All solids [L, MAX_SOLIDS, 10]; the columns are :data:`X` to :data:`IS_ROUND`.
        solid_count: Number of solids [L].
        x_edges: Where columns begin and end [L, MAX_EDGES].
        y_edges: Where rows begin and end [L, MAX_EDGES].
        shape: Number of columns and rows [L, 2].
        surfaces: Textures of floor and ceiling [L, MAX_ROOMS, 2].
        lights: x, y, intensity and ambient brightness of each light [L, MAX_ROOMS, 4].
        tints: Their tints [L, MAX_ROOMS, 3].
    """

    solids: NDArray[np.float32]
    solid_count: NDArray[np.int64]
    x_edges: NDArray[np.float32]
    y_edges: NDArray[np.float32]
    shape: NDArray[np.int64]
    surfaces: NDArray[np.int64]
    lights: NDArray[np.float32]
    tints: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.solid_count)


def pack(layouts: Sequence[Layout]) -> PackedLayouts:
    """Return layouts as arrays."""
    count = len(layouts)
    packed = PackedLayouts(
        solids=np.zeros((count, MAX_SOLIDS, 10), np.float32),
        solid_count=np.zeros(count, np.int64),
        x_edges=np.zeros((count, MAX_EDGES), np.float32),
        y_edges=np.zeros((count, MAX_EDGES), np.float32),
        shape=np.zeros((count, 2), np.int64),
        surfaces=np.zeros((count, MAX_ROOMS, 2), np.int64),
        lights=np.zeros((count, MAX_ROOMS, 4), np.float32),
        tints=np.ones((count, MAX_ROOMS, 3), np.float32),
    )
    for index, layout in enumerate(layouts):
        solids = [solid.row() for solid in (*layout.walls, *layout.pictures, *layout.furniture)]
        packed.solids[index, : len(solids)] = solids
        packed.solid_count[index] = len(solids)
        for edges, values in ((packed.x_edges, layout.x_edges), (packed.y_edges, layout.y_edges)):
            edges[index] = values[-1]
            edges[index, : len(values)] = values
        packed.shape[index] = len(layout.x_edges) - 1, len(layout.y_edges) - 1
        for number, room in enumerate(layout.rooms):
            packed.surfaces[index, number] = room.floor, room.ceiling
            packed.lights[index, number] = *room.light.position, room.light.intensity, room.light.ambient
            packed.tints[index, number] = room.light.tint
    return packed


def sample_layout(rng: np.random.Generator, *, held_out: bool, shape: Shape | None = None) -> Layout:
    """Return a random layout.

    Args:
        rng: Random numbers. Models are trained on what this function makes of them: their order is fixed.
        held_out: Whether to use the textures that training never shows.
        shape: Number of columns and rows of rooms; None: random.
    """
    return _Builder(rng, held_out, shape).build()


class _Builder:
    def __init__(self, rng: np.random.Generator, held_out: bool, shape: Shape | None) -> None:
        self._rng = rng
        self._textures = texture_numbers(held_out=held_out)
        self._shape = shape or _SHAPES[rng.choice(len(_SHAPES), p=_SHAPE_RATES)]
        self._xs = self._edges(self._shape[0], 3.2)
        self._ys = self._edges(self._shape[1], 3.4)
        self._cells = [(i, j) for i in range(self._shape[0]) for j in range(self._shape[1])]
        self._wall_look = {cell: (self._texture(), rng.uniform(0.8, 2.2)) for cell in self._cells}

    def build(self) -> Layout:
        walls = self._outer_walls()
        inner_walls, doors = self._inner_walls()
        pictures = [picture for cell in self._cells for picture in self._pictures(cell, doors)]
        furniture = [piece for cell in self._cells for piece in self._furniture(cell, doors)]
        return Layout(
            x_edges=tuple(self._xs),
            y_edges=tuple(self._ys),
            rooms=self._rooms(),
            doors=tuple(doors),
            walls=(*walls, *inner_walls),
            pictures=tuple(pictures),
            furniture=tuple(furniture),
        )

    def _edges(self, count: int, least: float) -> list[float]:
        return [0.0, *np.cumsum(self._rng.uniform(least, 5.0, count)).tolist()]

    def _texture(self) -> int:
        return int(self._rng.choice(self._textures))

    def _wall(self, begin: Point, end: Point, look: tuple[int, float], bottom: float = 0.0) -> Solid:
        (x0, y0), (x1, y1) = begin, end
        return Solid(
            center=((x0 + x1) / 2, (y0 + y1) / 2),
            half_size=(abs(x1 - x0) / 2 + HALF_WALL_M, abs(y1 - y0) / 2 + HALF_WALL_M),
            bottom=bottom,
            top=ROOM_HEIGHT_M,
            texture=look[0],
            texture_size=look[1],
        )

    def _outer_walls(self) -> list[Solid]:
        """Return an outer wall for each room at the edge."""
        columns, rows = self._shape
        xs, ys, look = self._xs, self._ys, self._wall_look
        walls = []
        for i in range(columns):
            for y, j in ((0.0, 0), (ys[-1], rows - 1)):
                walls.append(self._wall((xs[i], y), (xs[i + 1], y), look[i, j]))
        for j in range(rows):
            for x, i in ((0.0, 0), (xs[-1], columns - 1)):
                walls.append(self._wall((x, ys[j]), (x, ys[j + 1]), look[i, j]))
        return walls

    def _inner_walls(self) -> tuple[list[Solid], list[Door]]:
        """Return the walls between rooms, with the doors of a random spanning tree and some more."""
        columns, rows = self._shape
        borders = [((i, j), (i + 1, j)) for i in range(columns - 1) for j in range(rows)]
        borders += [((i, j), (i, j + 1)) for i in range(columns) for j in range(rows - 1)]
        self._rng.shuffle(borders)
        group = {cell: cell for cell in self._cells}

        def root(cell: Cell) -> Cell:
            while group[cell] != cell:
                cell = group[cell]
            return cell

        walls, doors = list[Solid](), list[Door]()
        for one, other in borders:
            has_door = root(one) != root(other) or self._rng.random() < _EXTRA_DOOR_RATE
            group[root(one)] = root(other)
            look = self._wall_look[one if self._rng.random() < 0.5 else other]
            along_x = other[0] != one[0]
            if along_x:
                at, low, high = self._xs[other[0]], self._ys[one[1]], self._ys[one[1] + 1]
            else:
                at, low, high = self._ys[other[1]], self._xs[one[0]], self._xs[one[0] + 1]
            width = self._rng.uniform(0.85, 1.1)
            begin = self._rng.uniform(low + 0.5, high - 0.5 - width)
            parts = [(low, high, 0.0)]
            if has_door:
                end = begin + width
                parts = [
                    (low, begin - HALF_WALL_M, 0.0),
                    (end + HALF_WALL_M, high, 0.0),
                    (begin, end, DOOR_HEIGHT_M),
                ]
                center = (at, begin + width / 2) if along_x else (begin + width / 2, at)
                doors.append(Door((self._number(one), self._number(other)), center, width, along_x))
            for first, last, bottom in parts:
                ends = ((at, first), (at, last)) if along_x else ((first, at), (last, at))
                walls.append(self._wall(*ends, look, bottom))
        return walls, doors

    def _number(self, cell: Cell) -> int:
        return cell[1] * self._shape[0] + cell[0]

    def _bounds(self, cell: Cell) -> tuple[tuple[float, float], tuple[float, float]]:
        i, j = cell
        return (self._xs[i], self._xs[i + 1]), (self._ys[j], self._ys[j + 1])

    def _pictures(self, cell: Cell, doors: Sequence[Door]) -> list[Solid]:
        """Return pictures on the walls of a room, except next to doors."""
        rng, bounds = self._rng, self._bounds(cell)
        pictures = []
        for _ in range(rng.integers(1, 5)):
            half_width = rng.uniform(0.2, 0.7)
            height, bottom = rng.uniform(0.25, 0.7), rng.uniform(0.7, 1.5)
            side = int(rng.integers(4))
            across = side // 2  # The axis that the wall is crossed along.
            low, high = bounds[across]
            at = (low + HALF_WALL_M, high - HALF_WALL_M)[side % 2]
            low, high = bounds[1 - across]
            along = rng.uniform(low + half_width + 0.1, high - half_width - 0.1)
            if any(
                door.is_crossed_along_x == (across == 0)
                and abs(door.center[across] - at) < 0.2
                and abs(door.center[1 - across] - along) < half_width + 0.7
                for door in doors
            ):
                continue
            pictures.append(
                Solid(
                    center=(at, along) if across == 0 else (along, at),
                    half_size=(0.02, half_width) if across == 0 else (half_width, 0.02),
                    bottom=bottom,
                    top=bottom + height,
                    texture=self._texture(),
                    texture_size=rng.uniform(0.3, 1.0),
                )
            )
        return pictures

    def _furniture(self, cell: Cell, doors: Sequence[Door]) -> list[Solid]:
        """Return boxes and cylinders in a room that leave its doors free."""
        rng = self._rng
        furniture = []
        for _ in range(rng.integers(1, 5)):
            radius = rng.uniform(0.15, 0.45)
            center = self._furniture_center(cell, radius, doors)
            if center is None:
                continue
            is_round = bool(rng.random() < 0.4)
            heading = 0.0 if rng.random() < 0.5 else rng.uniform(0, math.pi)
            if is_round:
                half_size = (radius, radius)
            else:
                half_size = (radius * rng.uniform(0.5, 1), radius * rng.uniform(0.5, 1))
            furniture.append(
                Solid(
                    center=center,
                    half_size=half_size,
                    heading=heading,
                    top=rng.uniform(0.3, 1.7),
                    texture=self._texture(),
                    texture_size=rng.uniform(0.3, 1.2),
                    is_round=is_round,
                )
            )
        return furniture

    def _furniture_center(self, cell: Cell, radius: float, doors: Sequence[Door]) -> Point | None:
        """Return a center, often at a wall; None if no door stays free at twelve random ones."""
        rng, ((x0, x1), (y0, y1)) = self._rng, self._bounds(cell)
        for _ in range(12):
            x = rng.uniform(x0 + 0.1 + radius, x1 - 0.1 - radius)
            y = rng.uniform(y0 + 0.1 + radius, y1 - 0.1 - radius)
            if rng.random() < 0.6:
                at_wall = HALF_WALL_M + radius
                side = rng.integers(4)
                x, y = ((x0 + at_wall, y), (x1 - at_wall, y), (x, y0 + at_wall), (x, y1 - at_wall))[side]
            apart = radius * _DIAGONAL + _DOOR_CLEARANCE_M
            if all(math.hypot(door.center[0] - x, door.center[1] - y) > apart for door in doors):
                return x, y
        return None

    def _rooms(self) -> tuple[Room, ...]:
        rng = self._rng
        cells = [(i, j) for j in range(self._shape[1]) for i in range(self._shape[0])]
        surfaces = [(self._texture(), self._texture()) for _ in cells]
        lights = []
        for cell in cells:
            (x0, x1), (y0, y1) = self._bounds(cell)
            position = (x0 + x1) / 2 + rng.uniform(-1, 1), (y0 + y1) / 2 + rng.uniform(-1, 1)
            lights.append((position, rng.uniform(0.5, 2.2), rng.uniform(0.3, 0.75)))
        tints = rng.uniform(0.85, 1.15, (len(cells), 3)).tolist()
        return tuple(
            Room(*self._bounds(cell), *surface, Light(*light, tint=(red, green, blue)))
            for cell, surface, light, (red, green, blue) in zip(cells, surfaces, lights, tints, strict=True)
        )
