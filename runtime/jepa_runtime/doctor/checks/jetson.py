"""Checks of an NVIDIA Jetson: driver, device nodes, power mode, GPU clock."""

from __future__ import annotations

import re

from jepa_runtime.doctor.checks.access import check_access
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, enable_jetson_service, ok
from jepa_runtime.doctor.system import Node
from jepa_runtime.errors import UndeterminedError

# Orin uses nvgpu, Thor the driver of NVIDIA's discrete GPUs.
_DRIVERS = ("nvgpu", "nvidia")
# Recent L4T releases make it read-only for its group, too: CUDA only reads it.
_MEMORY = "/dev/nvmap"
# The nodes that CUDA needs. Profilers and power tools have other nodes, which most accounts may not open.
_GPU_NODES = (
    "/dev/nvhost-gpu",
    "/dev/nvhost-ctrl-gpu",
    "/dev/nvhost-as-gpu",
    "/dev/nvgpu/igpu0/ctrl",
    "/dev/nvgpu/igpu0/as",
    "/dev/nvidia[0-9]",
    "/dev/nvidiactl",
)
# Orin (JetPack 6), earlier L4T releases, Thor.
_GPU_CLOCKS = (
    "sys/class/devfreq/*.gpu",
    "sys/class/devfreq/*.g[amvp][0-9]*b",
    "sys/class/devfreq/gpu-gpc-[0-9]*",
)
# Names of the unlimited power mode, the faster one first. Its number differs between modules.
_UNLIMITED_MODES = ("MAXN_SUPER", "MAXN")


def _is_jetson(context: Context) -> bool:
    return context.machine.kind == "jetson"


def _loaded_driver(context: Context) -> str | None:
    if not context.system.exists("sys/module"):
        raise UndeterminedError("/sys/module does not exist: this is not a running system")
    return next((name for name in _DRIVERS if context.system.exists(f"sys/module/{name}")), None)


def _driver(context: Context) -> Verdict:
    if name := _loaded_driver(context):
        return ok(f"GPU driver {name} is loaded", Evidence(f"/sys/module/{name}", "present"))
    return Verdict(
        Severity.ERROR,
        "no GPU driver is loaded, neither nvgpu (Orin) nor nvidia (Thor): models cannot run on the GPU",
        tuple(Evidence(f"/sys/module/{name}", "not found") for name in _DRIVERS),
        (
            "# to see the driver's messages: sudo dmesg | grep -e nvgpu -e nvidia",
            "sudo modprobe nvgpu || sudo modprobe nvidia",
        ),
    )


def _nodes(context: Context) -> Verdict:
    driver, facts = _loaded_driver(context), context.system.facts
    if driver is None:
        raise UndeterminedError("the GPU driver is not loaded (fix jetson.driver first)")
    memory = facts.nodes(_MEMORY)
    gpu: dict[str, Node] = {}
    for pattern in _GPU_NODES:
        gpu |= facts.nodes(pattern)
    if not gpu or (driver == "nvgpu" and not memory):
        return Verdict(
            Severity.ERROR,
            "the GPU has no device nodes: models cannot run on it; a container must be given access to them",
            tuple(Evidence(path, "not found") for path in (_MEMORY, *_GPU_NODES) if path not in memory | gpu),
            ("# in a container: start it with --runtime nvidia", "sudo udevadm trigger"),
        )
    return check_access(context, memory | gpu, "the GPU", "video", "jetson", read_only=(_MEMORY,))


def _render(context: Context) -> Verdict:
    if _loaded_driver(context) != "nvgpu":
        raise UndeterminedError(
            "driver nvgpu (Orin) is not loaded; which render nodes CUDA needs on Thor is not known"
        )
    nodes = context.system.facts.nodes("/dev/dri/renderD*")
    if not nodes:
        raise UndeterminedError(
            "/dev/dri/renderD* not found: CUDA of JetPack 6 and later needs render nodes to start, earlier "
            "releases do not; a container must be given access to them"
        )
    return check_access(context, nodes, "the render nodes, which CUDA needs to start", "render", None)


