"""Damaged or missing files never cause a failure or an unjustified "ok"."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_runtime.doctor import RecordedFacts, Severity, System, as_json, examine, fix_script
from jepa_runtime.doctor.checks import CHECKS
from tests.runtime.doctor import roots
from tests.runtime.doctor.faults import JETSON, NPU_LAPTOP
from tests.runtime.doctor.roots import Root

_MACHINES = {"orin_nano": (roots.orin_nano, JETSON), "meteor_lake": (roots.meteor_lake, NPU_LAPTOP)}
_HUGE = 17 << 20


def _huge(place: Path) -> None:
    os.truncate(place, _HUGE)


def _gone_for(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def mutilate(place: Path) -> None:
        place.unlink()
        make(place)

    return mutilate


# The last two can occur in real firmware or libraries.
_KINDS: dict[str, Callable[[Path], object]] = {
    "empty": lambda place: place.write_bytes(b""),
    "a folder": _gone_for(Path.mkdir),
    "a pipe": _gone_for(os.mkfifo),
    "a loop of links": _gone_for(lambda place: place.symlink_to(place.name)),
    "a link to this machine": _gone_for(lambda place: place.symlink_to("/proc/self/limits")),
    "binary": lambda place: place.write_bytes(bytes(range(256)) * 4),
    "huge": _huge,
}
_ANY_CONTENT = ("binary", "huge")
_OF_SOME_MACHINES = (
    "jetson.",
    "npu.",
    "bundle.",
    "memory.bundle",
    "engine.tensorrt",
    "engine.pycuda",
    "engine.plugin",
    "cpu.int8",
)


@pytest.fixture(scope="module", params=_MACHINES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Root, Root]:
    """Return a healthy machine, and one with a fault for each check that no other fault hides."""
    build, faults = _MACHINES[request.param]
    folder = tmp_path_factory.mktemp("machines")
    healthy, faulty = build(folder / "healthy"), build(folder / "faulty")
    for fault in {fault.check: fault for fault in faults if not fault.hides}.values():
        fault.plant(faulty)
    return healthy, faulty


def _file(root: Root, number: int) -> Path:
    files = sorted(path for path in root.root.rglob("*") if path.is_file() and not path.is_symlink())
    return files[number % len(files)]


@contextmanager
def _mutilated(place: Path, mutilate: Callable[[Path], object]) -> Iterator[None]:
    content = place.read_bytes()
    mutilate(place)
    try:
        yield
    finally:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        place.write_bytes(content)


@settings(max_examples=60)
@given(number=st.integers(0, 999), kind=st.sampled_from(sorted(_KINDS)))
def test_check_with_unreadable_file_is_not_ok(pair: tuple[Root, Root], number: int, kind: str) -> None:
    root = pair[0]
    place = _file(root, number)

    with _mutilated(place, _KINDS[kind]):
        diagnosis = root.diagnose()

    sources = {
        (seen.source, seen.value)
        for finding in diagnosis.findings
        if finding.verdict.severity is Severity.OK
        for seen in finding.verdict.evidence
    }
    cited = {value for source, value in sources if source == f"/{place.relative_to(root.root)}"}
    assert cited <= ({"is there"} if kind in _ANY_CONTENT else set())


def test_files_without_permission_are_unknown() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = roots.orin_nano(Path(folder) / "root")
        root.diagnose()
        system = System(root.root, RecordedFacts(root.root))
        for place in root.root.rglob("*"):
            place.chmod(0o755 if place.is_dir() else 0)

        with _as_nobody():
            diagnosis = examine(system)

    unknown = {
        finding.check for finding in diagnosis.findings if finding.verdict.severity is Severity.UNKNOWN
    }
    assert diagnosis.problems == ()
    assert unknown >= {"machine", "engine.openvino", "cpu.governor", "dds.buffers", "limits.priority"}


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Return whether the account is root, which may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@settings(max_examples=60)
@given(
    number=st.integers(0, 999),
    mutilate=st.one_of(
        st.sampled_from([*_KINDS.values(), Path.unlink]),
        # A number may be valid.
        st.binary(max_size=300)
        .filter(lambda content: not content.strip().isdigit())
        .map(lambda content: lambda place: place.write_bytes(content)),
        st.text(max_size=300)
        .filter(lambda text: not text.strip().isdigit())
        .map(lambda text: lambda place: place.write_text(text)),
    ),
)
def test_check_with_mutilated_file_never_hides_a_fault(
    pair: tuple[Root, Root], number: int, mutilate: Callable[[Path], object]
) -> None:
    root = pair[1]
    faulty = {finding.check for finding in root.diagnose().problems}
    place = _file(root, number)

    with _mutilated(place, mutilate):
        diagnosis = root.diagnose()

    now = {finding.check: finding.verdict.severity for finding in diagnosis.findings}
    # A zone that fails may belong to a suspended device: the others are used.
    cured = {"cpu.temperature"} if "thermal_zone" in str(place) else set()
    assert {check for check in faulty - cured if now.get(check) is Severity.OK} == set()
    as_json(diagnosis)
    script = fix_script(diagnosis)
    assert all(line.isprintable() for line in script.splitlines())


def test_huge_numbers_do_not_fail_any_check(pair: tuple[Root, Root]) -> None:
    root = pair[0]
    always = {check.id for check in CHECKS if not check.id.startswith(_OF_SOME_MACHINES)}
    for place in [path for path in root.root.rglob("*") if path.is_file() and not path.is_symlink()]:
        for digits in (400, 5000):
            numbers = re.sub("[0-9]+", "9" * digits, place.read_text())
            with _mutilated(place, lambda place, text=numbers: place.write_text(text)):
                diagnosis = root.diagnose()
            assert {finding.check for finding in diagnosis.findings} >= always


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\u2028", "; ", "' ", "`", "$("])
def test_fix_script_with_hostile_file_contents_has_no_extra_command(separator: str, tmp_path: Path) -> None:
    command = f"{separator}touch ran{separator}"
    root = roots.meteor_lake(tmp_path / "root")
    root.facts["account"] = {"name": "a'; touch ran; `touch ran` $(touch ran)", "uid": 1, "groups": []}
    root.write({"proc/cpuinfo": f"model name : a{command}"})
    root.zone(0, f"hot{command}", 106000, {"critical": 105000})
    script = "sudo() { :; }\n" + fix_script(root.diagnose())

    subprocess.run(["sh"], input=script, text=True, capture_output=True, timeout=20, check=True, cwd=tmp_path)

    assert script.count("touch ran") > 3
    assert not (tmp_path / "ran").exists()
