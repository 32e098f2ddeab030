"""The monitor on this machine, and its probes of CPU and process."""

from __future__ import annotations

import math
import mmap
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

from jepa_runtime.errors import ProfileError
from jepa_runtime.telemetry import Monitor
from jepa_runtime.telemetry import environment as environment_module
from jepa_runtime.telemetry.cpu import busy_by_others
from jepa_runtime.telemetry.environment import read_environment
from jepa_runtime.telemetry.measurements import Reading
from jepa_runtime.telemetry.probes import Probe, rate
from jepa_runtime.telemetry.sysfs import parse_cpu_list
from jepa_runtime.telemetry.system_settings import settings
from tests.errors import code
from tests.runtime.machines import NEVER, PID, Clock, by_name, machine, watch


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def busy_child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield child
    child.kill()
    child.wait()


def test_monitor_of_a_looping_child_is_busy(busy_child: subprocess.Popen[bytes]) -> None:
    with Monitor(pid=busy_child.pid, period_s=0.1) as monitor:
        time.sleep(1.0)
    result = by_name(monitor)
    # Other processes may use the core; a sample is of ten ticks and may be one or two off.
    assert max(result["process busy"].values) > 0.2 and mean(result["process busy"].values) <= 1.1
    assert max(result["cpu busy"].values) > 10
    assert result["rss"].values[-1] > 1


def test_monitor_of_a_sleeping_child_is_idle() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(0.5)  # it has started
        with Monitor(pid=child.pid, period_s=0.1) as monitor:
            time.sleep(0.5)
        assert sum(by_name(monitor)["process busy"].values) < 0.2
    finally:
        child.kill()
        child.wait()


