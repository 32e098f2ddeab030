"""The JSON file next to a recorded root: strict parsing, optional entries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jepa_runtime.doctor import RecordedFacts
from jepa_runtime.doctor.recorded_root import Recording
from jepa_runtime.doctor.system import Account, Node
from jepa_runtime.errors import DoctorError, UndeterminedError
from tests.errors import code

_WHOLE = {
    "schema": 1,
    "kernel": "6.11.0-25-generic",
    "architecture": "x86_64",
    "account": {"name": "robot", "uid": 1000, "groups": ["robot", "video"]},
    "nodes": {"/dev/video0": {"owner": "root", "group": "video", "mode": "0660"}},
    "free_bytes": {"/": 1000, "/var": 500},
    "clock_synchronized": False,
}


def _facts(tmp_path: Path, content: str) -> RecordedFacts:
    (tmp_path / "root").mkdir()
    (tmp_path / "root.json").write_text(content)
    return RecordedFacts(tmp_path / "root")


def test_recorded_facts_returns_what_was_recorded(tmp_path: Path) -> None:
    facts = _facts(tmp_path, json.dumps(_WHOLE))

    assert (facts.kernel(), facts.architecture()) == ("6.11.0-25-generic", "x86_64")
    assert facts.account() == Account("robot", 1000, frozenset({"robot", "video"}))
    assert facts.nodes("/dev/video*") == {"/dev/video0": Node("root", "video", 0o660)}
    assert facts.nodes("/dev/accel/*") == {}
    assert facts.free_bytes("/var/lib/jepa-edge") == ("/var", 500)
    assert facts.free_bytes("/opt") == ("/", 1000)
    assert not facts.clock_synchronized()


def test_recorded_facts_without_the_file_are_undetermined(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    facts = RecordedFacts(tmp_path / "root")

    with pytest.raises(UndeterminedError, check=code("doctor.not_recorded")):
        facts.kernel()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"schema": 2}, "schema"),
        ({"color": "red"}, "color"),
        ({"kernel": 6}, "kernel"),
        ({"nodes": {"dev/video0": {"owner": "root", "group": "video", "mode": "0660"}}}, "nodes"),
        ({"nodes": {"/dev/video0": {"owner": "root", "group": "video", "mode": "rw"}}}, "mode"),
        ({"free_bytes": {"/": -1}}, "free_bytes"),
        ({"clock_synchronized": "yes"}, "clock_synchronized"),
    ],
)
def test_recorded_facts_invalid_entry_is_an_error_that_names_it(
    change: dict[str, object], where: str, tmp_path: Path
) -> None:
    with pytest.raises(DoctorError, check=code("doctor.recording_invalid")) as raised:
        _facts(tmp_path, json.dumps(_WHOLE | change))
    assert where in str(raised.value)


@given(content=st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_recording_of_arbitrary_content_is_a_validation_error(content: bytes) -> None:
    with pytest.raises(ValidationError):
        Recording.model_validate_json(content)


def test_recorded_facts_root_not_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DoctorError, check=code("doctor.root_not_a_folder")):
        RecordedFacts(tmp_path / "missing")


@pytest.mark.parametrize(
    ("settings", "sees"), [("include-system-site-packages = true", True), ("home = /usr/bin", False)]
)
def test_library_folders_are_those_of_the_environments_python(
    settings: str, sees: bool, tmp_path: Path
) -> None:
    for folder in ("opt/jepa-edge/lib/python3.12/site-packages", "usr/lib/python3.10/dist-packages"):
        (tmp_path / "root" / folder).mkdir(parents=True)
    (tmp_path / "root/usr/lib/python3.12/dist-packages").mkdir(parents=True)
    (tmp_path / "root/opt/jepa-edge/pyvenv.cfg").write_text(settings)

    folders = RecordedFacts(tmp_path / "root").library_folders()

    own = ["opt/jepa-edge/lib/python3.12/site-packages"]
    assert folders == own + ["usr/lib/python3.12/dist-packages"] * sees


@pytest.mark.parametrize(
    ("node", "account", "opens"),
    [
        (Node("root", "video", 0o660), Account("robot", 1000, frozenset({"video"})), True),
        (Node("root", "video", 0o660), Account("robot", 1000, frozenset()), False),
        (Node("root", "video", 0o666), Account("robot", 1000, frozenset()), True),
        (Node("root", "video", 0o606), Account("robot", 1000, frozenset({"video"})), False),
        (Node("robot", "robot", 0o600), Account("robot", 1000, frozenset()), True),
        (Node("root", "video", 0o640), Account("robot", 1000, frozenset({"video"})), False),
        (Node("root", "video", 0o660, granted=True), Account("robot", 1000, frozenset()), True),
        (Node("root", "root", 0o600), Account("root", 0, frozenset()), True),
    ],
)
def test_node_permits_like_the_kernel(node: Node, account: Account, opens: bool) -> None:
    assert node.permits(account) is opens


@pytest.mark.parametrize(
    ("node", "groups", "reads"),
    [
        (Node("root", "video", 0o440), {"video"}, True),
        (Node("root", "video", 0o440), set(), False),
        (Node("root", "video", 0o220), {"video"}, False),
        (Node("robot", "robot", 0o400), set(), True),
        (Node("root", "video", 0o404), {"video"}, False),
    ],
)
def test_node_permits_reading_like_the_kernel(node: Node, groups: set[str], reads: bool) -> None:
    account = Account("robot", 1000, frozenset(groups))

    assert node.permits(account, 4) is reads and not node.permits(account)
