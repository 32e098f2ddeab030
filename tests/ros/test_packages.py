"""Files shipped with the nodes: parameter file, tables in the README, launch files, DDS profiles."""

from __future__ import annotations

import importlib
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from xml.etree import ElementTree

import pytest

yaml = pytest.importorskip("yaml")

pytestmark = pytest.mark.ros

WORKSPACE = Path(__file__).resolve().parents[2] / "ros2_ws"
NODES = ("world_model", "camera", "two_rooms", "first_person", "planner", "monitor", "pictures", "route")
# update_manager has its own section in the parameter file, see test_update_manager_messages.
DESCRIBED = (*NODES, "update_manager")
BRINGUP = WORKSPACE / "src" / "jepa_bringup"
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
NAV2_ARGUMENTS = {"namespace", "use_sim_time", "autostart", "params_file", "use_respawn", "log_level"}


def parameters(node: str):
    pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")
    return importlib.import_module(f"jepa_ros.nodes.{node}").PARAMETERS


def test_parameter_file_has_every_parameter_with_its_default():
    defaults: dict[str, set] = {}
    for node in NODES:
        for parameter in parameters(node):
            defaults.setdefault(parameter.name, set()).add(parameter.default)
    shipped = yaml.safe_load((BRINGUP / "config" / "jepa.yaml").read_text(encoding="utf-8"))
    given = shipped["/**"]["ros__parameters"].items()
    assert {name: {tuple(value) if isinstance(value, list) else value} for name, value in given} == defaults


@pytest.mark.parametrize("node", DESCRIBED)
def test_readme_describes_every_parameter(node):
    text = (WORKSPACE / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {node}$(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    described = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", section[1], re.MULTILINE))
    expected = {parameter.name: parameter.description for parameter in parameters(node)}
    del expected["report_path"]
    assert described == expected


def test_every_parameter_has_a_description():
    for node in DESCRIBED:
        for parameter in parameters(node):
            assert parameter.description.endswith(".")
            first = parameter.default[0] if isinstance(parameter.default, tuple) else parameter.default
            assert isinstance(first, (bool, str)) or parameter.low is not None, parameter.name


class Launched(NamedTuple):
    """Represent a launch file: its arguments, the command of each node, and the environment of all nodes.

    ``own``, ``topics`` and ``parameters`` are the variables, remapped topics and parameters of each node.
    """

    declared: set[str]
    commands: dict[str, list[str]]
    environment: dict[str, str]
    own: dict[str, dict[str, str]]
    topics: dict[str, dict[str, str]]
    parameters: dict[str, dict[str, Any]]


def launched(name: str, environment: dict[str, str] | None = None, **given: str) -> Launched:
    """Evaluate a launch file."""
    pytest.importorskip(
        "launch_ros", reason="launch and launch_ros are not among the wheels; install ROS 2 to test them"
    )
    from launch import LaunchContext
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    described = get_launch_description_from_python_launch_file(str(BRINGUP / "launch" / f"{name}.launch.py"))
    context, commands, own, topics, given_parameters = LaunchContext(), {}, {}, {}, {}

    def text(pieces) -> str:
        return "".join(getattr(piece, "text", "") for piece in pieces)

    context.launch_configurations.update(given)

    def walk(entity) -> None:
        if type(entity).__name__ in ("Node", "LifecycleNode"):
            assert entity.node_executable not in commands, "started twice"
            # Without the arguments that launch_ros adds at the start of a node.
            commands[entity.node_executable] = [text(part) for part in entity.cmd]
            variables = entity.additional_env or []
            own[entity.node_executable] = {text(name): text(value) for name, value in variables}
            entity._perform_substitutions(context)
            topics[entity.node_executable] = dict(entity.expanded_remapping_rules or ())
            given_parameters[entity.node_executable] = _parameters([text(part) for part in entity.cmd])
            return
        if getattr(entity, "condition", None) is not None and not entity.condition.evaluate(context):
            return
        for inner in entity.visit(context) or []:
            walk(inner)

    # A launch file sets variables of this process, whose own profile is irrelevant here.
    unset = dict.fromkeys(PROFILES, "")
    with mock.patch.dict(os.environ, unset | (environment or {})):
        walk(described)
        variables_set = dict(os.environ)
    declared = {argument.name for argument in described.get_launch_arguments()}
    return Launched(declared, commands, variables_set, own, topics, given_parameters)


def _parameters(command: list[str]) -> dict[str, Any]:
    """Return the parameters that the files of a command set for all nodes or for its own; later files win."""
    found: dict[str, Any] = {}
    for option, path in pairwise(command):
        if option == "--params-file":
            for section in yaml.safe_load(Path(path).read_text(encoding="utf-8")).values():
                found |= section["ros__parameters"]
    return found


@pytest.mark.parametrize(
    ("name", "starts"),
    [("world_model", {"world_model"}), ("demo", {"world_model", "two_rooms", "planner", "monitor"})],
)
def test_launch_files_take_the_arguments_of_nav2_and_start_their_nodes(name, starts):
    launch = launched(name)
    assert launch.declared >= NAV2_ARGUMENTS
    assert set(launch.commands) == starts


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("world_model", {"source": "/dev/video0", "planner": "true", "update_root": "/robot"}),
        ("update_manager", {}),
        ("demo", {}),
    ],
)
@pytest.mark.parametrize(("namespace", "prefix"), [("", ""), ("fleet/robot", "/fleet/robot")])
def test_each_node_is_in_the_enclave_of_its_full_name(name, given, namespace, prefix):
    launch = launched(name, namespace=namespace, keystore="/keys", **given)
    enclaves = {node: command[command.index("--enclave") + 1] for node, command in launch.commands.items()}
    assert enclaves and enclaves == {node: f"{prefix}/{node}" for node in launch.commands}
    secured = {key: value for key, value in launch.environment.items() if key.startswith("ROS_SECURITY")}
    assert secured == {
        "ROS_SECURITY_KEYSTORE": "/keys",
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
    }


