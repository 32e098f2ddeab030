"""Power, load, temperature and settings of Jetsons and Intel machines, read from recorded file trees."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from jepa_runtime.telemetry import Monitor
from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.telemetry.power import power_probes, rail_probes
from jepa_runtime.telemetry.probes import Machine
from jepa_runtime.telemetry.sysfs import Files
from jepa_runtime.telemetry.system_settings import settings
from tests.runtime.machines import PID, Clock, agx_orin, by_name, laptop, machine, orin_nano, watch

RAPL = "sys/devices/virtual/powercap/intel-rapl"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_orin_nano_total_power_is_its_input_rail(tmp_path: Path, clock: Clock) -> None:
    with watch(orin_nano(tmp_path), clock) as monitor:
        result = by_name(monitor)
    assert result["VDD_CPU_GPU_CV power"].values[0] == 1.5
    assert result["total power"].values[0] == 5.0
    assert monitor.notes() == ["total power: sum of VDD_IN"]
    assert "sum of shunt voltages power" not in result


def test_agx_orin_total_power_counts_memory_once(tmp_path: Path, clock: Clock) -> None:
    with watch(agx_orin(tmp_path), clock) as monitor:
        result = by_name(monitor)
    assert result["VDDQ_VDD2_1V8AO power"].values[0] == 0.5
    assert result["total power"].values[0] == pytest.approx(6.0 + 1.2 + 4.0)
    assert monitor.notes() == ["total power: sum of VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0"]


def test_rail_total_without_one_value_is_none() -> None:
    result = {probe.name: probe for probe in rail_probes({"VDD_GPU": lambda: 2.0, "VDD_CPU": lambda: None})}
    assert (result["VDD_GPU power"].read(), result["total power"].read()) == (2.0, None)


def test_thor_has_monitors_of_one_and_of_three_rails(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    tree.hwmon(0, "platform/pwm-fan", {"name": "pwmfan"})
    rails = {"name": "ina3221", "label": "U1", "in1_label": "VDD_GPU", "in1_input": 12000, "curr1_input": -33}
    tree.hwmon(1, "platform/i2c-2/2-0040", rails)
    tree.hwmon(2, "platform/i2c-2/2-0044", {"name": "ina238", "label": "VIN", "power1_input": 23_000_000})
    with watch(tree, clock) as monitor:
        result = by_name(monitor)
    assert result["VDD_GPU power"].values[0] == pytest.approx(-0.396)  # as published by its users, idle
    assert result["total power"].values[0] == 23.0
    assert "U1 power" not in result


def test_jetpack_4_power_monitor_is_read_from_iio(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    device = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    tree.write({f"{device}/rail_name_0": "POM_5V_IN", f"{device}/in_power0_input": 2875})
    tree.write({f"{device}/rail_name_1": "POM_5V_GPU", f"{device}/in_power1_input": 80})
    with watch(tree, clock) as monitor:
        assert by_name(monitor)["total power"].values == [2.875]


def test_orin_has_gpu_temperatures_and_supply_events(tmp_path: Path, clock: Clock) -> None:
    tree = orin_nano(tmp_path)
    with watch(tree, clock) as monitor:
        tree.write({"sys/devices/platform/soctherm-oc-event/hwmon/hwmon5/oc3_event_cnt": 40})
    result = by_name(monitor)
    assert result["gpu load"].values[0] == 45.3
    assert result["gpu frequency"].values[0] == 611.25
    assert result["cpu temperature"].values[0] == 47.5
    assert result["tj temperature"].unit == "°C"
    assert result["cpu1 frequency"].values[0] == 1510.4
    assert result["oc3 throttle events"].values == [0, 3]
    assert result["oc1 throttle events"].values == [0, 0]


def test_settings_of_a_jetson_have_board_and_power_mode(tmp_path: Path) -> None:
    orin_nano(tmp_path)
    assert settings(tmp_path) == {
        "governor": "schedutil",
        "power mode": "MAXN_SUPER",
        "preemption": "PREEMPT",
        "swap": "off",
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
    }


def test_settings_power_mode_without_a_name_is_its_number(tmp_path: Path) -> None:
    tree = orin_nano(tmp_path)
    tree.write({"var/lib/nvpmodel/status": "pmode:0007"})
    assert settings(tmp_path)["power mode"] == "mode 7"


def test_monitor_without_load_in_sysfs_uses_tegrastats(tmp_path: Path) -> None:
    tree = machine(tmp_path)
    line = "RAM 1/2MB EMC_FREQ 24%@2133 GR3D_FREQ 45%@[611,0] cpu@47.5C VDD_GPU 2000mW/1mW VIN 9000mW/1mW"
    tool = tmp_path / "usr/bin/tegrastats"
    tree.write({"usr/bin/tegrastats": f"#!/bin/sh\nwhile echo '{line}'; do sleep 0.05; done"})
    tool.chmod(0o755)
    threads = threading.active_count()
    with Monitor(root=tmp_path, pid=PID, period_s=0.05) as monitor:
        time.sleep(0.1)
    result = by_name(monitor)
    assert result["gpu load"].values[0] == 45
    assert result["emc load"].values[0] == 24
    assert result["total power"].values[0] == 9
    assert result["VDD_GPU power"].unit == "W"
    assert threading.active_count() == threads


def test_monitor_with_exited_tegrastats_keeps_absent_reasons(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    tree.write({"usr/bin/tegrastats": "#!/bin/sh\nexit 1"})
    (tmp_path / "usr/bin/tegrastats").chmod(0o755)
    with watch(tree, clock) as monitor:
        assert "no GPU reports load" in str(by_name(monitor)["gpu load"].absent)
        assert "no INA power monitor" in str(by_name(monitor)["total power"].absent)


def test_rapl_energy_is_corrected_for_counter_wrap(tmp_path: Path, clock: Clock) -> None:
    tree = laptop(tmp_path)
    counter, end = f"{RAPL}/intel-rapl:0/energy_uj", 262_143_328_850
    tree.write({counter: end - 3_000_000})
    with watch(tree, clock) as monitor:
        for value in (end - 1_000_000, 4_000_000, 10_000_000):
            clock.now += 1
            tree.write({counter: value})
            monitor.sample()
    result = by_name(monitor)
    assert result["total energy"].values == [0, 2, 7, 13, 13]
    assert result["package-0 power"].values == [2, 5, 6]
    assert result["package-0 core power"].values == [0, 0, 0]
    assert "total energy: sum of package-0 (RAPL)" in monitor.notes()


def test_rapl_total_includes_memory_of_servers(tmp_path: Path, clock: Clock) -> None:
    tree = laptop(tmp_path)
    tree.write({f"{RAPL}/intel-rapl:0/intel-rapl:0:0/name": "dram"})
    with watch(tree, clock) as monitor:
        tree.write({f"{RAPL}/intel-rapl:0/energy_uj": 3_000_000})
        tree.write({f"{RAPL}/intel-rapl:0/intel-rapl:0:0/energy_uj": 1_500_000})
        tree.write({f"{RAPL}/intel-rapl:1/energy_uj": 9_000_000})
    assert by_name(monitor)["total energy"].values == [0, 2.5]


def test_rapl_without_package_zone_has_no_total(tmp_path: Path, clock: Clock) -> None:
    tree = laptop(tmp_path)
    tree.write({f"{RAPL}/intel-rapl:0/name": "system"})
    with watch(tree, clock) as monitor:
        clock.now += 1
        tree.write({f"{RAPL}/intel-rapl:0/energy_uj": 3_000_000})
    result = by_name(monitor)
    assert result["system power"].values == [2]
    assert result["total energy"].absent == "RAPL has no zone of a whole CPU package on this machine"


class Forbidden(Files):
    """Return counters with the permissions of an ordinary user."""

    def text(self, path: str) -> str:
        if path.endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", f"/{path}")
        return super().text(path)


def test_rapl_without_permission_is_absent_with_the_command_to_run(tmp_path: Path) -> None:
    laptop(tmp_path)
    [reading] = power_probes(Machine(Forbidden(tmp_path), PID, time.monotonic), {})
    assert isinstance(reading, Reading)
    assert reading.name == "total energy"
    assert str(reading.absent).startswith("/sys/class/powercap/intel-rapl:0/energy_uj: Permission denied; ")
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj" in str(reading.absent)


def test_rapl_with_read_error_is_absent_with_the_error(tmp_path: Path, clock: Clock) -> None:
    tree = laptop(tmp_path)
    counter = tmp_path / f"{RAPL}/intel-rapl:0/energy_uj"
    counter.unlink()
    counter.mkdir()
    with watch(tree, clock) as monitor:
        assert str(by_name(monitor)["total energy"].absent).endswith("energy_uj: Is a directory")


def test_laptop_has_npu_gpu_temperature_and_throttling(tmp_path: Path, clock: Clock) -> None:
    tree = laptop(tmp_path)
    npu = "sys/devices/pci0000:00/0000:00:0b.0"
    with watch(tree, clock) as monitor:
        clock.now += 0.5
        monitor.sample()  # too soon for the NPU's counter
        clock.now += 1.5
        tree.write({f"{npu}/npu_busy_time_us": 1_500_000})
        tree.write({"sys/class/drm/card1/gt/gt0/rc6_residency_ms": 6500})
        tree.write({"sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 14})
        for core in range(2):  # the package's one counter, seen from both
            tree.write({f"sys/devices/system/cpu/cpu{core}/thermal_throttle/package_throttle_count": 31})
    result = by_name(monitor)
    assert result["npu busy"].values == [25.0]
    assert result["npu busy"].times_s == [2.0]
    assert result["npu frequency"].values[0] == 1400
    assert result["npu memory"].values[0] == 50
    assert result["gpu awake"].values == [100.0, 0.0]
    assert result["core throttle events"].values == [0, 0, 4]
    assert result["package throttle events"].values == [0, 0, 1]
    assert result["coretemp Package id 0 temperature"].values[0] == 61
    assert "coretemp Core 0 temperature" not in result


def test_intel_xe_gpu_is_awake_unless_idle(tmp_path: Path, clock: Clock) -> None:
    tree, gt = machine(tmp_path), "sys/class/drm/card0/device/tile0/gt0"
    tree.write({f"{gt}/gtidle/idle_residency_ms": 100, f"{gt}/freq0/act_freq": 1200})
    with watch(tree, clock) as monitor:
        clock.now += 2
        tree.write({f"{gt}/gtidle/idle_residency_ms": 1600})
    result = by_name(monitor)
    assert result["gpu awake"].values == [25.0]
    assert result["gpu frequency"].values[0] == 1200


def test_gpu_without_load_has_its_frequency(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    tree.write({"sys/class/devfreq/gpu-gpc-0/cur_freq": 1575000000})  # Thor, JetPack 7
    with watch(tree, clock) as monitor:
        result = by_name(monitor)
    assert result["gpu frequency"].values[0] == 1575
    assert "no file 'load'" in str(result["gpu load"].absent)


def test_gpu_memory_and_power_are_absent_with_the_reason(tmp_path: Path, clock: Clock) -> None:
    with watch(orin_nano(tmp_path / "orin"), clock) as monitor:
        orin = by_name(monitor)
    assert "included in system memory" in str(orin["gpu memory"].absent)
    assert "rails" in str(orin["gpu power"].absent)
    with watch(laptop(tmp_path / "laptop"), clock) as monitor:
        result = by_name(monitor)
    assert (
        "included in RAM and package power" in str(result["gpu memory"].absent) and "gpu load" not in result
    )


def test_nvidia_card_without_nvml_is_absent_and_noted_in_the_total(tmp_path: Path, clock: Clock) -> None:
    tree = laptop(tmp_path)
    tree.write({"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65"})
    with watch(tree, clock) as monitor:
        clock.now += 1
        monitor.sample()
        result = by_name(monitor)
    assert all("NVML" in str(result[f"gpu {what}"].absent) for what in ("load", "memory", "power"))
    assert "total energy: sum of package-0 (RAPL); excludes the NVIDIA GPU" in monitor.notes()


def test_npu_without_an_attribute_is_absent(tmp_path: Path, clock: Clock) -> None:
    with watch(machine(tmp_path / "none"), clock) as monitor:
        assert "no NPU" in str(by_name(monitor)["npu memory"].absent)
    tree = laptop(tmp_path / "laptop")
    (tree.root / "sys/devices/pci0000:00/0000:00:0b.0/npu_memory_utilization").unlink()
    with watch(tree, clock) as monitor:
        result = by_name(monitor)
    assert "npu_memory_utilization" in str(result["npu memory"].absent) and result["npu frequency"].values


def test_npu_with_older_kernel_is_absent_with_the_required_version(tmp_path: Path, clock: Clock) -> None:
    tree = laptop(tmp_path)
    (tmp_path / "sys/devices/pci0000:00/0000:00:0b.0/npu_busy_time_us").unlink()
    with watch(tree, clock) as monitor:
        assert "Linux 6.10" in str(by_name(monitor)["npu busy"].absent)


def test_settings_of_a_laptop_have_what_affects_speed(tmp_path: Path) -> None:
    laptop(tmp_path)
    assert settings(tmp_path) == {
        "governor": "performance, powersave",
        "turbo": "off",
        "smt": "on",
        "preemption": "PREEMPT_RT",
        "swap": "on",
    }


def test_settings_have_the_gpus(tmp_path: Path) -> None:
    tree, information = machine(tmp_path), "proc/driver/nvidia/gpus/0000:01:00.0/information"
    tree.write({information: "Model: \t\t NVIDIA RTX 2000 Ada\nIRQ:   \t\t 97"})
    for card, maker, model in ((0, "0x8086", "0x7d55"), (1, "0x10de", "0x28b8")):
        device = f"sys/class/drm/card{card}/device"
        tree.write({f"{device}/vendor": maker, f"{device}/device": model})
    assert settings(tmp_path)["gpu"] == "NVIDIA RTX 2000 Ada, Intel 0x7d55"


@pytest.mark.parametrize(
    ("path", "content", "name"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("run/systemd/container", "systemd-nspawn", "systemd-nspawn"),
        ("proc/1/cgroup", "0::/kubepods/burstable/pod1", "kubepods"),
    ],
)
def test_settings_have_the_container(tmp_path: Path, path: str, content: str, name: str) -> None:
    machine(tmp_path).write({path: content})
    assert settings(tmp_path)["container"] == name


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (
            "0::/a/b",
            {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"},
            "1.5 cores",
        ),
        (
            "0::/a/b",
            {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"},
            "0.5 cores",
        ),
        # In a container with cgroup version 1 the group's own folder is the root of the mount.
        (
            "5:cpu,cpuacct:/docker/ab12",
            {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
            "1 cores",
        ),
        ("5:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/", {}, None),
    ],
)
def test_settings_have_the_cpu_quota(
    tmp_path: Path, groups: str, files: dict[str, str], expected: str | None
) -> None:
    tree = machine(tmp_path)
    tree.write({"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{path}": text for path, text in files.items()})
    assert settings(tmp_path).get("cpu quota") == expected