def test_monitor_of_this_process_has_memory_faults_and_descriptors(tmp_path: Path) -> None:
    with Monitor(period_s=NEVER) as monitor:
        # Much more than the system may reclaim from a large process meanwhile, and newly allocated.
        mapping = mmap.mmap(-1, 256 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping[:: os.sysconf("SC_PAGE_SIZE")] = b"1" * len(
            range(0, len(mapping), os.sysconf("SC_PAGE_SIZE"))
        )
        files = [(tmp_path / str(number)).open("w") for number in range(5)]
        monitor.sample()
        for file in files:
            file.close()
    result = by_name(monitor)
    assert result["rss"].values[1] - result["rss"].values[0] > 150
    assert result["peak rss"].values[-1] >= result["rss"].values[1]
    assert result["minor faults"].values[:2] == [0, pytest.approx(65536, rel=0.5)]
    assert result["descriptors"].values[1] - result["descriptors"].values[0] == 5


def test_switches_count_all_threads_including_exited_ones() -> None:
    with Monitor(period_s=NEVER) as monitor:
        thread = threading.Thread(target=lambda: [time.sleep(0.001) for _ in range(50)])
        thread.start()
        time.sleep(0.03)
        monitor.sample()
        thread.join()
    values = by_name(monitor)["voluntary switches"].values
    assert values[0] == 0
    assert values[1] > 5
    assert values[2] >= values[1]


def test_monitor_closes_its_descriptors_and_threads() -> None:
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = count()
    for _ in range(3):
        with Monitor(period_s=0.01):
            time.sleep(0.05)
    assert count() == before


def test_monitor_samples_once_per_period() -> None:
    with Monitor(period_s=0.05) as monitor:
        time.sleep(0.5)
    times = by_name(monitor)["rss"].times_s
    assert 5 <= len(times) <= 12
    assert times == sorted(times)


def test_monitor_sample_takes_little_cpu_time() -> None:
    with Monitor(period_s=NEVER) as monitor:
        start = time.thread_time()
        for _ in range(50):
            monitor.sample()
        assert (time.thread_time() - start) / 50 < 0.01  # about 1 ms; 2 samples a second


def test_monitor_readings_have_values_or_a_reason() -> None:
    with Monitor(period_s=0.05) as monitor:
        time.sleep(0.12)
    names = [reading.name for reading in monitor.readings()]
    assert len(names) == len(set(names))
    for reading in monitor.readings():
        assert bool(reading.values) != bool(reading.absent)
        assert len(reading.values) == len(reading.times_s)


@pytest.mark.parametrize(
    ("cpuinfo", "named"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 25, model 17)"),
        ("processor\t: 0\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5"),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nModel\t\t: Raspberry Pi 4\n",
            "Raspberry Pi 4 (implementer 0x41, part 0xd08)",
        ),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd42\n" * 2, "aarch64 (implementer 0x41, part 0xd42)"),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd05\n\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
            "aarch64 (implementer 0x41, part 0xd05, 0xd0b)",
        ),
        ("", "aarch64"),
    ],
)
def test_environment_distinguishes_cpus_of_the_same_name(
    cpuinfo: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(environment_module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert read_environment().cpu == named


def test_environment_has_cpu_versions_and_settings() -> None:
    result = read_environment()
    assert result.cores == len(os.sched_getaffinity(0))
    assert result.cpu
    assert result.versions["python"]
    assert result.settings == settings()


def test_environment_has_engine_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_module, "version", lambda package: f"1.0 of {package}")
    engines = {"openvino", "onnxruntime", "tensorrt"}
    assert engines <= read_environment().versions.keys()


def test_monitor_times_are_relative_to_the_start(clock: Clock) -> None:
    probe = Probe("answer", "count", lambda: 42.0)
    with Monitor(probes=[probe], clock=clock, period_s=NEVER) as monitor:
        clock.now += 1.5
        monitor.sample()
        clock.now += 0.5
    [reading] = monitor.readings()
    assert reading.times_s == [0.0, 1.5, 2.0]
    assert reading.values == [42.0] * 3


def test_readings_since_a_time_are_relative_to_it(clock: Clock) -> None:
    probe = Probe("answer", "count", lambda: 42.0)
    with Monitor(probes=[probe], clock=clock, period_s=NEVER) as monitor:
        clock.now += 0.3
        began_s = clock.now
        clock.now += 1.0
    assert [reading.times_s for reading in monitor.readings(since_s=began_s)] == [[-0.3, 1.0]]
    assert [reading.times_s for reading in monitor.readings()] == [[0.0, 1.3]]


def test_monitor_failing_probe_keeps_values_and_is_noted(clock: Clock) -> None:
    answers = iter([1.0, 2.0])

    def read() -> float:
        try:
            return next(answers)
        except StopIteration:
            raise OSError(2, "No such file or directory", "/sys/gone") from None

    with Monitor(probes=[Probe("sensor", "W", read)], clock=clock, period_s=NEVER) as monitor:
        monitor.sample()
        monitor.sample()
    [reading] = monitor.readings()
    assert reading.values == [1.0, 2.0]
    [note] = monitor.notes()
    assert note.startswith("sensor: 2 samples are missing")
    assert "/sys/gone: No such file or directory" in note


def test_monitor_probe_without_values_is_absent_with_its_error(clock: Clock) -> None:
    def read() -> float:
        raise OSError(11, "Resource temporarily unavailable", "/sys/temp")

    with Monitor(probes=[Probe("sensor", "W", read)], clock=clock, period_s=NEVER) as monitor:
        pass
    assert by_name(monitor)["sensor"].absent == "/sys/temp: Resource temporarily unavailable"
    assert monitor.notes() == []


def test_monitor_value_not_finite_is_a_missing_sample(clock: Clock) -> None:
    answers = iter([math.nan, 1.0, math.inf])
    with Monitor(
        probes=[Probe("sensor", "W", lambda: next(answers))], clock=clock, period_s=NEVER
    ) as monitor:
        monitor.sample()
    assert by_name(monitor)["sensor"].values == [1.0]
    assert monitor.notes() == ["sensor: 2 samples are missing; last error: the value is inf"]


def test_monitor_sensors_of_the_same_name_are_numbered(clock: Clock) -> None:
    twins = [Probe("acpitz temperature", "°C", lambda value=value: value) for value in (1.0, 2.0)]
    with Monitor(probes=twins, clock=clock, period_s=NEVER) as monitor:
        pass
    assert [reading.name for reading in monitor.readings()] == ["acpitz temperature", "acpitz temperature 2"]


def test_monitor_of_an_exited_process_keeps_its_values(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    with watch(tree, clock) as monitor:
        for file in ("stat", "status"):
            (tmp_path / f"proc/{PID}/{file}").unlink()
        clock.now += 1
    result = by_name(monitor)
    assert result["rss"].values == [256.0]
    assert any(note.startswith("rss: 1 samples are missing") for note in monitor.notes())
    assert result["memory available"].values == [5120.0] * 2


def test_monitor_of_a_missing_process_is_an_error(tmp_path: Path) -> None:
    machine(tmp_path)
    with (
        pytest.raises(ProfileError, check=code("profile.process_not_found")),
        Monitor(root=tmp_path, pid=1),
    ):
        pass


@pytest.mark.parametrize("period_s", [0.0, -1.0, math.nan])
def test_monitor_period_not_positive_is_an_error(period_s: float) -> None:
    with pytest.raises(ProfileError, check=code("profile.invalid_period")):
        Monitor(period_s=period_s)


def test_rate_of_a_reset_counter_is_none() -> None:
    clock = Clock()
    values = iter([10.0, 20.0, 3.0, 8.0])

    def counter() -> float:
        return next(values)

    read = rate(counter, clock)
    messages = []
    for _ in range(4):
        messages.append(read())
        clock.now += 2
    assert messages == [None, 5.0, None, 2.5]


def test_busy_is_the_percentage_since_the_last_sample(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    with watch(tree, clock) as monitor:
        tree.tick(busy=130, idle=170)
        monitor.sample()
    result = by_name(monitor)
    assert result["cpu busy"].values == [30.0]
    assert result["cpu1 busy"].values == [30.0]
    assert result["cpu stolen"].values == [0.0]


def test_monitor_has_only_the_allowed_cores(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    tree.process(allowed="1")
    with watch(tree, clock) as monitor:
        assert "cpu1 busy" in by_name(monitor)
        assert "cpu0 busy" not in by_name(monitor)


def test_monitor_core_going_offline_is_noted(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    with watch(tree, clock) as monitor:
        tree.tick(busy=110, idle=190)
        monitor.sample()
        tree.tick(busy=120, idle=280, cores=1)
    assert by_name(monitor)["cpu1 busy"].values == [10.0]
    assert any("cpu1: the core is offline" in note for note in monitor.notes())


def test_process_busy_is_its_ticks_over_time(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    with watch(tree, clock) as monitor:
        clock.now += 2
        tree.process(user=100 + 2 * ticks, system=50 + ticks, faults=1600, switches=(40, 7))
        monitor.sample()
    result = by_name(monitor)
    assert result["process busy"].values == [1.5]
    assert result["minor faults"].values == [0, 600, 600]
    assert result["voluntary switches"].values == [0, 60, 60]  # of two threads
    assert result["involuntary switches"].values == [0, 4, 4]
    assert result["threads"].values == [2, 2, 2]
    assert result["descriptors"].values == [2, 2, 2]


def test_percentage_over_a_few_ticks_is_none(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    with watch(tree, clock) as monitor:
        clock.now += 2
        tree.process(user=100 + ticks, system=50)
        tree.tick(busy=130, idle=170)
        monitor.sample()
        clock.now += 0.01
        tree.process(user=101 + ticks, system=50)
        tree.tick(busy=131, idle=171)
    result = by_name(monitor)
    assert result["process busy"].values == [0.5]
    assert result["cpu0 busy"].values == [30.0]


def test_cpu_frequency_in_a_virtual_machine_is_absent(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    tree.write({"proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2300.0\nflags\t\t: fpu hypervisor sse"})
    with watch(tree, clock) as monitor:
        assert "hypervisor hides the clock" in str(by_name(monitor)["cpu frequency"].absent)
    assert settings(tmp_path)["virtual machine"] == "yes"


def test_cpu_frequency_without_cpufreq_is_read_from_cpuinfo(tmp_path: Path, clock: Clock) -> None:
    tree = machine(tmp_path)
    blocks = [f"processor\t: {core}\ncpu MHz\t\t: {1000.5 + core}\nflags\t\t: fpu" for core in (0, 1)]
    tree.write({"proc/cpuinfo": "\n\n".join(blocks)})
    with watch(tree, clock) as monitor:
        assert by_name(monitor)["cpu1 frequency"].values == [1001.5]


@pytest.mark.parametrize(("text", "expected"), [("", []), ("5", [5]), ("0-2,6", [0, 1, 2, 6])])
def test_parse_cpu_list(text: str, expected: list[int]) -> None:
    assert parse_cpu_list(text) == expected


def test_cores_used_by_others_exclude_those_of_this_process() -> None:
    readings = [
        Reading(name="cpu busy", unit="%", times_s=[0.0], values=[99.0]),
        Reading(name="cpu2 busy", unit="%", times_s=[0.0, 1.0], values=[40.0, 60.0]),
        Reading(name="cpu13 busy", unit="%", times_s=[0.0], values=[100.0]),
        Reading(name="process busy", unit="cores", times_s=[0.0, 1.0], values=[0.5, 0.7]),
    ]
    assert busy_by_others(readings) == pytest.approx(0.9)
    own = Reading(name="process busy", unit="cores", times_s=[0.0], values=[1.9])
    assert busy_by_others([*readings[:3], own]) == 0.0
    assert busy_by_others(readings[:3]) is None
    assert busy_by_others([readings[0], readings[3]]) is None
    absent = Reading(name="process busy", unit="cores", absent="too few samples")
    assert busy_by_others([*readings[:3], absent]) is None
