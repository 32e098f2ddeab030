"""NVIDIA Jetson: driver, device nodes, power mode, clocks of the GPU."""

from __future__ import annotations

import re

from jepa_runtime.doctor.checks.access import access
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, ok, service
from jepa_runtime.doctor.system import Node
from jepa_runtime.errors import UndeterminedError

# Orin has nvgpu, Thor the driver of NVIDIA's other GPUs.
_DRIVERS = ("nvgpu", "nvidia")
# Recent releases of L4T close it to writing, for its group too: CUDA only reads it.
_MEMORY = "/dev/nvmap"
# What computing takes; profilers and power tools have nodes of their own, closed to most accounts.
_GPU_NODES = (
    "/dev/nvhost-gpu",
    "/dev/nvhost-ctrl-gpu",
    "/dev/nvhost-as-gpu",
    "/dev/nvgpu/igpu0/ctrl",
    "/dev/nvgpu/igpu0/as",
    "/dev/nvidia[0-9]",
    "/dev/nvidiactl",
)
# Orin (JetPack 6), earlier releases of L4T, Thor.
_GPU_CLOCKS = (
    "sys/class/devfreq/*.gpu",
    "sys/class/devfreq/*.g[amvp][0-9]*b",
    "sys/class/devfreq/gpu-gpc-[0-9]*",
)
# The unlimited mode by its names, the better one first: its number differs from module to module.
_BEST = ("MAXN_SUPER", "MAXN")


def _is_jetson(context: Context) -> bool:
    return context.machine.kind == "jetson"


def _loaded(context: Context) -> str | None:
    if not context.system.exists("sys/module"):
        raise UndeterminedError("there is no /sys/module: this is no running system")
    return next((name for name in _DRIVERS if context.system.exists(f"sys/module/{name}")), None)


def _driver(context: Context) -> Verdict:
    if name := _loaded(context):
        return ok(f"the GPU's driver {name} is loaded", Evidence(f"/sys/module/{name}", "is there"))
    return Verdict(
        Severity.ERROR,
        "the GPU has no driver: neither nvgpu (Orin) nor nvidia (Thor) is loaded",
        tuple(Evidence(f"/sys/module/{name}", "no such folder") for name in _DRIVERS),
        (
            "# what it said: sudo dmesg | grep -e nvgpu -e nvidia",
            "sudo modprobe nvgpu || sudo modprobe nvidia",
        ),
    )


def _nodes(context: Context) -> Verdict:
    driver, facts = _loaded(context), context.system.facts
    if driver is None:
        raise UndeterminedError("cannot be told before the GPU's driver is loaded (jetson.driver)")
    memory = facts.nodes(_MEMORY)
    gpu: dict[str, Node] = {}
    for pattern in _GPU_NODES:
        gpu |= facts.nodes(pattern)
    if not gpu or (driver == "nvgpu" and not memory):
        return Verdict(
            Severity.ERROR,
            "the GPU has no device nodes; in a container, they were not passed to it",
            tuple(
                Evidence(path, "no such device")
                for path in (_MEMORY, *_GPU_NODES)
                if path not in memory | gpu
            ),
            ("# in a container: start it with --runtime nvidia", "sudo udevadm trigger"),
        )
    return access(context, memory | gpu, "the GPU", "video", "jetson", read_only=(_MEMORY,))


def _render(context: Context) -> Verdict:
    if _loaded(context) != "nvgpu":
        raise UndeterminedError("nvgpu (Orin) is not loaded; what CUDA takes of them on Thor is not known")
    nodes = context.system.facts.nodes("/dev/dri/renderD*")
    if not nodes:
        raise UndeterminedError(
            "no /dev/dri/renderD*: CUDA of JetPack 6 and later does not start without (earlier ones do); a "
            "container must be given them"
        )
    return access(context, nodes, "the render nodes, without which CUDA does not start", "render", None)


