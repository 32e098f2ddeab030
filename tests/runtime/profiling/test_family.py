"""Families of bundles: which belong together, and which is larger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")

from jepa_runtime.errors import BundleError, ProfileError
from jepa_runtime.profiling.family import Family, find_bundles, open_family
from tests.errors import code
from tests.runtime.families import make_family, make_member, report, report_multiply_adds


def order(family: Family) -> list[Path]:
    """Return the folders of the members."""
    return [member.bundle.path for member in family.members]


@pytest.fixture
def family(tmp_path: Path) -> tuple[Path, Path]:
    return make_family(tmp_path / "family")


def test_find_bundles_of_a_folder_returns_the_bundles_in_it_by_name(family: tuple[Path, Path]) -> None:
    one, four = family
    (one.parent / "notes").mkdir()
    assert find_bundles(one.parent) == [four, one]
    assert find_bundles(one) == [one]


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_find_bundles_of_a_folder_without_any_returns_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    assert find_bundles(tmp_path / name) == [tmp_path / name]


def test_members_are_ordered_by_the_multiply_adds_that_all_report(family: tuple[Path, Path]) -> None:
    one, four = family
    report_multiply_adds(one, 2_000_000)
    report_multiply_adds(four, 1_000_000)
    opened = open_family([one, four])
    assert opened.ordered_by == "multiply_adds" and order(opened) == [four, one]
    assert [member.multiply_adds for member in opened.members] == [3_000_000, 6_000_000]


@pytest.mark.parametrize(
    "content",
    [{}, [], {"multiply_adds": 5}, {"multiply_adds": {"encoder": 1}}, {"multiply_adds": {"encoder": "1"}}],
)
def test_members_without_complete_multiply_adds_are_ordered_by_the_size_of_their_graphs(
    family: tuple[Path, Path], content: Any
) -> None:
    one, four = family
    report_multiply_adds(one, 2_000_000)
    report(four, content)
    opened = open_family([four, one])
    assert opened.ordered_by == "graph_bytes" and order(opened) == [one, four]
    assert [member.multiply_adds for member in opened.members] == [6_000_000, None]
    small, large = (member.graph_bytes for member in opened.members)
    listed = {record.path: record.bytes for record in opened.members[0].bundle.manifest.files}
    assert 0 < small < large
    assert small == sum(
        listed[f"{role}/openvino/model{suffix}"]
        for role in ("encoder", "predictor", "relative_pose")
        for suffix in (".xml", ".bin")
    )


def test_bundles_with_other_interfaces_are_not_a_family(
    family: tuple[Path, Path], two_rooms_bundle: Path, toy_bundle: Path
) -> None:
    for other, differ in ((two_rooms_bundle, "horizon"), (toy_bundle, "relative_pose")):
        with pytest.raises(ProfileError, check=code("profile.different_families")) as caught:
            open_family([*family, other])
        assert differ in str(caught.value) and str(other) in str(caught.value)


def test_damaged_member_is_rejected(family: tuple[Path, Path], tmp_path: Path) -> None:
    damaged = make_member(tmp_path / "damaged")
    (damaged / "golden.npz").unlink()
    with pytest.raises(BundleError, check=code("bundle.file_missing")):
        open_family([*family, damaged])
