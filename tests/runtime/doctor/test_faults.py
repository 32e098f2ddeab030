"""Each fault, planted alone: that finding, with its remedy, and no other. Then many at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_runtime.doctor import Diagnosis, Needs, Severity
from tests.runtime.doctor import roots
from tests.runtime.doctor.faults import JETSON, NPU_LAPTOP, Fault

_MACHINES = {"orin_nano": (roots.orin_nano, JETSON), "meteor_lake": (roots.meteor_lake, NPU_LAPTOP)}
_CASES = [(machine, fault) for machine, (_, faults) in _MACHINES.items() for fault in faults]


def _severities(diagnosis: Diagnosis) -> dict[str, Severity]:
    return {finding.check: finding.verdict.severity for finding in diagnosis.findings}


@pytest.mark.parametrize(
    ("machine", "fault"), _CASES, ids=[f"{name}: {fault.name}" for name, fault in _CASES]
)
def test_a_fault_alone_gives_its_finding_and_no_other(machine: str, fault: Fault, tmp_path: Path) -> None:
    build = _MACHINES[machine][0]
    healthy = _severities(build(tmp_path / "healthy").diagnose())
    faulty = build(tmp_path / "faulty")
    fault.plant(faulty)

    diagnosis = faulty.diagnose()
    now = _severities(diagnosis)

    assert {finding.check for finding in diagnosis.wrong} == {fault.check} | fault.also
    assert now[fault.check].name.lower() == fault.severity
    verdict = next(finding.verdict for finding in diagnosis.wrong if finding.check == fault.check)
    assert fault.remedy in "\n".join(verdict.remedy)
    assert verdict.evidence and all(seen.source and seen.value for seen in verdict.evidence)
    changed = {check for check in now if now[check] != healthy[check]}
    assert changed == {fault.check} | fault.also | fault.hides
    assert all(now[check] is Severity.UNKNOWN for check in fault.hides)


@pytest.mark.parametrize("machine", _MACHINES)
def test_of_all_faults_at_once_each_is_told_or_what_hides_it(machine: str, tmp_path: Path) -> None:
    build, faults = _MACHINES[machine]
    hidden = frozenset().union(*(fault.hides for fault in faults))
    root = build(tmp_path / "root")
    for check in sorted({fault.check for fault in faults} - hidden):
        next(fault for fault in faults if fault.check == check).plant(root)

    diagnosis = root.diagnose()
    now = _severities(diagnosis)

    assert list(now.values()) == sorted(now.values())
    for fault in faults:
        allowed = {Severity.UNKNOWN} if fault.check in hidden else {Severity.ERROR, Severity.WARNING}
        assert now[fault.check] in allowed, fault.check


def _needs(*targets: str, size: int = 1_000_000) -> Needs:
    return Needs(name="toy 1.0.0", targets=frozenset(targets), bytes=size, graph_bytes=size)


@pytest.mark.parametrize(
    ("machine", "targets", "severity"),
    [
        ("orin_nano", ("tensorrt", "openvino"), Severity.OK),
        ("orin_nano", ("openvino",), Severity.WARNING),
        ("orin_nano", ("npu",), Severity.ERROR),
        ("meteor_lake", ("npu",), Severity.OK),
        ("meteor_lake", ("openvino",), Severity.OK),
        ("meteor_lake", ("tensorrt",), Severity.ERROR),
    ],
)
def test_a_bundle_has_a_form_for_the_machine_or_it_is_told(
    machine: str, targets: tuple[str, ...], severity: Severity, tmp_path: Path
) -> None:
    diagnosis = _MACHINES[machine][0](tmp_path / "root").diagnose(_needs(*targets))

    assert _severities(diagnosis)["bundle.target"] is severity
    assert ("engine.tensorrt" in _severities(diagnosis)) == ("tensorrt" in targets and machine == "orin_nano")


def test_a_bundle_that_does_not_fit_into_memory_or_onto_the_disk_is_told(tmp_path: Path) -> None:
    diagnosis = roots.orin_nano(tmp_path / "root").diagnose(_needs("tensorrt", size=9_000_000_000))

    assert {finding.check for finding in diagnosis.wrong} == {"memory.bundle", "disk.state", "disk.cache"}


def test_a_capability_is_above_its_limit(tmp_path: Path) -> None:
    root = roots.orin_nano(tmp_path / "root")
    for fault in JETSON:
        if fault.check.startswith("limits."):
            fault.plant(root)
    root.write({"proc/self/status": "CapEff:\t000001ffffffffff"})

    assert root.diagnose().wrong == ()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("size=128m", False),
        ("size=131071k", True),
        ("size=1%", True),
        ("size=50%", False),
        ("size=4096", True),
    ],
)
def test_the_size_of_shared_memory_is_read_in_every_unit(option: str, told: bool, tmp_path: Path) -> None:
    root = roots.desktop(tmp_path / "root")
    root.write({"proc/mounts": f"tmpfs /dev/shm tmpfs rw,{option} 0 0"})

    assert [finding.check for finding in root.diagnose().wrong] == ["dds.shared_memory"] * told
