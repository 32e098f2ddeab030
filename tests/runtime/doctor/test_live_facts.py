"""Facts of this machine that no file contains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from jepa_runtime.doctor import LiveFacts, System
from jepa_runtime.doctor.system import Node


def test_live_facts_device_node_has_owner_group_and_mode() -> None:
    nodes = LiveFacts().nodes("/dev/nul[l]")

    assert nodes == {"/dev/null": Node("root", "root", 0o666, granted=True)}
    assert LiveFacts().nodes(__file__) == {}


def test_live_facts_account_is_that_of_this_process() -> None:
    account = LiveFacts().account()

    assert account.uid == os.geteuid()
    assert len(account.groups) == len({os.getegid(), *os.getgroups()})


def test_live_facts_free_bytes_are_those_of_the_nearest_folder(tmp_path: Path) -> None:
    place, free = LiveFacts().free_bytes(str(tmp_path / "no" / "such"))

    assert place == str(tmp_path)
    assert 0 <= free <= shutil.disk_usage(tmp_path).total


def test_package_of_this_python_has_its_version() -> None:
    assert System(Path("/"), LiveFacts()).package("numpy") == version("numpy")
    assert System(Path("/"), LiveFacts()).package("nosuchpackage") is None


def test_program_is_that_of_this_python_in_any_folder() -> None:
    output = subprocess.run(
        ["sh", "-c", f"{LiveFacts().program('python3')} -c 'import sys; print(sys.prefix)'"],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert output.stdout.strip() == sys.prefix
    assert LiveFacts().needs_root_to_install() is not os.access(sys.prefix, os.W_OK)
