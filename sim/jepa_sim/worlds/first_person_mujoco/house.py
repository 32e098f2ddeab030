"""A layout as a MuJoCo model: what the robot can touch, what its camera sees, light, and the robot.

The robot touches boxes and cylinders of MuJoCo, which are not drawn. The camera sees meshes, which cannot be
touched: MuJoCo repeats textures on meshes only.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from jepa_sim.worlds.first_person.layouts import (
    DOOR_HEIGHT_M,
    HALF_WALL_M,
    ROOM_HEIGHT_M,
    Door,
    Layout,
    Room,
    Solid,
)
from jepa_sim.worlds.first_person_mujoco.meshes import Floats, Look, Mesh, Surfaces
from jepa_sim.worlds.first_person_mujoco.mujoco_import import mujoco
from jepa_sim.worlds.first_person_mujoco.robot_model import FLOOR, OBSTACLE, add_robot
from jepa_sim.worlds.first_person_mujoco.textures import SIZE_PX, texture

TIMESTEP_S = 0.0025
# Groups of geoms: MuJoCo draws the first three.
VISIBLE, CEILING, INVISIBLE = 0, 2, 3
# Largest image that can be drawn.
MAX_WIDTH_PX, MAX_HEIGHT_PX = 1280, 960

_FLOOR_TEXTURE_M, _CEILING_TEXTURE_M, _TRIM_TEXTURE_M = 1.6, 1.2, 0.8
_SKIRTING_HEIGHT_M, _SKIRTING_M = 0.09, 0.012
# A door frame, and how far it lies over the edges of the opening, in whose plane it would flicker.
_CASING_WIDTH_M, _CASING_M, _OVERLAP_M = 0.07, 0.018, 0.004
_FRAME_M = 0.035
_TABLETOP_M, _OVERHANG_M = 0.03, 0.015
_LAMP_HEIGHT_M = 2.3
# How far below the floor the leaf of an open door is: beyond what the camera sees.
_LEAF_DEPTH_M = 100.0


@lru_cache(maxsize=4)
def compile_house(layout: Layout) -> mujoco.MjModel:
    """Return the model of a layout with a robot at the origin; it is shared, and must not be changed."""
    spec = mujoco.MjSpec()
    option, visual = spec.option, spec.visual
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    # Tires and floor slip where friction is used up, and hardly creep below.
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10
    # Without a GPU, shadows and antialiasing take most of the time.
    visual.quality.shadowsize = visual.quality.offsamples = 0
    visual.global_.offwidth, visual.global_.offheight = MAX_WIDTH_PX, MAX_HEIGHT_PX
    spec.stat.extent = 1.0
    visual.map.znear, visual.map.zfar = 0.02, 60.0
    visual.headlight.ambient, visual.headlight.diffuse = [0.12] * 3, [0.18] * 3
    visual.headlight.specular = [0.0] * 3
    _add_obstacles(spec, layout)
    _add_lights(spec, layout)
    for look, mesh in _surfaces(layout).meshes():
        _add_mesh(spec, spec.worldbody, look, mesh)
    for number in range(len(layout.doors)):
        _add_door_leaf(spec, number, layout.door_leaf(number))
    add_robot(spec)
    return spec.compile()


def _add_obstacles(spec: mujoco.MjSpec, layout: Layout) -> None:
    """Add the floor, walls and furniture that the robot can touch."""
    width, depth = layout.size
    spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[width, depth, 1],
        group=INVISIBLE,
        contype=FLOOR,
        conaffinity=0,
    )
    for solid in (*layout.walls, *layout.furniture):
        _add_obstacle(spec.worldbody, solid)


def _add_obstacle(body: mujoco.MjsBody, solid: Solid) -> None:
    height = solid.top - solid.bottom
    size = [*solid.half_size, height / 2]
    if solid.is_round:
        size = [solid.half_size[0], height / 2, 0]
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER if solid.is_round else mujoco.mjtGeom.mjGEOM_BOX,
        pos=[*solid.center, solid.bottom + height / 2],
        quat=[math.cos(solid.heading / 2), 0, 0, math.sin(solid.heading / 2)],
        size=size,
        group=INVISIBLE,
        contype=OBSTACLE,
        conaffinity=0,
    )


def _add_door_leaf(spec: mujoco.MjSpec, number: int, leaf: Solid) -> None:
    """Add the leaf of a door below the floor, on a body that :func:`close_door` lifts."""
    body = spec.worldbody.add_body(name=_leaf_name(number), mocap=True, pos=[0, 0, -_LEAF_DEPTH_M])
    _add_obstacle(body, leaf)
    surfaces = Surfaces()
    half_size = np.array([*leaf.half_size, leaf.top / 2])
    center = np.array([*leaf.center, leaf.top / 2])
    surfaces.add_box(("door", leaf.texture + number), center, half_size, texture_size=leaf.texture_size)
    for look, mesh in surfaces.meshes():
        _add_mesh(spec, body, look, mesh)


def close_door(model: mujoco.MjModel, data: mujoco.MjData, number: int) -> None:
    """Close a door of the house in one state of it."""
    data.mocap_pos[model.body(_leaf_name(number)).mocapid[0]] = 0.0


def _leaf_name(number: int) -> str:
    return f"door_{number}"


def _add_lights(spec: mujoco.MjSpec, layout: Layout) -> None:
    """Add a lamp for each room; without shadows, a little of it also falls through walls."""
    for room in layout.rooms:
        tint = np.array(room.light.tint)
        spec.worldbody.add_light(
            # A light is a spot by default; this one shines all around. Point lights are not drawn.
            cutoff=180,
            pos=[*room.light.position, _LAMP_HEIGHT_M],
            castshadow=False,
            ambient=0.4 * room.light.ambient * tint,
            diffuse=(0.4 + 0.2 * room.light.intensity) * tint,
            specular=[0.0] * 3,
            attenuation=[0.6, 0.0, 0.16],
        )


def _add_mesh(spec: mujoco.MjSpec, body: mujoco.MjsBody, look: Look, mesh: Mesh) -> None:
    name = f"{look[0]}_{look[1]}"
    spec.add_mesh(
        name=name,
        uservert=mesh.vertices.ravel(),
        usernormal=mesh.normals.ravel(),
        usertexcoord=mesh.texture_coordinates.ravel(),
        userface=mesh.faces.ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )
    pixels = spec.add_texture(
        name=name,
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        width=SIZE_PX,
        height=SIZE_PX,
        nchannel=3,
    )
    pixels.data = texture(*look).tobytes()
    material = spec.add_material(name=name, specular=0.0, shininess=0.0)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_MESH,
        meshname=name,
        material=name,
        group=CEILING if look[0] == "ceiling" else VISIBLE,
        contype=0,
        conaffinity=0,
    )


def _surfaces(layout: Layout) -> Surfaces:
    """Return all that is drawn."""
    surfaces = Surfaces()
    trim = ("trim", layout.rooms[0].floor)
    for room in layout.rooms:
        _add_floor_and_ceiling(surfaces, room)
    for wall in layout.walls:
        half_size = np.array([*wall.half_size, (wall.top - wall.bottom) / 2])
        center = np.array([*wall.center, (wall.top + wall.bottom) / 2])
        surfaces.add_box(("wall", wall.texture), center, half_size, texture_size=wall.texture_size)
        if wall.bottom == 0:
            half_size = np.array([*(side + _SKIRTING_M for side in wall.half_size), _SKIRTING_HEIGHT_M / 2])
            center = np.array([*wall.center, _SKIRTING_HEIGHT_M / 2])
            surfaces.add_box(trim, center, half_size, texture_size=_TRIM_TEXTURE_M)
    for door in layout.doors:
        _add_casing(surfaces, trim, door)
    for picture in layout.pictures:
        _add_picture(surfaces, trim, picture)
    for piece in layout.furniture:
        _add_furniture(surfaces, piece)
    return surfaces


def _add_floor_and_ceiling(surfaces: Surfaces, room: Room) -> None:
    (x0, x1), (y0, y1) = room.x, room.y
    along_x, along_y = np.array([x1 - x0, 0.0, 0.0]), np.array([0.0, y1 - y0, 0.0])
    surfaces.add_rectangle(("floor", room.floor), np.array([x0, y0, 0.0]), along_x, along_y, _FLOOR_TEXTURE_M)
    surfaces.add_rectangle(
        ("ceiling", room.ceiling), np.array([x0, y0, ROOM_HEIGHT_M]), along_y, along_x, _CEILING_TEXTURE_M
    )


def _add_casing(surfaces: Surfaces, look: Look, door: Door) -> None:
    """Add the frame around a door, on both sides of the wall."""
    half, thick = _CASING_WIDTH_M / 2, HALF_WALL_M + _CASING_M
    jamb_at, height = door.width / 2 - _OVERLAP_M + half, DOOR_HEIGHT_M - _OVERLAP_M + _CASING_WIDTH_M
    parts = [(side * jamb_at, half, height / 2, height / 2) for side in (-1, 1)]
    parts.append((0.0, door.width / 2, height - half, half))
    for along, half_along, z, half_z in parts:
        offset, size = [0.0, along], [thick, half_along]
        if not door.is_crossed_along_x:
            offset, size = offset[::-1], size[::-1]
        center = np.array([door.center[0] + offset[0], door.center[1] + offset[1], z])
        surfaces.add_box(look, center, np.array([*size, half_z]), texture_size=_TRIM_TEXTURE_M)


def _add_picture(surfaces: Surfaces, trim: Look, picture: Solid) -> None:
    """Add a frame and the picture in it, which stands out a little."""
    center = np.array([*picture.center, (picture.bottom + picture.top) / 2])
    half_size = np.array([*picture.half_size, (picture.top - picture.bottom) / 2])
    surfaces.add_box(trim, center, half_size, texture_size=_TRIM_TEXTURE_M)
    across = int(np.argmin(picture.half_size))
    shrunk: Floats = half_size - _FRAME_M
    shrunk[across] = half_size[across] + 0.004
    surfaces.add_box(("picture", picture.texture), center, shrunk, texture_size=None)


def _add_furniture(surfaces: Surfaces, piece: Solid) -> None:
    """Add a body with a top of another material, within the size of the piece."""
    look, top_look = ("furniture", piece.texture), ("furniture", piece.texture + 1)
    body_height = piece.top - _TABLETOP_M
    if piece.is_round:
        radius = piece.half_size[0]
        ground, tabletop = np.array([*piece.center, 0.0]), np.array([*piece.center, body_height])
        size = piece.texture_size
        surfaces.add_cylinder(look, ground, radius - _OVERHANG_M, body_height, texture_size=size)
        surfaces.add_cylinder(top_look, tabletop, radius, _TABLETOP_M, texture_size=size)
        return
    half_x, half_y = piece.half_size
    body = np.array([half_x - _OVERHANG_M, half_y - _OVERHANG_M, body_height / 2])
    tabletop = np.array([half_x, half_y, _TABLETOP_M / 2])
    for part, half_size, z in (
        (look, body, body_height / 2),
        (top_look, tabletop, piece.top - _TABLETOP_M / 2),
    ):
        center = np.array([*piece.center, z])
        surfaces.add_box(part, center, half_size, piece.heading, texture_size=piece.texture_size)