def _power_mode(context: Context) -> Verdict:
    conf, status = "etc/nvpmodel.conf", "var/lib/nvpmodel/status"
    pattern = r"^\s*<\s*POWER_MODEL\s+ID=([0-9]{1,9})\s+NAME=([A-Za-z0-9_.-]+)\s*>"
    modes = {int(number): name for number, name in re.findall(pattern, context.system.text(conf), re.M)}
    if not modes:
        raise UndeterminedError(f"/{conf} defines no power mode", code="doctor.malformed")
    found = re.match(r"pmode:([0-9]{1,9})\b", context.system.text(status))
    if found is None:
        raise UndeterminedError(f"/{status} has no valid power mode", code="doctor.malformed")
    number = int(found[1])
    best = next((name for name in _UNLIMITED_MODES if name in modes.values()), None)
    if best is None or number not in modes:
        raise UndeterminedError(
            f"/{conf} defines the modes {', '.join(modes.values())}, /{status} has mode {number}",
            code="doctor.malformed",
        )
    evidence = (Evidence(f"/{status}", found[0]), Evidence(f"/{conf}", f"mode {number} is {modes[number]}"))
    if modes[number] == best:
        return ok(f"the power mode is {best}", *evidence)
    best_number = next(number for number, name in modes.items() if name == best)
    return Verdict(
        Severity.WARNING,
        f"the power mode is {modes[number]} instead of {best}: it limits clocks and cores",
        evidence,
        (
            f"# {best} requires the power supply and cooling specified in the module's data sheet; nvpmodel "
            "may ask for a reboot",
            f"sudo nvpmodel -m {best_number}",
        ),
    )


def _gpu_clocks(context: Context) -> Verdict:
    system = context.system
    folders = [folder for pattern in _GPU_CLOCKS for folder in system.find(pattern)]
    if not folders:
        raise UndeterminedError("no GPU clock found in /sys/class/devfreq")
    evidence, variable = [], False
    for folder in folders:
        low, high = system.integer(f"{folder}/min_freq"), system.integer(f"{folder}/max_freq")
        if not 0 < low <= high:
            raise UndeterminedError(
                f"/{folder} has an invalid frequency range: {low} to {high} Hz", code="doctor.malformed"
            )
        variable = variable or low < high
        evidence += [Evidence(f"/{folder}/min_freq", f"{low}"), Evidence(f"/{folder}/max_freq", f"{high}")]
    if not variable:
        return ok("the GPU clock is locked at its maximum", *evidence)
    return Verdict(
        Severity.WARNING,
        "the GPU clock scales with the load: the first inferences after a pause are slow",
        tuple(evidence),
        enable_jetson_service(context, "jepa-clocks"),
    )


CHECKS = (
    Check(
        "jetson.driver",
        "the GPU driver is loaded",
        "`/sys/module/nvgpu`, `/sys/module/nvidia`",
        "modprobe",
        _driver,
        _is_jetson,
    ),
    Check(
        "jetson.node",
        "the account can open the GPU",
        "`/dev/nvmap`, `/dev/nvhost-*gpu`, `/dev/nvgpu/igpu0/`, `/dev/nvidia*`",
        "`usermod -aG video`, `configs apply --device jetson`",
        _nodes,
        _is_jetson,
    ),
    Check(
        "jetson.render",
        "on Orin: the account can open the render nodes, which CUDA of JetPack 6 and later needs",
        "`/dev/dri/renderD*`",
        "`usermod -aG render`",
        _render,
        _is_jetson,
    ),
    Check(
        "jetson.power_mode",
        "the power mode is MAXN_SUPER, or MAXN on modules without it",
        "`/etc/nvpmodel.conf`, `/var/lib/nvpmodel/status`",
        "`nvpmodel -m`",
        _power_mode,
        _is_jetson,
    ),
    Check(
        "jetson.gpu_clock",
        "the GPU clock is locked at its maximum",
        "`/sys/class/devfreq/*/min_freq`, `max_freq`",
        "`configs apply --device jetson`, jepa-clocks",
        _gpu_clocks,
        _is_jetson,
    ),
)
