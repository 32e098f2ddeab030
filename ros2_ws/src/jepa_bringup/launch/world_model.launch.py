"""The world model of a robot, a camera if a source is named, the planner if it is asked for, and the update
manager if its folder is named. Takes nav2's arguments."""

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
CONFIG = os.path.join(SHARE, "config")

ARGUMENTS = (
    ("namespace", "", "Namespace of all nodes and topics."),
    ("use_sim_time", "false", "Take the time from /clock."),
    ("autostart", "true", "Configure and activate the world model at start."),
    ("params_file", os.path.join(CONFIG, "jepa.yaml"), "YAML file with the parameters of all nodes."),
    ("use_respawn", "false", "Start a node again when it has ended."),
    ("log_level", "info", "Log level of all nodes."),
    ("keystore", "", "Keystore of the nodes, which hear nobody without keys; empty: as ROS_SECURITY_* say."),
    ("bundle", "", "Folder of the model bundle; empty: the one in update_root, or in params_file."),
    ("image_topic", "camera/image_raw", "Topic of the images."),
    ("cmd_vel_topic", "cmd_vel", "Topic of the velocities that the robot executes."),
    (
        "planner_cmd_vel_topic",
        "",
        "Topic of the planner's velocities, where a mux or a collision monitor passes them on; empty: "
        "cmd_vel_topic.",
    ),
    ("source", "", "Start a camera with this source (device, video, folder, bag); empty: no camera."),
    ("planner", "false", "Start the planner, which drives to goals."),
    ("update_root", "", "Start the update manager for the robot in this folder; empty: no updates."),
)
PASSED_ON = (
    "namespace", "use_sim_time", "autostart", "params_file", "use_respawn", "log_level", "keystore",
    "update_root", "image_topic", "cmd_vel_topic",
)  # fmt: skip


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    common = {
        "package": "jepa_ros",
        "output": "screen",
        "respawn": get_typed_value(given["use_respawn"], bool),
        "respawn_delay": 2.0,
    }
    namespace = context.launch_configurations["ros_namespace"].rstrip("/")
    arguments = ["--ros-args", "--log-level", given["log_level"], "--enclave"]
    file = ParameterFile(given["params_file"], allow_substs=True)
    chosen: dict[str, bool | str] = {"autostart": get_typed_value(given["autostart"], bool)}
    if given["update_root"]:
        chosen["bundle"] = os.path.join(given["update_root"], "current")
    if given["bundle"]:
        chosen["bundle"] = given["bundle"]
    sends_images = {
        name: os.path.join(CONFIG, "fastdds.xml")
        for name, profile in context.environment.items()
        if profile == os.path.join(CONFIG, "fastdds_results.xml")
    }
    image = given["image_topic"]
    if image != (raw := image.removesuffix("/compressed")):
        raise ValueError(f"image_topic:={image} has compressed images; name {raw}: they are heard with it")
    # Not a LifecycleNode: for that launch makes a node of its own, and that would need keys too.
    nodes: list[LaunchDescriptionEntity] = [
        Node(
            **common,
            executable="world_model",
            name="world_model",
            arguments=[*arguments, f"{namespace}/world_model"],
            parameters=[file, chosen],
            remappings=[
                ("image", image),
                ("image/compressed", f"{image}/compressed"),
                ("cmd_vel", given["cmd_vel_topic"]),
            ],
        )
    ]
    if given["source"]:
        nodes.append(
            Node(
                **common,
                executable="camera",
                name="camera",
                additional_env=sends_images,
                arguments=[*arguments, f"{namespace}/camera"],
                parameters=[file, {"source": given["source"]}],
                remappings=[("camera/image_raw", image)],
            )
        )
    if get_typed_value(given["planner"], bool):
        nodes.append(
            Node(
                **common,
                executable="planner",
                name="planner",
                arguments=[*arguments, f"{namespace}/planner"],
                parameters=[file],
                remappings=[("cmd_vel", given["planner_cmd_vel_topic"] or given["cmd_vel_topic"])],
            )
        )
    return nodes


def _update_manager(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    if not LaunchConfiguration("update_root").perform(context):
        return []
    given = [(name, LaunchConfiguration(name)) for name in PASSED_ON]
    return [IncludeLaunchDescription(_source("update_manager"), launch_arguments=given)]


def _source(name: str) -> PythonLaunchDescriptionSource:
    return PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", f"{name}.launch.py"))


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, set the environment and start the nodes."""
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=text)
                for name, value, text in ARGUMENTS
            ),
            IncludeLaunchDescription(
                _source("environment"), launch_arguments=[("keystore", LaunchConfiguration("keystore"))]
            ),
            GroupAction(
                [
                    PushRosNamespace(LaunchConfiguration("namespace")),
                    SetParameter("use_sim_time", use_sim_time),
                    OpaqueFunction(function=_nodes),
                ]
            ),
            OpaqueFunction(function=_update_manager),
        ]
    )
