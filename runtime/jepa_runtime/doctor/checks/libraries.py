"""Libraries of the engines, and whether a bundle has what this machine runs."""

from __future__ import annotations

import re

from jepa_runtime.backends.registry import LEAST_TENSORRT
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, install, ok
from jepa_runtime.errors import UndeterminedError

# As pyproject.toml has them; a test holds it.
OPENVINO, PYCUDA = (2025, 0), (2024, 1)
# For pip. Not our own package with its extras: no index has it, and the first step that fails ends a script.
_OPENVINO, _PYCUDA = "openvino>={}.{}".format(*OPENVINO), "pycuda>={}.{}".format(*PYCUDA)
_TENSORRT_TOO_NEW = (12, 0)
_TARGETS = {"jetson": ("tensorrt",), "intel_npu": ("npu", "openvino"), "plain": ("openvino", "onnx")}
_BINDINGS = (
    "# 10.3 comes with JetPack 6.1: an earlier one has to be upgraded first",
    "sudo apt-get install python3-libnvinfer",
    "# they are for the system's Python: an environment of it sees them if it was made by python3 -m venv "
    "--system-site-packages; for another Python, build them from the sources in NVIDIA/TensorRT",
)


def _release(version: str, of: str) -> tuple[int, int]:
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", version)
    if found is None:
        raise UndeterminedError(f"the version of {of} is {version!r}, which is no version")
    return int(found[1]), int(found[2])


def _installed(context: Context, name: str, least: tuple[int, int], remedy: tuple[str, ...]) -> Verdict:
    needed = f"{least[0]}.{least[1]} or later"
    version = context.system.package(name)
    if version is None and not context.system.facts.library_folders():
        raise UndeterminedError("this root has no folder of Python packages that is known")
    seen = Evidence(f"pip show {name}", version or "not installed")
    if version is None:
        return Verdict(Severity.ERROR, f"{name} is not installed; {needed} is needed", (seen,), remedy)
    if _release(version, name) < least:
        return Verdict(Severity.ERROR, f"{name} {version} is too old; {needed} is needed", (seen,), remedy)
    return ok(f"{name} {version} is installed", seen)


def _openvino(context: Context) -> Verdict:
    return _installed(context, "openvino", OPENVINO, (install(context, f"'{_OPENVINO}'"),))


def _pycuda(context: Context) -> Verdict:
    remedy = (
        "# it is built as it is installed, with the CUDA toolkit: sudo apt-get install nvidia-jetpack",
        # It looks for the toolkit beside nvcc.
        install(context, f"'{_PYCUDA}'", "env PATH=/usr/local/cuda/bin:$PATH "),
    )
    return _installed(context, "pycuda", PYCUDA, remedy)


def _tensorrt(context: Context) -> Verdict:
    verdict = _installed(context, "tensorrt", LEAST_TENSORRT, _BINDINGS)
    version = verdict.evidence[0].value
    if verdict.severity is Severity.OK and _release(version, "tensorrt") >= _TENSORRT_TOO_NEW:
        return Verdict(
            Severity.ERROR,
            f"tensorrt {version} is newer than what is supported: 10.3 to 11",
            verdict.evidence,
            ("# install TensorRT 10 or 11, or a newer jepa-edge",),
        )
    return verdict


def _uses_tensorrt(context: Context) -> bool:
    needs = context.needs
    return context.machine.kind == "jetson" and (needs is None or "tensorrt" in needs.targets)


def _targets(context: Context) -> Verdict:
    assert context.needs is not None
    wanted, kind = _TARGETS[context.machine.kind], context.machine.kind
    has = ", ".join(sorted(context.needs.targets))
    seen = Evidence("jepa-runtime info", f"{context.needs.name} has {has}")
    if context.needs.targets & set(wanted):
        return ok("the bundle has a form for this machine", seen)
    instead = ""
    if kind == "jetson" and "onnx" in context.needs.targets:
        instead = ": the GPU will run its ONNX form, in fp32"
    elif context.needs.targets & set(_TARGETS["plain"]):
        instead = ": it will run on the processor"
    target = {"jetson": "tensorrt", "intel_npu": "npu", "plain": "openvino"}[kind]
    return Verdict(
        Severity.WARNING if instead else Severity.ERROR,
        f"the bundle has no form for this machine ({' or '.join(wanted)}){instead}",
        (seen,),
        (
            f"# on the workstation, make the bundle again with --target {target}: jepa-export build, distill "
            "and train-predictor take it",
        ),
    )


CHECKS = (
    Check(
        "engine.openvino",
        "OpenVINO 2025.0 or later is installed",
        "Python's metadata",
        f"`pip install --upgrade '{_OPENVINO}'`",
        _openvino,
    ),
    Check(
        "engine.tensorrt",
        "TensorRT 10.3 to 11 is installed for this Python",
        "Python's metadata",
        "package python3-libnvinfer",
        _tensorrt,
        _uses_tensorrt,
    ),
    Check(
        "engine.pycuda",
        "PyCUDA 2024.1 or later is installed",
        "Python's metadata",
        f"`pip install --upgrade '{_PYCUDA}'`",
        _pycuda,
        _uses_tensorrt,
    ),
    Check(
        "bundle.target",
        "the bundle has a form for this machine",
        "the bundle's manifest",
        "`jepa-export build --target`",
        _targets,
        lambda context: context.needs is not None,
    ),
)