@pytest.mark.parametrize(
    ("given", "planner", "robot"),
    [
        ({}, "cmd_vel", "cmd_vel"),
        ({"cmd_vel_topic": "base/cmd_vel"}, "base/cmd_vel", "base/cmd_vel"),
        ({"cmd_vel_topic": "base/cmd_vel", "planner_cmd_vel_topic": "raw"}, "raw", "base/cmd_vel"),
    ],
)
def test_launch_supports_nodes_between_planner_and_robot(given, planner, robot):
    topics = launched("world_model", planner="true", update_root="/robot", **given).topics
    assert {node: own["cmd_vel"] for node, own in topics.items()} == {
        "planner": planner,
        "world_model": robot,
        "update_manager": robot,
    }


@pytest.mark.parametrize(("given", "odometry"), [({}, "odom"), ({"odom_topic": "base/odom"}, "base/odom")])
def test_launch_supports_any_topic_of_the_odometry(given, odometry):
    topics = launched("world_model", planner="true", routes_dir="/routes", **given).topics
    assert {node: own.get("odom") for node, own in topics.items()} == {
        "world_model": None,
        "planner": odometry,
        "route": odometry,
    }


def test_launch_with_the_topic_of_a_policy_starts_a_planner_that_executes_it():
    launch = launched("world_model", policy_topic="policy/candidates")
    assert launch.topics["planner"]["~/policy_candidates"] == "policy/candidates"
    assert "~/policy_candidates" not in launched("world_model", planner="true").topics["planner"]


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"planner": "true"}, "cem"),
        ({"policy_topic": "policy/candidates"}, "policy"),
        ({"policy_topic": "policy/candidates", "search_method": "policy_cem"}, "policy_cem"),
        ({"planner": "true", "search_method": "mppi"}, "mppi"),
    ],
)
def test_launch_passes_the_search_method_to_the_planner(given, method):
    launch = launched("world_model", **given)
    assert launch.parameters["planner"]["search_method"] == method
    has_policy = "~/policy_candidates" in launch.topics["planner"]
    assert has_policy is ("policy_topic" in given)


STATE_ARGUMENTS = ("state_topic", "gripper_topic", "gripper_joint", "gripper_open", "gripper_closed")


