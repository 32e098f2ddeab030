"""The robot as MuJoCo sees it: a round body on two driven wheels and two ball casters, with a camera.

Tires have one point of contact each and limited friction; motors have limited torque. So wheels slip where a
command asks for more than they can give, and where the robot is blocked.
"""

from __future__ import annotations

import math

from jepa_sim.worlds.first_person.motion import LAG_S, ROBOT_RADIUS_M
from jepa_sim.worlds.first_person.rendering import (
    CAMERA_AHEAD_M,
    CAMERA_HEIGHT_M,
    FIELD_OF_VIEW,
    HEIGHT_PX,
    WIDTH_PX,
)
from jepa_sim.worlds.first_person_mujoco.mujoco_import import mujoco

# Names in the model.
BODY, CAMERA = "robot", "camera"
WHEELS = "left_wheel", "right_wheel"
# Bits of what can touch: the wheels touch the floor, the body touches walls and furniture.
FLOOR, OBSTACLE = 1, 2

WHEEL_RADIUS_M, WHEEL_SEPARATION_M = 0.06, 0.24
MASS_KG = 6.0
MAX_TORQUE_NM = 1.2
TIRE_FRICTION = 0.6
_BODY_FRICTION = 0.2
# Time constant of contacts with walls: at full speed, the robot sinks in by millimeters.
_STIFFNESS_S = 0.006
_CASTER_AT_M, _CASTER_RADIUS_M = 0.13, 0.03
# The front caster hangs free: the weight lies a little behind the axle.
_CASTER_GAP_M = 0.001
_BODY_BOTTOM_M, _BODY_TOP_M = 0.04, 0.25
# The mass of the wheels, and of what makes the robot heavier behind the axle.
_WHEEL_KG, _BATTERY_KG, _BATTERY_AT_M = 0.3, 1.5, -0.04
# Torque for each rad/s of error of a wheel's speed; within torque and grip, the error decays in 20 ms.
_GAIN_NMS_PER_RAD = MASS_KG * WHEEL_RADIUS_M**2 / (2 * 0.02)
VERTICAL_FIELD_OF_VIEW = 2 * math.atan(math.tan(FIELD_OF_VIEW / 2) * HEIGHT_PX / WIDTH_PX)


def add_robot(spec: mujoco.MjSpec) -> None:
    """Add the robot at the origin, facing along x; its frame is on the floor, halfway between the wheels."""
    body = spec.worldbody.add_body(name=BODY)
    body.add_freejoint()
    _add_body(body)
    for name, side in zip(WHEELS, (1, -1), strict=True):
        _add_wheel(spec, body, name, side * WHEEL_SEPARATION_M / 2)
    for x, gap in ((_CASTER_AT_M, _CASTER_GAP_M), (-_CASTER_AT_M, 0.0)):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            pos=[x, 0, _CASTER_RADIUS_M + gap],
            size=[_CASTER_RADIUS_M, 0, 0],
            mass=0.02,
            condim=1,
            priority=1,
            contype=0,
            conaffinity=FLOOR,
            rgba=[0.3, 0.3, 0.3, 1],
        )
    body.add_camera(
        name=CAMERA,
        pos=[CAMERA_AHEAD_M, 0, CAMERA_HEIGHT_M],
        # The camera looks along its -z, and its x points to the right.
        quat=[0.5, 0.5, -0.5, -0.5],
        fovy=math.degrees(VERTICAL_FIELD_OF_VIEW),
    )


def _add_body(body: mujoco.MjsBody) -> None:
    middle, half = (_BODY_BOTTOM_M + _BODY_TOP_M) / 2, (_BODY_TOP_M - _BODY_BOTTOM_M) / 2
    body.add_geom(
        name=BODY,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=[0, 0, middle],
        size=[ROBOT_RADIUS_M, half, 0],
        mass=MASS_KG - _BATTERY_KG - 2 * _WHEEL_KG,
        friction=[_BODY_FRICTION, 0.005, 0.0001],
        solref=[_STIFFNESS_S, 1],
        priority=1,
        contype=0,
        conaffinity=OBSTACLE,
        rgba=[0.15, 0.3, 0.6, 1],
    )
    battery = {"pos": [_BATTERY_AT_M, 0, 0.07], "size": [0.05, 0.08, 0.025], "mass": _BATTERY_KG}
    mast_half = (CAMERA_HEIGHT_M - _BODY_TOP_M) / 2
    mast = {"pos": [0, 0, _BODY_TOP_M + mast_half], "size": [0.015, 0.015, mast_half], "mass": 0.1}
    for part in (battery, mast):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, contype=0, conaffinity=0, rgba=[0.2, 0.2, 0.2, 1], **part
        )


def _add_wheel(spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, y: float) -> None:
    """Add a wheel with a motor that controls its speed; commands are smoothed, as motor drivers do."""
    wheel = body.add_body(name=name, pos=[0, y, WHEEL_RADIUS_M])
    wheel.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 1, 0], armature=0.001)
    # An ellipsoid touches the floor in one point: a tire as wide as it is would resist turns.
    wheel.add_geom(
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=[WHEEL_RADIUS_M, 0.04, WHEEL_RADIUS_M],
        mass=_WHEEL_KG,
        friction=[TIRE_FRICTION, 0.005, 0.0001],
        priority=1,
        contype=0,
        conaffinity=FLOOR,
        rgba=[0.1, 0.1, 0.1, 1],
    )
    spec.add_actuator(
        name=name,
        target=name,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        dyntype=mujoco.mjtDyn.mjDYN_FILTER,
        dynprm=[LAG_S, *[0.0] * 9],
        gaintype=mujoco.mjtGain.mjGAIN_FIXED,
        gainprm=[_GAIN_NMS_PER_RAD, *[0.0] * 9],
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        biasprm=[0.0, 0.0, -_GAIN_NMS_PER_RAD, *[0.0] * 7],
        forcelimited=True,
        forcerange=[-MAX_TORQUE_NM, MAX_TORQUE_NM],
    )
