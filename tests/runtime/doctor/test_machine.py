"""Detection of machines, and examination of healthy ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_runtime.doctor import Severity
from jepa_runtime.doctor.finding import Verdict
from jepa_runtime.doctor.machine import NPUS
from tests.runtime.doctor import roots
from tests.runtime.doctor.roots import HEALTHY, NPU, Root

Builder = Callable[[Path], Root]


@pytest.mark.parametrize("build", HEALTHY)
def test_examine_healthy_machine_finds_no_problem(build: Builder, tmp_path: Path) -> None:
    diagnosis = build(tmp_path / "root").diagnose()

    assert diagnosis.problems == ()
    assert sum(finding.verdict.severity is Severity.OK for finding in diagnosis.findings) >= 8


@pytest.mark.parametrize(
    ("build", "kind", "parts"),
    [
        (roots.orin_nano, "jetson", ("Orin Nano", "Orin Nano 8GB", "L4T 36.4.3", "JetPack 6.2+b77")),
        (roots.agx_orin, "jetson", ("AGX Orin Developer Kit", "AGX Orin 64GB", "L4T 36.4.3")),
        (roots.thor, "jetson", ("Thor Developer Kit", "Thor T5000", "L4T 38.2.0")),
        (roots.meteor_lake, "intel_npu", ("155H", "NPU 3720 (Meteor Lake)")),
        (roots.lunar_lake, "intel_npu", ("258V", "NPU 4000 (Lunar Lake)")),
        (roots.desktop, "plain", ("Ryzen 7 7700X",)),
        (roots.raspberry_pi, "plain", ("Raspberry Pi 5 Model B",)),
    ],
)
def test_detect_machine_has_its_name(
    build: Builder, kind: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    machine = build(tmp_path / "root").diagnose().machine

    assert machine.kind == kind
    assert all(part in machine.name for part in parts), machine.name
    assert not machine.uncertainty


@pytest.mark.parametrize(("device", "npu"), NPUS.items())
def test_npu_firmware_is_that_of_its_generation(device: str, npu: object, tmp_path: Path) -> None:
    root = roots.meteor_lake(tmp_path / "root")
    root.write({f"{NPU}/device": device})

    diagnosis = root.diagnose()

    assert diagnosis.machine.npu == npu
    assert ("npu.firmware" in {finding.check for finding in diagnosis.problems}) == (
        diagnosis.machine.npu is not None and diagnosis.machine.npu.firmware != "37xx"
    )


@pytest.mark.parametrize(
    ("device", "kernel", "needed"),
    [
        ("0x643e", "6.8.0-90-generic", None),
        ("0xb03e", "6.8.0-90-generic", "6.12"),
        ("0xb03e", "6.12.41+deb13-amd64", None),
        ("0xfd3e", "6.14.0-37-generic", "6.17"),
    ],
)
@pytest.mark.parametrize("driven", [False, True])
def test_npu_kernel_too_old_is_an_error_unless_the_driver_is_backported(
    device: str, kernel: str, needed: str | None, driven: bool, tmp_path: Path
) -> None:
    root = roots.meteor_lake(tmp_path / "root")
    root.write({f"{NPU}/device": device})
    root.facts["kernel"] = kernel
    if not driven:
        (root.root / NPU / "driver").unlink()
    wrong = {finding.check: finding.verdict for finding in root.diagnose().problems}

    if needed is None or driven:
        assert "npu.kernel" not in wrong
    else:
        assert f"Linux {needed} or later" in wrong["npu.kernel"].summary
        assert "sudo apt-get install linux-generic-hwe-24.04" in wrong["npu.kernel"].remedy
        assert "npu.module" not in wrong


def test_detect_npu_of_another_vendor_is_a_plain_machine(tmp_path: Path) -> None:
    root = roots.meteor_lake(tmp_path / "root")
    root.write({f"{NPU}/vendor": "0x1022"})

    assert root.diagnose().machine.kind == "plain"


def test_examine_mounted_disk_reports_missing_facts_as_unknown(tmp_path: Path) -> None:
    root = roots.orin_nano(tmp_path / "root")
    root.facts = {"schema": 1}
    for folder in ("proc", "sys", "run"):
        shutil.rmtree(root.root / folder)

    diagnosis = root.diagnose()
    unknown = {
        finding.check for finding in diagnosis.findings if finding.verdict.severity is Severity.UNKNOWN
    }

    assert diagnosis.machine.kind == "jetson"
    assert [finding.check for finding in diagnosis.problems] == []
    assert unknown >= {"jetson.driver", "jetson.node", "camera.node", "clock.synchronized", "disk.state"}


def test_detect_container_on_a_jetson_is_a_jetson(tmp_path: Path) -> None:
    """Docker hides /sys/firmware, where /proc/device-tree leads."""
    root = roots.orin_nano(tmp_path / "root")
    for hidden in ("proc/device-tree", "etc/nv_tegra_release"):
        path = root.root / hidden
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert root.diagnose().machine.kind == "plain"

    root.write({"sys/devices/soc0/family": "Tegra", "sys/devices/soc0/machine": "NVIDIA Jetson Orin Nano"})

    machine = root.diagnose().machine
    assert machine.kind == "jetson" and machine.name.startswith("NVIDIA Jetson Orin Nano")
    root.write({"sys/devices/soc0/family": "Samsung Exynos"})
    assert root.diagnose().machine.kind == "plain"


def test_detect_pc_with_a_jetson_build_environment_is_not_a_jetson(tmp_path: Path) -> None:
    root = roots.desktop(tmp_path / "root")
    root.write({"etc/nv_tegra_release": "# R36 (release), REVISION: 3.0"})

    assert root.diagnose().machine.kind == "plain"


@pytest.mark.parametrize("build", [roots.meteor_lake, roots.desktop])
def test_cpu_without_vnni_is_reported_as_info(build: Builder, tmp_path: Path) -> None:
    def verdict(root: Root) -> Verdict:
        return next(each.verdict for each in root.diagnose().findings if each.check == "cpu.int8")

    root = build(tmp_path / "root")
    assert verdict(root).severity is Severity.OK
    cpuinfo = root.root / "proc/cpuinfo"
    text = cpuinfo.read_text()
    cpuinfo.write_text(text.replace("avx_vnni", "avx2").replace("avx512_vnni", "avx2 avx512_bitalg"))
    result = verdict(root)
    assert result.severity is Severity.INFO and "no VNNI" in result.summary
    assert [(seen.source, seen.value) for seen in result.evidence] == [
        ("/proc/cpuinfo", "flags: none of avx512_vnni, avx_vnni")
    ]
    cpuinfo.write_text("processor\t: 0\n")
    assert verdict(root).severity is Severity.UNKNOWN


def test_vnni_check_does_not_apply_on_arm(tmp_path: Path) -> None:
    findings = roots.raspberry_pi(tmp_path / "root").diagnose().findings
    assert "cpu.int8" not in [finding.check for finding in findings]
