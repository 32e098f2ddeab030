"""The update manager of a robot with a running world model. Takes nav2's arguments."""

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
    ("use_sim_time", "false", "Whether to use the time from /clock."),
    ("autostart", "true", "Whether to look for updates periodically. false: only on request."),
    (
        "params_file",
        os.path.join(SHARE, "config", "jepa.yaml"),
        "YAML file with the parameters of all nodes.",
    ),
    ("use_respawn", "false", "Whether to restart a node that has exited."),
    ("log_level", "info", "Log level of all nodes."),
    (
        "keystore",
        "",
        "Keystore of the nodes; they ignore nodes without keys. Empty: as set by ROS_SECURITY_*.",
    ),
    (
        "update_root",
        "",
        "Folder of the robot. Empty: the one in params_file.",
    ),
    ("image_topic", "", "Image topic on which candidates are compared. Empty: the source in config.json."),
    ("cmd_vel_topic", "cmd_vel", "Topic of the velocities that the robot executes."),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    namespace = context.launch_configurations["ros_namespace"].rstrip("/")
    parameters: dict[str, bool | str] = {"auto": get_typed_value(arguments["autostart"], bool)}
    for parameter, argument in (("root", "update_root"), ("image_topic", "image_topic")):
        if arguments[argument]:
            parameters[parameter] = arguments[argument]
    return [
        Node(
            package="jepa_ros",
            executable="update_manager",
            name="update_manager",
            output="screen",
            respawn=get_typed_value(arguments["use_respawn"], bool),
            respawn_delay=2.0,
            # The world model has priority.
            prefix="nice -n 10",
            # Shutdown may wait for an unresponsive server, or for the world model during a swap.
            sigterm_timeout="60",
            arguments=[
                "--ros-args",
                "--log-level",
                arguments["log_level"],
                "--enclave",
                f"{namespace}/update_manager",
            ],
            parameters=[ParameterFile(arguments["params_file"], allow_substs=True), parameters],
            remappings=[("cmd_vel", arguments["cmd_vel_topic"])],
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
