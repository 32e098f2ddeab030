"""The robot's camera: a ray caster, one ray per image column, in compiled code.

The camera looks horizontally. Along a column, every solid is an interval of depth; its side face fills rows
that follow from its height and the depth at which the ray enters, its top face, if below the camera, those
up to the depth at which the ray leaves. Solids are drawn from near to far, then floor and ceiling.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_sim.worlds.first_person.compilation import compiled_fast
from jepa_sim.worlds.first_person.layouts import (
    BOTTOM,
    HALF_X,
    HALF_Y,
    HEADING,
    IS_ROUND,
    MAX_SOLIDS,
    ROOM_HEIGHT_M,
    TEXTURE,
    TEXTURE_SIZE,
    TOP,
    PackedLayouts,
    X,
    Y,
)
from jepa_sim.worlds.first_person.textures import MIP_LEVELS, SIZE_PX, load_textures

# The images that models see.
HEIGHT_PX, WIDTH_PX = 72, 96
FIELD_OF_VIEW = math.radians(100)
CAMERA_HEIGHT_M, CAMERA_AHEAD_M = 0.55, 0.10

_HALF_WIDTH = math.tan(FIELD_OF_VIEW / 2)  # at a depth of 1
_NEAREST_M = 0.02
_SKIRTING_M = 0.09
_SURFACE_TEXTURE_M = 1.3

Array = NDArray[np.generic]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Images = NDArray[np.uint8]


def render(
    layouts: PackedLayouts,
    poses: NDArray[np.floating],
    which: NDArray[np.integer],
    *,
    size: tuple[int, int] = (HEIGHT_PX, WIDTH_PX),
) -> Images:
    """Return camera images without noise, uint8 [N, height, width, 3] RGB.

    Args:
        layouts: The layouts.
        poses: x, y, heading of N robots [N, 3].
        which: Number of the layout that each is in [N].
        size: Height and width in pixels, which are square; the horizontal field of view is 100 degrees.
    """
    images = np.empty((len(poses), *size, 3), np.uint8)
    _render_all(
        np.ascontiguousarray(poses, np.float64), np.ascontiguousarray(which, np.int64), layouts.solids,
        layouts.solid_count, layouts.x_edges, layouts.y_edges, layouts.shape, layouts.surfaces,
        layouts.lights, layouts.tints, load_textures(), images,
    )  # fmt: skip
    return images


def focal_length_px(width: int = WIDTH_PX) -> float:
    """Return the focal length of images of this width in pixels."""
    return width / 2 / _HALF_WIDTH


@compiled_fast
def _sample(textures: Floats, number: int, u: float, v: float, footprint: float, rgb: Floats) -> None:
    """Interpolate bilinearly in the mip-map level whose texels are about as large as a pixel.

    Args:
        textures: The textures.
        number: Number of the texture.
        u: Horizontal coordinate; 1 is one repetition.
        v: Vertical coordinate.
        footprint: Size of a pixel in texels of level 0.
        rgb: Where to write the color [3].
    """
    level = 0
    while level < MIP_LEVELS - 1 and footprint > 1.5:
        footprint *= 0.5
        level += 1
    size = SIZE_PX >> level
    x, y = u * size - 0.5, v * size - 0.5
    x0, y0 = math.floor(x), math.floor(y)
    fx, fy = x - x0, y - y0
    i0, j0 = int(x0) & (size - 1), int(y0) & (size - 1)
    i1, j1 = (i0 + 1) & (size - 1), (j0 + 1) & (size - 1)
    a, b, c, d = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    for channel in range(3):
        rgb[channel] = (
            a * textures[number, level, j0, i0, channel] + b * textures[number, level, j0, i1, channel]
            + c * textures[number, level, j1, i0, channel] + d * textures[number, level, j1, i1, channel]
        )  # fmt: skip


@compiled_fast
def _room_at(x: float, y: float, x_edges: Floats, y_edges: Floats, columns: int, rows: int) -> int:
    column = 0
    while column < columns - 1 and x > x_edges[column + 1]:
        column += 1
    row = 0
    while row < rows - 1 and y > y_edges[row + 1]:
        row += 1
    return row * columns + column


@compiled_fast
def _intersect(solid: Floats, x: float, y: float, dx: float, dy: float) -> tuple[float, float]:
    """Return the depths at which a ray enters and leaves a solid; the second is not larger if it misses."""
    ox, oy = x - solid[X], y - solid[Y]
    if solid[IS_ROUND] > 0.5:
        a, b, c = dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - solid[HALF_X] ** 2
        discriminant = b * b - a * c
        if discriminant <= 0:
            return 0.0, 0.0
        root = math.sqrt(discriminant)
        return (-b - root) / a, (-b + root) / a
    if solid[HEADING] != 0:
        cos, sin = math.cos(solid[HEADING]), math.sin(solid[HEADING])
        ox, oy = ox * cos + oy * sin, -ox * sin + oy * cos
        dx, dy = dx * cos + dy * sin, -dx * sin + dy * cos
    inverse_x = 1.0 / dx if abs(dx) > 1e-9 else 1e9
    inverse_y = 1.0 / dy if abs(dy) > 1e-9 else 1e9
    a, b = (-solid[HALF_X] - ox) * inverse_x, (solid[HALF_X] - ox) * inverse_x
    c, d = (-solid[HALF_Y] - oy) * inverse_y, (solid[HALF_Y] - oy) * inverse_y
    return max(min(a, b), min(c, d)), min(max(a, b), max(c, d))


@compiled_fast
def _face(solid: Floats, x: float, y: float) -> tuple[float, float, float]:
    """Return the texture coordinate in meters and the normal [x, y] where a ray enters a solid."""
    lx, ly = x - solid[X], y - solid[Y]
    if solid[IS_ROUND] > 0.5:
        return math.atan2(ly, lx) * solid[HALF_X], lx / solid[HALF_X], ly / solid[HALF_X]
    cos, sin = math.cos(solid[HEADING]), math.sin(solid[HEADING])
    bx, by = lx * cos + ly * sin, -lx * sin + ly * cos
    if solid[HALF_X] - abs(bx) < solid[HALF_Y] - abs(by):
        sign = 1.0 if bx > 0 else -1.0
        return by, sign * cos, sign * sin
    sign = 1.0 if by > 0 else -1.0
    return bx, -sign * sin, sign * cos


@compiled_fast
def _put(pixel: Images, rgb: Floats, shade: float, tint: Floats) -> None:
    for channel in range(3):
        pixel[channel] = min(255.0, max(0.0, rgb[channel] * shade * tint[channel]))


@compiled_fast
def _in_front(solids: Floats, count: int, x: float, y: float, cos: float, sin: float, front: Ints) -> int:
    """Write the numbers of the solids that are not wholly behind the camera; return how many there are."""
    found = 0
    for k in range(count):
        ahead = (solids[k, X] - x) * cos + (solids[k, Y] - y) * sin
        if ahead > -(abs(solids[k, HALF_X]) + abs(solids[k, HALF_Y])):
            front[found] = k
            found += 1
    return found


@compiled_fast
def _render(
    pose: NDArray[np.float64], solids: Floats, count: int, x_edges: Floats, y_edges: Floats, columns: int,
    rows: int, surfaces: Ints, lights: Floats, tints: Floats, textures: Floats, image: Images,
) -> None:  # fmt: skip
    height, width = image.shape[0], image.shape[1]
    focal = (width / 2) / _HALF_WIDTH
    middle = height / 2
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    x, y = pose[0] + CAMERA_AHEAD_M * cos, pose[1] + CAMERA_AHEAD_M * sin
    enters, leaves = np.empty(MAX_SOLIDS, np.float32), np.empty(MAX_SOLIDS, np.float32)
    order, front = np.empty(MAX_SOLIDS, np.int64), np.empty(MAX_SOLIDS, np.int64)
    drawn = np.empty(height, np.bool_)
    rgb = np.empty(3, np.float32)
    in_front = _in_front(solids, count, x, y, cos, sin, front)
    for column in range(width):
        side = (width / 2 - 0.5 - column) / focal  # positive to the left
        dx, dy = cos - side * sin, sin + side * cos  # for each meter of depth
        hits = 0
        for index in range(in_front):
            k = front[index]
            near, far = _intersect(solids[k], x, y, dx, dy)
            if near >= far or near < _NEAREST_M:
                continue
            place = hits
            while place > 0 and enters[order[place - 1]] > near:
                order[place] = order[place - 1]
                place -= 1
            order[place] = k
            enters[k], leaves[k] = near, far
            hits += 1
        drawn[:] = False
        left = height
        for index in range(hits):
            solid = solids[order[index]]
            depth = enters[order[index]]
            number, size, z1 = int(solid[TEXTURE]), solid[TEXTURE_SIZE], solid[TOP]
            top = middle - focal * (z1 - CAMERA_HEIGHT_M) / depth
            bottom = middle - focal * (solid[BOTTOM] - CAMERA_HEIGHT_M) / depth
            first, last = max(0, math.ceil(top - 0.5)), min(height - 1, math.ceil(bottom - 0.5) - 1)
            before = depth - 0.1
            room = _room_at(x + before * dx, y + before * dy, x_edges, y_edges, columns, rows)
            light = lights[room]
            if last >= first:
                hit_x, hit_y = x + depth * dx, y + depth * dy
                u, normal_x, normal_y = _face(solid, hit_x, hit_y)
                ex, ey = light[0] - hit_x, light[1] - hit_y
                facing = max(0.0, ex * normal_x + ey * normal_y) / (ex * ex + ey * ey + 1.0)
                shade = light[3] + light[2] * facing + 0.06 * normal_x
                footprint = depth / focal * SIZE_PX / size
                for row in range(first, last + 1):
                    if not drawn[row]:
                        z = CAMERA_HEIGHT_M + (middle - 0.5 - row) * depth / focal
                        _sample(textures, number, u / size, -z / size, footprint, rgb)
                        if z1 > 2.5 and z < _SKIRTING_M:
                            for channel in range(3):
                                rgb[channel] = 0.5 * rgb[channel] + 60.0 * (tints[room, channel] - 0.7)
                        _put(image[row, column], rgb, shade, tints[room])
                        drawn[row] = True
                        left -= 1
            if z1 < CAMERA_HEIGHT_M and left > 0:
                below = focal * (CAMERA_HEIGHT_M - z1)
                back = middle + below / leaves[order[index]]
                first, last = (
                    max(0, math.ceil(back - 0.5)),
                    min(height - 1, math.ceil(top - 0.5) - 1),
                )
                shade = light[3] + 0.35 * light[2]
                for row in range(first, last + 1):
                    if not drawn[row]:
                        far = below / (row + 0.5 - middle)
                        footprint = far * far / (below + 1e-3) * SIZE_PX / size
                        _sample(
                            textures, number, (x + far * dx) / size, (y + far * dy) / size, footprint, rgb
                        )
                        _put(image[row, column], rgb, shade, tints[room])
                        drawn[row] = True
                        left -= 1
            if left == 0:
                break
        if left == 0:
            continue
        for row in range(height):
            if drawn[row]:
                continue
            is_ceiling = row < middle
            away = focal * (ROOM_HEIGHT_M - CAMERA_HEIGHT_M if is_ceiling else CAMERA_HEIGHT_M)
            far = away / abs(row + 0.5 - middle)
            floor_x, floor_y = x + far * dx, y + far * dy
            room = _room_at(floor_x, floor_y, x_edges, y_edges, columns, rows)
            ex, ey = lights[room, 0] - floor_x, lights[room, 1] - floor_y
            shade = lights[room, 3] + lights[room, 2] * 1.4 / (ex * ex + ey * ey + 2.5)
            u, v = floor_x / _SURFACE_TEXTURE_M, floor_y / _SURFACE_TEXTURE_M
            footprint = far * far / away * SIZE_PX / _SURFACE_TEXTURE_M * 0.6
            _sample(textures, surfaces[room, 1 if is_ceiling else 0], u, v, footprint, rgb)
            _put(image[row, column], rgb, shade, tints[room])


@compiled_fast
def _render_all(
    poses: NDArray[np.float64], which: Ints, solids: Floats, count: Ints, x_edges: Floats, y_edges: Floats,
    shape: Ints, surfaces: Ints, lights: Floats, tints: Floats, textures: Floats, images: Images,
) -> None:  # fmt: skip
    for index in range(len(poses)):
        k = which[index]
        _render(
            poses[index], solids[k], count[k], x_edges[k], y_edges[k], shape[k, 0], shape[k, 1], surfaces[k],
            lights[k], tints[k], textures, images[index],
        )  # fmt: skip
