"""The update manager of a robot, beside a world model that runs already. Takes nav2's arguments."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch.utilities.type_utils import get_typed_value
from launch_ros.actions import Node, PushRosNamespace, SetParameter
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue

SHARE = get_package_share_directory("jepa_bringup")

ARGUMENTS = (
    ("namespace", "", "Namespace of all nodes and topics."),
    ("use_sim_time", "false", "Take the time from /clock."),
    ("autostart", "true", "Look for updates by itself; false: only when asked to."),
    (
        "params_file",
        os.path.join(SHARE, "config", "jepa.yaml"),
        "YAML file with the parameters of all nodes.",
    ),
    ("use_respawn", "false", "Start a node again when it has ended."),
    ("log_level", "info", "Log level of all nodes."),
    ("keystore", "", "Keystore of the nodes, which hear nobody without keys; empty: as ROS_SECURITY_* say."),
    (
        "update_root",
        "",
        "Folder of the robot; empty: the one in params_file.",
    ),
    ("image_topic", "", "Images on which candidates are compared; empty: as config.json says."),
    ("cmd_vel_topic", "cmd_vel", "Topic of the velocities that the robot executes."),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    namespace = context.launch_configurations["ros_namespace"].rstrip("/")
    chosen: dict[str, bool | str] = {"auto": get_typed_value(given["autostart"], bool)}
    for parameter, argument in (("root", "update_root"), ("image_topic", "image_topic")):
        if given[argument]:
            chosen[parameter] = given[argument]
    return [
        Node(
            package="jepa_ros",
            executable="update_manager",
            name="update_manager",
            output="screen",
            respawn=get_typed_value(given["use_respawn"], bool),
            respawn_delay=2.0,
            # The node that serves comes first.
            prefix="nice -n 10",
            # A server that says nothing is waited for, and the serving process, during a swap.
            sigterm_timeout="60",
            arguments=[
                "--ros-args",
                "--log-level",
                given["log_level"],
                "--enclave",
                f"{namespace}/update_manager",
            ],
            parameters=[ParameterFile(given["params_file"], allow_substs=True), chosen],
            remappings=[("cmd_vel", given["cmd_vel_topic"])],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, set the environment and start the node."""
    environment = PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "environment.launch.py"))
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, value, text in ARGUMENTS
            ),
            IncludeLaunchDescription(
                environment, launch_arguments=[("keystore", LaunchConfiguration("keystore"))]
            ),
            GroupAction(
                [
                    PushRosNamespace(LaunchConfiguration("namespace")),
                    SetParameter("use_sim_time", use_sim_time),
                    OpaqueFunction(function=_nodes),
                ]
            ),
        ]
    )
