"""What nodes find in their environment: the DDS profile, unless one is there already, and, if one is named,
the keystore. No node: include it before nodes of your own."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration

# With room in shared memory for results; nodes that send images have a profile of their own.
PROFILE = os.path.join(get_package_share_directory("jepa_bringup"), "config", "fastdds_results.xml")
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def _variables(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    chosen: dict[str, str] = {}
    # A robot's own profile says how its nodes find each other.
    if not any(context.environment.get(variable) for variable in VARIABLES):
        chosen |= dict.fromkeys(VARIABLES, PROFILE)
    if keystore := LaunchConfiguration("keystore").perform(context):
        chosen |= {
            "ROS_SECURITY_KEYSTORE": keystore,
            "ROS_SECURITY_ENABLE": "true",
            "ROS_SECURITY_STRATEGY": "Enforce",
        }
    return [SetEnvironmentVariable(name, value) for name, value in chosen.items()]


def generate_launch_description() -> LaunchDescription:
    """Set the variables."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "keystore",
                default_value="",
                description="Keystore of the nodes, which hear nobody without keys; empty: as ROS_SECURITY_* "
                "say.",
            ),
            OpaqueFunction(function=_variables),
        ]
    )
