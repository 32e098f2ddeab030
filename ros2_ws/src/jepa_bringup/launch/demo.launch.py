"""Two Rooms: a simulated robot that drives to goal images with predicted futures. Takes nav2's arguments."""

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
    ("autostart", "true", "Whether to configure and activate the world model at startup."),
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
    ("bundle", "", "Folder of the model bundle, or hf://org/name@revision. Empty: the one in params_file."),
    ("planner", "true", "Whether to start the planner, which drives to goals."),
    ("mcap", "", "New MCAP file that receives all topics. Empty: no recording."),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    arguments = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    namespace = context.launch_configurations["ros_namespace"].rstrip("/")
    file = ParameterFile(arguments["params_file"], allow_substs=True)
    config = os.path.join(SHARE, "config")
    image_profile = {
        name: os.path.join(config, "fastdds.xml")
        for name, profile in context.environment.items()
        if profile == os.path.join(config, "fastdds_results.xml")
    }
    nodes = {
        "two_rooms": ([file], image_profile),
        "monitor": ([file, {"mcap": arguments["mcap"]}], {}),
    }
    return [
        Node(
            package="jepa_ros",
            executable=name,
            name=name,
            output="screen",
            respawn=get_typed_value(arguments["use_respawn"], bool),
            respawn_delay=2.0,
            arguments=[
                "--ros-args",
                "--log-level",
                arguments["log_level"],
                "--enclave",
                f"{namespace}/{name}",
            ],
            parameters=parameters,
            additional_env=environment,
        )
        for name, (parameters, environment) in nodes.items()
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the world model, the planner, the robot and the monitor."""
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    forwarded = [(name, LaunchConfiguration(name)) for name, _, _ in ARGUMENTS if name != "mcap"]
    world_model = PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "world_model.launch.py"))
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, value, text in ARGUMENTS
            ),
            IncludeLaunchDescription(world_model, launch_arguments=forwarded),
            GroupAction(
                [
                    PushRosNamespace(LaunchConfiguration("namespace")),
                    SetParameter("use_sim_time", use_sim_time),
                    OpaqueFunction(function=_nodes),
                ]
            ),
        ]
    )
