"""ROS 2 message definitions, available without ROS.

Example::

    from jepa_runtime.ros_messages import build, definition

    vector = build("geometry_msgs/msg/Vector3", {"x": 1.0, "y": 0.0, "z": 0.0})
    print(definition("jepa_msgs/msg/LatentState"))
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ros_messages.definitions import build, definition, type_hash, typestore
    from jepa_runtime.ros_messages.odometry import planar_pose
    from jepa_runtime.ros_messages.poses import POSE_NAMES, POSE_UNITS, euler_from_quaternion, euler_pose
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "definitions": ["build", "definition", "type_hash", "typestore"],
            "odometry": ["planar_pose"],
            "poses": ["POSE_NAMES", "POSE_UNITS", "euler_from_quaternion", "euler_pose"],
        },
    )

__all__ = [
    "POSE_NAMES",
    "POSE_UNITS",
    "build",
    "definition",
    "euler_from_quaternion",
    "euler_pose",
    "planar_pose",
    "type_hash",
    "typestore",
]