def _power_mode(context: Context) -> Verdict:
    conf, status = "etc/nvpmodel.conf", "var/lib/nvpmodel/status"
    pattern = r"^\s*<\s*POWER_MODEL\s+ID=([0-9]{1,9})\s+NAME=([A-Za-z0-9_.-]+)\s*>"
    modes = {int(number): name for number, name in re.findall(pattern, context.system.text(conf), re.M)}
    if not modes:
        raise UndeterminedError(f"/{conf} names no power mode")
    found = re.match(r"pmode:([0-9]{1,9})\b", context.system.text(status))
    if found is None:
        raise UndeterminedError(f"/{status} does not tell the power mode")
    number = int(found[1])
    best = next((name for name in _BEST if name in modes.values()), None)
    if best is None or number not in modes:
        raise UndeterminedError(
            f"/{conf} has the modes {', '.join(modes.values())}, /{status} names {number}"
        )
    seen = (Evidence(f"/{status}", found[0]), Evidence(f"/{conf}", f"mode {number} is {modes[number]}"))
    if modes[number] == best:
        return ok(f"the power mode is {best}", *seen)
    identity = next(number for number, name in modes.items() if name == best)
    return Verdict(
        Severity.WARNING,
        f"the power mode is {modes[number]}, not {best}: clocks and cores are limited",
        seen,
        (
            f"# {best} takes the power supply and the cooling of the module's data sheet; nvpmodel may ask "
            "to restart",
            f"sudo nvpmodel -m {identity}",
        ),
    )


def _gpu_clocks(context: Context) -> Verdict:
    system = context.system
    folders = [folder for pattern in _GPU_CLOCKS for folder in system.find(pattern)]
    if not folders:
        raise UndeterminedError("no clock of the GPU under /sys/class/devfreq")
    seen, free = [], False
    for folder in folders:
        low, high = system.integer(f"{folder}/min_freq"), system.integer(f"{folder}/max_freq")
        if not 0 < low <= high:
            raise UndeterminedError(f"/{folder} has frequencies from {low} to {high} Hz")
        free = free or low < high
        seen += [Evidence(f"/{folder}/min_freq", f"{low}"), Evidence(f"/{folder}/max_freq", f"{high}")]
    if not free:
        return ok("the GPU's clock is held at its maximum", *seen)
    return Verdict(
        Severity.WARNING,
        "the GPU's clock follows its load: inferences after a pause are slow",
        tuple(seen),
        service(context, "jepa-clocks"),
    )


CHECKS = (
    Check(
        "jetson.driver",
        "the GPU's driver is loaded",
        "`/sys/module/nvgpu`, `/sys/module/nvidia`",
        "modprobe",
        _driver,
        _is_jetson,
    ),
    Check(
        "jetson.node",
        "the account may open the GPU",
        "`/dev/nvmap`, `/dev/nvhost-*gpu`, `/dev/nvgpu/igpu0/`, `/dev/nvidia*`",
        "`usermod -aG video`, `configs apply --device jetson`",
        _nodes,
        _is_jetson,
    ),
    Check(
        "jetson.render",
        "on Orin: the account may open the render nodes, which CUDA of JetPack 6 and later takes",
        "`/dev/dri/renderD*`",
        "`usermod -aG render`",
        _render,
        _is_jetson,
    ),
    Check(
        "jetson.power_mode",
        "the power mode is MAXN_SUPER or, where there is none, MAXN",
        "`/etc/nvpmodel.conf`, `/var/lib/nvpmodel/status`",
        "`nvpmodel -m`",
        _power_mode,
        _is_jetson,
    ),
    Check(
        "jetson.gpu_clock",
        "the GPU's clock is held at its maximum",
        "`/sys/class/devfreq/*/min_freq`, `max_freq`",
        "`configs apply --device jetson`, jepa-clocks",
        _gpu_clocks,
        _is_jetson,
    ),
)
