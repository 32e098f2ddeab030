"""What nodes find in their environment: the DDS profile, unless one is there already, and, if one is named,
the keystore. No node: include it before nodes of your own."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import (
    EnvironmentVariable,
    EqualsSubstitution,
    LaunchConfiguration,
    NotEqualsSubstitution,
)

# With room in shared memory for results; nodes that send images have a profile of their own.
PROFILE = os.path.join(get_package_share_directory("jepa_bringup"), "config", "fastdds_results.xml")
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def generate_launch_description() -> LaunchDescription:
    """Set the variables."""
    keystore = LaunchConfiguration("keystore")
    # A robot's own profile says how its nodes find each other.
    named = [EnvironmentVariable(variable, default_value="") for variable in VARIABLES]
    unnamed = IfCondition(EqualsSubstitution(named, ""))
    secured = IfCondition(NotEqualsSubstitution(keystore, ""))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "keystore",
                default_value="",
                description="Keystore of the nodes, which hear nobody without keys; empty: as ROS_SECURITY_* "
                "say.",
            ),
            GroupAction(
                [SetEnvironmentVariable(variable, PROFILE) for variable in VARIABLES],
                scoped=False,
                condition=unnamed,
            ),
            SetEnvironmentVariable("ROS_SECURITY_KEYSTORE", keystore, condition=secured),
            SetEnvironmentVariable("ROS_SECURITY_ENABLE", "true", condition=secured),
            SetEnvironmentVariable("ROS_SECURITY_STRATEGY", "Enforce", condition=secured),
        ]
    )
