"""Trees of proc and sys of other machines, with the links of sysfs, for tests of their readers.

Layouts: the kernel's documentation (hwmon/ina3221, powercap, ivpu), NVIDIA's Jetson Linux developer guide,
and listings that users of such machines have published.
"""

from __future__ import annotations

from pathlib import Path

from jepa_runtime.telemetry import Monitor
from jepa_runtime.telemetry.measurements import Reading

PID = 4711
NEVER = 3600.0  # a period so long that only the test samples


class Clock:
    """A clock that advances on request."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watch(tree: Tree, clock: Clock) -> Monitor:
    """A monitor of the process of a tree that samples at its opening, on request, and at its close."""
    return Monitor(root=tree.root, pid=PID, clock=clock, period_s=NEVER)


def by_name(monitor: Monitor) -> dict[str, Reading]:
    """Return the readings so far."""
    return {reading.name: reading for reading in monitor.readings()}


_STATUS = """Name:\tjepa
Umask:\t0022
State:\tR (running)
Tgid:\t4711
Pid:\t4711
VmPeak:\t  912000 kB
VmHWM:\t  300000 kB
VmRSS:\t  250000 kB
Threads:\t2
Cpus_allowed:\tff
Cpus_allowed_list:\t{allowed}
voluntary_ctxt_switches:\t{voluntary}
nonvoluntary_ctxt_switches:\t{involuntary}
"""


class Tree:
    """A root folder whose files are written by their path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, files: dict[str, object]) -> None:
        """Write files and create their folders."""
        for path, content in files.items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{content}\n", encoding="utf-8")

    def link(self, path: str, target: str) -> None:
        """A link at ``path`` to ``target``, both from the root; relative, as in sysfs."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(Path(*[".."] * (len(Path(path).parts) - 1)) / target)

    def tick(self, *, busy: int, idle: int, cores: int = 2) -> None:
        """Write /proc/stat with this number of ticks on each core."""
        each = f"{busy} 0 0 {idle} 0 0 0 0 0 0"
        rows = [f"cpu  {busy * cores} 0 0 {idle * cores} 0 0 0 0 0 0"]
        self.write({"proc/stat": "\n".join(rows + [f"cpu{core} {each}" for core in range(cores)])})

    def process(
        self,
        *,
        user: int = 100,
        system: int = 50,
        faults: int = 1000,
        switches: tuple[int, int] = (10, 5),
        allowed: str = "0-1",
    ) -> None:
        """Write /proc/4711 with two threads; its command breaks naive parsers."""
        head = f"{PID} (jepa) (node) S 1 {PID} {PID} 0 -1 4194304"
        tail = "0 0 20 0 2 0 1148 3366912 62500 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0"
        status = _STATUS.format(allowed=allowed, voluntary=switches[0], involuntary=switches[1])
        self.write(
            {
                f"proc/{PID}/stat": f"{head} {faults} 0 3 0 {user} {system} {tail}",
                f"proc/{PID}/status": status,
                f"proc/{PID}/task/{PID}/status": status,
                f"proc/{PID}/task/{PID + 1}/status": status,
                f"proc/{PID}/fd/0": "",
                f"proc/{PID}/fd/1": "",
            }
        )

    def hwmon(self, number: int, device: str, files: dict[str, object]) -> str:
        """A chip at ``device`` (below sys/devices), reached through the class; the path of its folder."""
        folder = f"sys/devices/{device}/hwmon/hwmon{number}"
        self.write({f"{folder}/{name}": content for name, content in files.items()})
        self.link(f"sys/class/hwmon/hwmon{number}", folder)
        return folder


def machine(root: Path) -> Tree:
    """Write the files that every Linux has."""
    tree = Tree(root)
    tree.tick(busy=100, idle=100)
    tree.process()
    tree.write(
        {
            "proc/meminfo": "MemAvailable: 5000000 kB\nSwapTotal: 100 kB\nSwapFree: 100 kB",
            "proc/swaps": "Filename\tType\tSize\tUsed\tPriority",
            "proc/cpuinfo": "processor\t: 0",
            "proc/version": "Linux version 6.8.0 (a@b) #1 SMP PREEMPT_DYNAMIC Thu Jan 1 00:00:00 UTC 2026",
        }
    )
    return tree


def _ina3221(tree: Tree, number: int, address: str, rails: dict[str, tuple[int, int]]) -> str:
    """A monitor with its rails' mV and mA; the seventh channel is the driver's sum of shunt voltages."""
    device = f"platform/bus@0/c240000.i2c/i2c-1/{address}"
    files: dict[str, object] = {"name": "ina3221", "in7_label": "sum of shunt voltages", "in7_input": 12}
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        files |= {
            f"in{channel}_label": label,
            f"in{channel}_input": millivolts,
            f"curr{channel}_input": milliamperes,
        }
    folder = tree.hwmon(number, device, files)
    tree.link(f"sys/bus/i2c/drivers/ina3221/{address}", f"sys/devices/{device}")
    return folder


def _jetson(root: Path, model: str) -> Tree:
    tree = machine(root)
    gpu = "sys/devices/platform/bus@0/17000000.gpu"
    tree.write(
        {
            "proc/device-tree/model": f"{model}\0",
            "proc/version": "Linux version 5.15.148-tegra (b@h) #1 SMP PREEMPT Thu Jan 1 00:00:00 2026",
            f"{gpu}/load": 453,
            f"{gpu}/devfreq/17000000.gpu/cur_freq": 611250000,
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": 47500,
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": 44218,
            "sys/class/thermal/thermal_zone8/type": "tj-thermal",
            "sys/class/thermal/thermal_zone8/temp": 48000,
            "etc/nvpmodel.conf": "# modes\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
            "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nGPU MAX_FREQ -1\n< PM_CONFIG DEFAULT=2 >",
            "var/lib/nvpmodel/status": "pmode:0002",
        }
    )
    tree.link(f"{gpu}/devfreq/17000000.gpu/device", gpu)
    tree.link("sys/class/devfreq/17000000.gpu", f"{gpu}/devfreq/17000000.gpu")
    tree.hwmon(
        5,
        "platform/soctherm-oc-event",
        {"name": "soctherm_oc", "oc1_event_cnt": 0, "oc2_event_cnt": 15, "oc3_event_cnt": 37},
    )
    for core in range(2):
        policy = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        tree.write({f"{policy}/scaling_cur_freq": 1510400, f"{policy}/scaling_governor": "schedutil"})
    return tree


def orin_nano(root: Path) -> Tree:
    """JetPack 6 on a Jetson Orin Nano: the monitor has the module's input."""
    tree = _jetson(root, "NVIDIA Jetson Orin Nano Developer Kit")
    rails = {"VDD_IN": (5000, 1000), "VDD_CPU_GPU_CV": (5000, 300), "VDD_SOC": (5000, 200)}
    _ina3221(tree, 1, "1-0040", rails)
    return tree


