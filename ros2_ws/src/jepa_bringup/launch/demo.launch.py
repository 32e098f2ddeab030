"""Two Rooms: a simulated robot that finds its way to goal images by predicted futures. Takes nav2's
arguments."""

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
    ("autostart", "true", "Configure and activate the world model at start."),
    (
        "params_file",
        os.path.join(SHARE, "config", "jepa.yaml"),
        "YAML file with the parameters of all nodes.",
    ),
    ("use_respawn", "false", "Start a node again when it has ended."),
    ("log_level", "info", "Log level of all nodes."),
    ("keystore", "", "Keystore of the nodes, which hear nobody without keys; empty: as ROS_SECURITY_* say."),
    ("bundle", "", "Folder of the model bundle; empty: the one in params_file."),
    ("planner", "true", "Start the planner, which drives to goals."),
    ("mcap", "", "Record all topics into this MCAP file; empty: do not record."),
)


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    namespace = context.launch_configurations["ros_namespace"].rstrip("/")
    file = ParameterFile(given["params_file"], allow_substs=True)
    config = os.path.join(SHARE, "config")
    sends_images = {
        name: os.path.join(config, "fastdds.xml")
        for name, profile in context.environment.items()
        if profile == os.path.join(config, "fastdds_results.xml")
    }
    nodes = {
        "two_rooms": ([file], sends_images),
        "monitor": ([file, {"mcap": given["mcap"]}], {}),
    }
    return [
        Node(
            package="jepa_ros",
            executable=name,
            name=name,
            output="screen",
            respawn=get_typed_value(given["use_respawn"], bool),
            respawn_delay=2.0,
            arguments=["--ros-args", "--log-level", given["log_level"], "--enclave", f"{namespace}/{name}"],
            parameters=chosen,
            additional_env=environment,
        )
        for name, (chosen, environment) in nodes.items()
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the world model, the planner, the robot and the monitor."""
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    passed_on = [(name, LaunchConfiguration(name)) for name, _, _ in ARGUMENTS if name != "mcap"]
    world_model = PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "world_model.launch.py"))
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, value, text in ARGUMENTS
            ),
            IncludeLaunchDescription(world_model, launch_arguments=passed_on),
            GroupAction(
                [
                    PushRosNamespace(LaunchConfiguration("namespace")),
                    SetParameter("use_sim_time", use_sim_time),
                    OpaqueFunction(function=_nodes),
                ]
            ),
        ]
    )
