"""What nodes find in their environment: the DDS profile and, if one is named, the keystore. No node: include
it before nodes of your own."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, NotEqualsSubstitution

# With room in shared memory for results; nodes that send images have a profile of their own.
PROFILE = os.path.join(get_package_share_directory("jepa_bringup"), "config", "fastdds_results.xml")


def generate_launch_description() -> LaunchDescription:
    """Set the variables."""
    keystore = LaunchConfiguration("keystore")
    secured = IfCondition(NotEqualsSubstitution(keystore, ""))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "keystore",
                default_value="",
                description="Keystore of the nodes, which hear nobody without keys; empty: as ROS_SECURITY_* "
                "say.",
            ),
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", PROFILE),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", PROFILE),
            SetEnvironmentVariable("ROS_SECURITY_KEYSTORE", keystore, condition=secured),
            SetEnvironmentVariable("ROS_SECURITY_ENABLE", "true", condition=secured),
            SetEnvironmentVariable("ROS_SECURITY_STRATEGY", "Enforce", condition=secured),
        ]
    )