def test_launch_without_arguments_of_the_state_leaves_them_to_the_parameter_file(tmp_path):
    shipped = yaml.safe_load((BRINGUP / "config" / "jepa.yaml").read_text(encoding="utf-8"))
    values = {"state_topic": "arm/pose", "gripper_topic": "hand", "gripper_joint": "left"}
    values |= {"gripper_open": 0.04, "gripper_closed": 0.0}
    shipped["/**"]["ros__parameters"] |= values
    file = tmp_path / "arm.yaml"
    file.write_text(yaml.safe_dump(shipped), encoding="utf-8")
    parameters = launched("world_model", params_file=str(file)).parameters["world_model"]
    assert {name: parameters[name] for name in STATE_ARGUMENTS} == values


def test_launch_passes_the_arguments_of_the_state_to_the_world_model():
    given = ("arm/pose", "hand/joint_states", "7", "0", "0.8")
    launch = launched("world_model", planner="true", **dict(zip(STATE_ARGUMENTS, given, strict=True)))
    parameters = launch.parameters["world_model"]
    found = [parameters[name] for name in STATE_ARGUMENTS]
    assert found == ["arm/pose", "hand/joint_states", "7", 0.0, 0.8]
    assert [type(value) for value in found] == [str, str, str, float, float]


@pytest.mark.parametrize("name", ["gripper_open", "gripper_closed"])
def test_launch_with_a_gripper_position_that_is_no_number_starts_nothing(name):
    with pytest.raises(ValueError, match=f"{name}:=wide is not a number"):
        launched("world_model", **{name: "wide"})


@pytest.mark.parametrize(("word", "starts"), [("True", True), ("yes", True), ("1", True), ("False", False)])
def test_launch_accepts_the_boolean_spellings_of_ros(word, starts):
    assert ("planner" in launched("world_model", planner=word).commands) is starts


@pytest.mark.parametrize(("word", "planner"), [("true", {"planner"}), ("false", set())])
def test_demo_has_a_planner_unless_it_is_disabled(word, planner):
    launch = launched("demo", planner=word)
    assert set(launch.commands) == {"world_model", "two_rooms", "monitor"} | planner


@pytest.mark.parametrize("name", ["world_model", "update_manager", "demo"])
@pytest.mark.parametrize("argument", ["autostart", "use_respawn", "planner"])
def test_launch_with_an_invalid_boolean_starts_nothing(name, argument):
    if argument in launched(name).declared:
        with pytest.raises(ValueError, match="Cannot convert value 'ture'"):
            launched(name, **{argument: "ture"})


def test_images_are_named_by_the_raw_topic():
    with pytest.raises(ValueError, match="image_topic:=front/compressed is a topic of compressed images"):
        launched("world_model", image_topic="front/compressed")


def test_launch_without_a_keystore_leaves_security_to_the_environment():
    assert not any(key.startswith("ROS_SECURITY") for key in launched("demo").environment)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("world_model", {"source": "/dev/video0", "planner": "true", "update_root": "/robot"}),
        ("demo", {}),
    ],
)
def test_nodes_that_send_images_get_room_for_them(name, given):
    launch = launched(name, **given)
    for variable in PROFILES:
        profiles = {
            node: Path(own.get(variable, launch.environment[variable])).name
            for node, own in launch.own.items()
        }
        assert profiles == {
            node: "fastdds.xml" if node in ("camera", "two_rooms") else "fastdds_results.xml"
            for node in launch.commands
        }


@pytest.mark.parametrize("variable", PROFILES)
@pytest.mark.parametrize(
    ("name", "given"), [("world_model", {"source": "/dev/video0", "planner": "true"}), ("demo", {})]
)
def test_existing_dds_profile_is_kept(name, given, variable):
    launch = launched(name, {variable: "/etc/robot.xml"}, **given)
    assert {each: launch.environment[each] for each in PROFILES} == dict.fromkeys(PROFILES, "") | {
        variable: "/etc/robot.xml"
    }
    assert not any(own.keys() & set(PROFILES) for own in launch.own.values())


def test_dds_profile_has_room_for_images():
    namespace = "{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}"
    root = ElementTree.parse(BRINGUP / "config" / "fastdds.xml").getroot()
    segment = root.find(f".//{namespace}segment_size")
    assert segment is not None and int(segment.text) >= 2 * 1920 * 1080 * 3, "two images of full HD"
    participant = root.find(f".//{namespace}participant")
    assert participant is not None and participant.get("is_default_profile") == "true"
