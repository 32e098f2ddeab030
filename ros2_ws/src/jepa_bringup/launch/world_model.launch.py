"""The world model of a robot, and optionally a camera, the planner and the update manager.

Takes nav2's arguments.
"""

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
    ("use_sim_time", "false", "Whether to use the time from /clock."),
    ("autostart", "true", "Whether to configure and activate the world model at startup."),
    ("params_file", os.path.join(CONFIG, "jepa.yaml"), "YAML file with the parameters of all nodes."),
    ("use_respawn", "false", "Whether to restart a node that has exited."),
    ("log_level", "info", "Log level of all nodes."),
    (
        "keystore",
        "",
        "Keystore of the nodes; they ignore nodes without keys. Empty: as set by ROS_SECURITY_*.",
    ),
    (
        "bundle",
        "",
        "Folder of the model bundle, or hf://org/name@revision. Empty: the one in update_root or in "
        "params_file.",
    ),
    ("image_topic", "camera/image_raw", "Topic of the images."),
    ("cmd_vel_topic", "cmd_vel", "Topic of the velocities that the robot executes."),
    (
        "planner_cmd_vel_topic",
        "",
        "Topic of the planner's velocities, if a mux or a collision monitor forwards them. Empty: "
        "cmd_vel_topic.",
    ),
    ("odom_topic", "odom", "Topic of the odometry, for routes and for steering."),
    (
        "state_topic",
        "",
        "Topic of the measured state of the robot, if the model reads it. Empty: the one in params_file.",
    ),
    (
        "gripper_topic",
        "",
        "Topic of the gripper's JointState, if the model reads a gripper. Empty: the one in params_file.",
    ),
    ("gripper_joint", "", "Joint of the gripper on gripper_topic. Empty: the one in params_file."),
    (
        "gripper_open",
        "",
        "Position of that joint which the model reads as 0. Empty: the one in params_file.",
    ),
    (
        "gripper_closed",
        "",
        "Position of that joint which the model reads as 1. Empty: the one in params_file.",
    ),
    ("source", "", "Source of a camera to start (device, video, folder or bag). Empty: no camera."),
    ("planner", "false", "Whether to start the planner, which drives to goals."),
    (
        "policy_topic",
        "",
        "Topic of the action candidates of a policy, to start a planner that executes those that the critic "
        "allows, or with search_method:=policy_cem one that searches from them. Empty: there is no policy.",
    ),
    (
        "search_method",
        "",
        "How the planner finds its plan, see its parameter of this name. Empty: policy if policy_topic is "
        "set, else the one in params_file.",
    ),
    ("routes_dir", "", "Folder of the routes, to start the route node. Empty: no routes."),
    ("update_root", "", "Folder of the robot, to start the update manager. Empty: no updates."),
)
FORWARDED = (
    "namespace", "use_sim_time", "autostart", "params_file", "use_respawn", "log_level", "keystore",
    "update_root", "image_topic", "cmd_vel_topic",
)  # fmt: skip


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    launch_arguments = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    common = {
        "package": "jepa_ros",
        "output": "screen",
        "respawn": get_typed_value(launch_arguments["use_respawn"], bool),
        "respawn_delay": 2.0,
    }
    namespace = context.launch_configurations["ros_namespace"].rstrip("/")
    arguments = ["--ros-args", "--log-level", launch_arguments["log_level"], "--enclave"]
    file = ParameterFile(launch_arguments["params_file"], allow_substs=True)
    parameters: dict[str, bool | str | float] = {
        "autostart": get_typed_value(launch_arguments["autostart"], bool)
    }
    if launch_arguments["update_root"]:
        parameters["bundle"] = os.path.join(launch_arguments["update_root"], "current")
    if launch_arguments["bundle"]:
        parameters["bundle"] = launch_arguments["bundle"]
    parameters |= _state_parameters(launch_arguments)
    image_profile = {
        name: os.path.join(CONFIG, "fastdds.xml")
        for name, profile in context.environment.items()
        if profile == os.path.join(CONFIG, "fastdds_results.xml")
    }
    image = launch_arguments["image_topic"]
    if image != (raw := image.removesuffix("/compressed")):
        raise ValueError(
            f"image_topic:={image} is a topic of compressed images. Set it to {raw}: the node subscribes to "
            "both"
        )
    # Not a LifecycleNode: launch would create a node for it, which would need keys too.
    nodes: list[LaunchDescriptionEntity] = [
        Node(
            **common,
            executable="world_model",
            name="world_model",
            arguments=[*arguments, f"{namespace}/world_model"],
            parameters=[file, parameters],
            remappings=[
                ("image", image),
                ("image/compressed", f"{image}/compressed"),
                ("cmd_vel", launch_arguments["cmd_vel_topic"]),
            ],
        )
    ]
    if launch_arguments["source"]:
        nodes.append(
            Node(
                **common,
                executable="camera",
                name="camera",
                additional_env=image_profile,
                arguments=[*arguments, f"{namespace}/camera"],
                parameters=[file, {"source": launch_arguments["source"]}],
                remappings=[("camera/image_raw", image)],
            )
        )
    policy = launch_arguments["policy_topic"]
    method = launch_arguments["search_method"] or ("policy" if policy else "")
    if get_typed_value(launch_arguments["planner"], bool) or policy:
        nodes.append(
            Node(
                **common,
                executable="planner",
                name="planner",
                arguments=[*arguments, f"{namespace}/planner"],
                parameters=[file, *([{"search_method": method}] if method else [])],
                remappings=[
                    *([("~/policy_candidates", policy)] if policy else []),
                    (
                        "cmd_vel",
                        launch_arguments["planner_cmd_vel_topic"] or launch_arguments["cmd_vel_topic"],
                    ),
                    ("odom", launch_arguments["odom_topic"]),
                ],
            )
        )
    if launch_arguments["routes_dir"]:
        nodes.append(
            Node(
                **common,
                executable="route",
                name="route",
                arguments=[*arguments, f"{namespace}/route"],
                parameters=[
                    file,
                    {
                        "routes_dir": launch_arguments["routes_dir"],
                        "autostart": get_typed_value(launch_arguments["autostart"], bool),
                    },
                ],
                remappings=[
                    ("image", image),
                    ("image/compressed", f"{image}/compressed"),
                    ("cmd_vel", launch_arguments["cmd_vel_topic"]),
                    ("odom", launch_arguments["odom_topic"]),
                ],
            )
        )
    return nodes


def _state_parameters(launch_arguments: dict[str, str]) -> dict[str, str | float]:
    """Return the parameters of the measured state that are given as arguments."""
    given: dict[str, str | float] = {
        name: launch_arguments[name]
        for name in ("state_topic", "gripper_topic", "gripper_joint")
        if launch_arguments[name]
    }
    for name in ("gripper_open", "gripper_closed"):
        if text := launch_arguments[name]:
            try:
                given[name] = float(text)
            except ValueError:
                raise ValueError(
                    f"{name}:={text} is not a number. Set it to a position of the gripper's joint"
                ) from None
    return given


def _update_manager(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    if not LaunchConfiguration("update_root").perform(context):
        return []
    forwarded = [(name, LaunchConfiguration(name)) for name in FORWARDED]
    return [IncludeLaunchDescription(_source("update_manager"), launch_arguments=forwarded)]


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
