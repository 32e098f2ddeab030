"""Environment of the nodes: the DDS profile, unless one is set, and optionally the keystore.

It starts no node. Include it before your own nodes.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration

# Its shared memory has room for results. Nodes that publish images have another profile.
PROFILE = os.path.join(get_package_share_directory("jepa_bringup"), "config", "fastdds_results.xml")
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def _variables(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    variables: dict[str, str] = {}
    # The profile of a robot configures how its nodes find each other.
    if not any(context.environment.get(variable) for variable in VARIABLES):
        variables |= dict.fromkeys(VARIABLES, PROFILE)
    if keystore := LaunchConfiguration("keystore").perform(context):
        variables |= {
            "ROS_SECURITY_KEYSTORE": keystore,
            "ROS_SECURITY_ENABLE": "true",
            "ROS_SECURITY_STRATEGY": "Enforce",
        }
    return [SetEnvironmentVariable(name, value) for name, value in variables.items()]


def generate_launch_description() -> LaunchDescription:
    """Set the variables."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "keystore",
                default_value="",
                description="Keystore of the nodes; they ignore nodes without keys. Empty: as set by "
                "ROS_SECURITY_*.",
            ),
            OpaqueFunction(function=_variables),
        ]
    )