def agx_orin(root: Path) -> Tree:
    """JetPack 6 on a Jetson AGX Orin: two monitors, none has the input; memory is in VIN_SYS_5V0."""
    tree = _jetson(root, "NVIDIA Jetson AGX Orin Developer Kit")
    first = {"VDD_GPU_SOC": (12000, 500), "VDD_CPU_CV": (12000, 100), "VIN_SYS_5V0": (5000, 800)}
    _ina3221(tree, 3, "1-0040", first)
    _ina3221(tree, 4, "1-0041", {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 100)})
    return tree


def laptop(root: Path) -> Tree:
    """An Intel laptop: RAPL with package, core and psys, coretemp, throttle counters, i915, an NPU."""
    tree = machine(root)
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0/intel-rapl:0:0": "core",
        "intel-rapl:1": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for folder, name in zones.items():
        zone = f"sys/devices/virtual/powercap/intel-rapl/{folder}"
        tree.write(
            {
                f"{zone}/name": name,
                f"{zone}/energy_uj": 1_000_000,
                f"{zone}/max_energy_range_uj": 262_143_328_850,
            }
        )
        tree.link(f"sys/class/powercap/{folder.rpartition('/')[2]}", zone)
    tree.hwmon(
        6,
        "platform/coretemp.0",
        {
            "name": "coretemp",
            "temp1_label": "Package id 0",
            "temp1_input": 61000,
            "temp2_label": "Core 0",
            "temp2_input": 60000,
        },
    )
    for core in range(2):
        cpu = f"sys/devices/system/cpu/cpu{core}"
        tree.write(
            {
                f"{cpu}/thermal_throttle/core_throttle_count": 10,
                f"{cpu}/thermal_throttle/package_throttle_count": 30,
                f"{cpu}/cpufreq/scaling_cur_freq": 2400000,
                f"{cpu}/cpufreq/scaling_governor": ("powersave", "performance")[core],
            }
        )
    npu = "sys/devices/pci0000:00/0000:00:0b.0"
    tree.write(
        {
            "sys/devices/system/cpu/intel_pstate/no_turbo": 1,
            "sys/devices/system/cpu/smt/control": "on",
            "sys/devices/system/cpu/isolated": "",
            "sys/kernel/realtime": 1,
            "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 4 0 100",
            "sys/class/drm/card1/gt/gt0/rc6_residency_ms": 5000,
            "sys/class/drm/card1/gt/gt0/rps_act_freq_mhz": 300,
            f"{npu}/npu_busy_time_us": 1_000_000,
            f"{npu}/npu_current_frequency_mhz": 1400,
            f"{npu}/npu_memory_utilization": 50_000_000,
        }
    )
    tree.link("sys/class/accel/accel0/device", npu)
    return tree
