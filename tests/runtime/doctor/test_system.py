"""Reading files of a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jepa_runtime.doctor import RecordedFacts, System
from jepa_runtime.errors import UndeterminedError
from tests.errors import code


@pytest.fixture
def system(tmp_path: Path) -> System:
    (tmp_path / "root").mkdir()
    return System(tmp_path / "root", RecordedFacts(tmp_path / "root"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "file_empty"),
        (b" \n\0", "file_empty"),
        (b"15\0W", "not_text"),
        (b"\xff\xfe", "not_text"),
        (b"x" * ((16 << 20) + 1), "file_too_large"),
    ],
)
def test_text_of_a_file_without_text_is_undetermined(content: bytes, reason: str, system: System) -> None:
    (system.root / "file").write_bytes(content)

    with pytest.raises(UndeterminedError, check=code(f"doctor.{reason}")) as raised:
        system.text("file")
    assert "/file " in str(raised.value)


def test_text_of_something_else_than_a_file_is_undetermined(system: System) -> None:
    os.mkfifo(system.root / "pipe")
    (system.root / "folder").mkdir()

    for name, reason in (("pipe", "not_a_file"), ("folder", "not_a_file"), ("missing", "unreadable")):
        with pytest.raises(UndeterminedError, check=code(f"doctor.{reason}")):
            system.text(name)
    assert system.find_nonempty("*") == []


def test_link_out_of_the_root_is_not_followed(system: System, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("text")
    (system.root / "link").symlink_to(tmp_path / "outside")
    (system.root / "inside").write_text("text")
    (system.root / "good").symlink_to("inside")

    for read in (system.text, system.exists):
        with pytest.raises(UndeterminedError, check=code("doctor.outside_root")):
            read("link")
    assert system.find_nonempty("*") == ["good", "inside"]
    assert system.text("good") == "text"


@pytest.mark.parametrize("content", ["", "12 kHz", "1e6", "twelve"])
def test_integer_of_another_content_is_undetermined(content: str, system: System) -> None:
    (system.root / "number").write_text(content)

    with pytest.raises(UndeterminedError) as raised:
        system.integer("number")
    assert raised.value.code == ("doctor.not_an_integer" if content else "doctor.file_empty")


def test_strings_splits_at_nul(system: System) -> None:
    (system.root / "compatible").write_bytes(b"nvidia,p3767-0005\0nvidia,tegra234\0")
    assert system.strings("compatible") == ["nvidia,p3767-0005", "nvidia,tegra234"]

    for damaged in (b"", b"\0\0a\0", b"a\xff\0", b"a\nb\0"):
        (system.root / "compatible").write_bytes(damaged)
        with pytest.raises(UndeterminedError, check=code("doctor.not_text")):
            system.strings("compatible")


def test_debian_removed_package_is_not_listed(system: System) -> None:
    (system.root / "var/lib/dpkg").mkdir(parents=True)
    stanza = "Package: {}\nStatus: {}\nVersion: {}\nDescription: a\n b: c"
    states = (
        ("one", "install ok installed"),
        ("two", "deinstall ok config-files"),
        ("three", "hold ok installed"),
    )
    text = "\n\n".join(stanza.format(name, status, "1.0") for name, status in states)
    (system.root / "var/lib/dpkg/status").write_text(text)

    assert system.debian == {"one": "1.0", "three": "1.0"}
