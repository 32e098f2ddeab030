"""Each injected fault gives its finding and remedy and no other; then many faults at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jepa_runtime.backends.registry import packages
from jepa_runtime.doctor import Diagnosis, Requirements, Severity
from jepa_runtime.doctor.finding import Verdict
from tests.runtime.doctor import roots
from tests.runtime.doctor.faults import JETSON, NPU_LAPTOP, Fault

_MACHINES = {"orin_nano": (roots.orin_nano, JETSON), "meteor_lake": (roots.meteor_lake, NPU_LAPTOP)}
_CASES = [(machine, fault) for machine, (_, faults) in _MACHINES.items() for fault in faults]


def _severities(diagnosis: Diagnosis) -> dict[str, Severity]:
    return {finding.check: finding.verdict.severity for finding in diagnosis.findings}


@pytest.mark.parametrize(
    ("machine", "fault"), _CASES, ids=[f"{name}: {fault.name}" for name, fault in _CASES]
)
def test_single_fault_changes_only_its_findings(machine: str, fault: Fault, tmp_path: Path) -> None:
    build = _MACHINES[machine][0]
    healthy = _severities(build(tmp_path / "healthy").diagnose())
    faulty = build(tmp_path / "faulty")
    fault.plant(faulty)

    diagnosis = faulty.diagnose()
    now = _severities(diagnosis)

    assert {finding.check for finding in diagnosis.problems} == {fault.check} | fault.also
    assert now[fault.check].name.lower() == fault.severity
    verdict = next(finding.verdict for finding in diagnosis.problems if finding.check == fault.check)
    assert fault.remedy in "\n".join(verdict.remedy)
    assert verdict.evidence and all(seen.source and seen.value for seen in verdict.evidence)
    changed = {check for check in now if now[check] != healthy[check]}
    assert changed == {fault.check} | fault.also | fault.hides
    assert all(now[check] is Severity.UNKNOWN for check in fault.hides)


@pytest.mark.parametrize("machine", _MACHINES)
def test_all_faults_at_once_are_each_reported_or_hidden_by_another(machine: str, tmp_path: Path) -> None:
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


def _needs(*targets: str, size: int = 1_000_000) -> Requirements:
    return Requirements(name="toy 1.0.0", targets=frozenset(targets), bytes=size, graph_bytes=size)


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
def test_bundle_without_a_variant_for_the_machine_is_reported(
    machine: str, targets: tuple[str, ...], severity: Severity, tmp_path: Path
) -> None:
    diagnosis = _MACHINES[machine][0](tmp_path / "root").diagnose(_needs(*targets))

    assert _severities(diagnosis)["bundle.target"] is severity
    assert ("engine.tensorrt" in _severities(diagnosis)) == ("tensorrt" in targets and machine == "orin_nano")


def test_bundle_with_onnx_on_a_jetson_is_a_warning(tmp_path: Path) -> None:
    diagnosis = roots.orin_nano(tmp_path / "root").diagnose(_needs("onnx", "openvino"))

    (finding,) = [finding for finding in diagnosis.problems if finding.check == "bundle.target"]
    assert finding.verdict.severity is Severity.WARNING
    assert "the GPU will run its ONNX variant in fp32" in finding.verdict.summary
    assert "--target tensorrt" in finding.verdict.remedy[0]


def test_bundle_for_an_engine_of_another_package_suits_the_machine_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(Path(__file__).parents[1] / "backends" / "toy_engine" / "toy_engine.py", site)
    installed = {
        "METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
        "entry_points.txt": "[jepa_runtime.backends]\ntoy = toy_engine:ENGINE\n",
    }
    (site / "toy-1.0.dist-info").mkdir()
    for name, text in installed.items():
        (site / "toy-1.0.dist-info" / name).write_text(text)
    monkeypatch.syspath_prepend(site)
    root = roots.desktop(tmp_path / "root")

    def finding(*targets: str) -> Verdict:
        found = root.diagnose(_needs(*targets)).findings
        return next(each.verdict for each in found if each.check == "bundle.target")

    assert finding("toy").severity is Severity.ERROR
    root.write({f"{roots.PYTHON}/toy-1.0.dist-info/{name}": text for name, text in installed.items()})
    assert finding("toy").severity is Severity.OK
    assert "(openvino or onnx or toy)" in finding("npu").summary


def test_bundle_too_large_for_memory_and_disk_is_reported(tmp_path: Path) -> None:
    diagnosis = roots.orin_nano(tmp_path / "root").diagnose(_needs("tensorrt", size=9_000_000_000))

    assert {finding.check for finding in diagnosis.problems} == {"memory.bundle", "disk.state", "disk.cache"}


def test_limits_with_capabilities_are_ok(tmp_path: Path) -> None:
    root = roots.orin_nano(tmp_path / "root")
    for fault in JETSON:
        if fault.check.startswith("limits."):
            fault.plant(root)
    root.write({"proc/self/status": "CapEff:\t000001ffffffffff"})

    assert root.diagnose().problems == ()


def test_memlock_with_a_finite_limit_is_a_warning(tmp_path: Path) -> None:
    root = roots.orin_nano(tmp_path / "root")
    limits = (root.root / "proc/self/limits").read_text()
    root.write({"proc/self/limits": limits.replace("memory         unlimited", "memory         1073741824")})

    assert [finding.check for finding in root.diagnose().problems] == ["limits.memlock"]


@pytest.mark.parametrize(
    ("option", "reported"),
    [
        ("size=64m", False),
        ("size=65535k", True),
        ("size=1%", True),
        ("size=50%", False),
        ("size=4096", True),
    ],
)
def test_shared_memory_size_is_read_in_every_unit(option: str, reported: bool, tmp_path: Path) -> None:
    root = roots.desktop(tmp_path / "root")
    root.write({"proc/mounts": f"tmpfs /dev/shm tmpfs rw,{option} 0 0"})
    root.write({"proc/meminfo": "MemTotal:        5802668 kB\nMemAvailable:    5200000 kB"})

    assert [finding.check for finding in root.diagnose().problems] == ["dds.shared_memory"] * reported


@pytest.mark.parametrize(
    ("machine", "path", "content", "check"),
    [
        ("orin_nano", "etc/nvpmodel.conf", "< POWER_MODEL >", "jetson.power_mode"),
        ("orin_nano", "var/lib/nvpmodel/status", "pmode:0009", "jetson.power_mode"),
        ("orin_nano", f"{roots.GPU}/max_freq", "0", "jetson.gpu_clock"),
        (
            "orin_nano",
            f"{roots.PYTHON}/tensorrt-10.3.0.dist-info/METADATA",
            "Version: new",
            "engine.tensorrt",
        ),
        ("orin_nano", "sys/class/hwmon/hwmon5/oc3_event_cnt", "some", "cpu.throttling"),
        ("meteor_lake", roots.DPKG, "Package: a\n\nVersion: 1", "npu.libraries"),
        ("meteor_lake", "sys/devices/system/cpu/cpu1/cpufreq/scaling_min_freq", "-1", "cpu.governor"),
        ("meteor_lake", "sys/devices/system/cpu/isolated", "all", "cpu.isolation"),
        ("meteor_lake", "proc/uptime", "long", "cpu.throttling"),
        ("meteor_lake", "proc/meminfo", "MemTotal: much", "dds.shared_memory"),
        ("meteor_lake", "proc/mounts", "tmpfs /dev/shm", "dds.shared_memory"),
        ("meteor_lake", "proc/mounts", "tmpfs /dev/shm tmpfs size=lots 0 0", "dds.shared_memory"),
        ("meteor_lake", "proc/self/limits", "Limit", "limits.memlock"),
        ("meteor_lake", "proc/swaps", "Filename", "memory.swap"),
    ],
)
def test_malformed_file_is_unknown(machine: str, path: str, content: str, check: str, tmp_path: Path) -> None:
    root = _MACHINES[machine][0](tmp_path / "root")
    root.write({path: content})

    diagnosis = root.diagnose()

    assert _severities(diagnosis)[check] is Severity.UNKNOWN
    assert diagnosis.problems == ()


def test_values_better_than_required_are_ok(tmp_path: Path) -> None:
    root = roots.desktop(tmp_path / "root")
    root.write({"proc/sys/net/core/rmem_max": 1 << 30, "proc/sys/net/ipv4/ipfrag_time": 1})
    limits = (root.root / "proc/self/limits").read_text()
    root.write({"proc/self/limits": limits.replace("priority     98", "priority     1 ")})

    assert root.diagnose().problems == ()


def test_power_mode_remedy_selects_the_fastest_mode(tmp_path: Path) -> None:
    root = roots.agx_orin(tmp_path / "root")
    root.write({"etc/nvpmodel.conf": roots.nvpmodel({"MAXN": 0, "MODE_30W": 2, "MAXN_SUPER": 4})})

    (finding,) = root.diagnose().problems

    assert finding.check == "jetson.power_mode"
    assert "sudo nvpmodel -m 4" in finding.verdict.remedy


def test_read_only_memory_node_needs_only_group_membership(tmp_path: Path) -> None:
    root = roots.thor(tmp_path / "root")
    root.facts["account"]["groups"].remove("video")
    (finding,) = (finding for finding in root.diagnose().problems if finding.check == "jetson.node")

    assert finding.verdict.remedy == ("sudo usermod -aG video robot", "# then log in again")


def test_minimum_versions_equal_those_of_the_package() -> None:
    project = pytest.importorskip("tomllib", reason="Python 3.11").loads(
        (Path(__file__).parents[3] / "pyproject.toml").read_text()
    )["project"]
    requests = [*project["dependencies"], *project["optional-dependencies"]["jetson"]]

    least = [line.partition(",")[0] for line in requests]
    required = {package.name: package.at_least for package in packages() if package.pip and package.at_least}
    assert {"openvino", "pycuda"} <= required.keys()
    assert {"{}>={}.{}".format(name, *version) for name, version in required.items()} <= set(least)
