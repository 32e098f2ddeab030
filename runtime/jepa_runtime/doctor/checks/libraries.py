"""Check the engines' libraries, and whether a bundle has a variant for this machine."""

from __future__ import annotations

import glob
import re
from configparser import ConfigParser, Error
from contextlib import suppress

from jepa_runtime.backends.registry import ENTRY_POINTS
from jepa_runtime.backends.tensorrt import MIN_TENSORRT
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, info, ok, pip_install
from jepa_runtime.errors import UndeterminedError

# Equal to the minimum versions in pyproject.toml; a test compares them.
OPENVINO, PYCUDA = (2025, 0), (2024, 1)
# Requirements for pip. Not jepa-edge with its extras: it is on no package index, and a fix script stops at
# the first step that fails.
_OPENVINO, _PYCUDA = "openvino>={}.{}".format(*OPENVINO), "pycuda>={}.{}".format(*PYCUDA)
_TENSORRT_TOO_NEW = (12, 0)
_TARGETS = {"jetson": ("tensorrt",), "intel_npu": ("npu", "openvino"), "plain": ("openvino", "onnx")}
_BINDINGS = (
    "# TensorRT 10.3 is part of JetPack 6.1: upgrade earlier JetPack releases first",
    "sudo apt-get install python3-libnvinfer",
    "# these bindings are for the system's Python; create the environment with python3 -m venv "
    "--system-site-packages to use them, or build them from the NVIDIA/TensorRT sources for another Python",
)


def _release(version: str, package: str) -> tuple[int, int]:
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", version)
    if found is None:
        raise UndeterminedError(f"{package} has the invalid version {version!r}", code="doctor.malformed")
    return int(found[1]), int(found[2])


def _check_version(context: Context, name: str, least: tuple[int, int], remedy: tuple[str, ...]) -> Verdict:
    required = f"{least[0]}.{least[1]} or later is required"
    version = context.system.package(name)
    if version is None and not context.system.facts.library_folders():
        raise UndeterminedError("this root has no known folder of Python packages")
    evidence = Evidence(f"pip show {name}", version or "not installed")
    if version is None:
        return Verdict(Severity.ERROR, f"{name} is not installed: {required}", (evidence,), remedy)
    if _release(version, name) < least:
        return Verdict(Severity.ERROR, f"{name} {version} is too old: {required}", (evidence,), remedy)
    return ok(f"{name} {version} is installed", evidence)


def _openvino(context: Context) -> Verdict:
    return _check_version(context, "openvino", OPENVINO, (pip_install(context, f"'{_OPENVINO}'"),))


def _pycuda(context: Context) -> Verdict:
    remedy = (
        "# the installation compiles PyCUDA and needs the CUDA toolkit: sudo apt-get install nvidia-jetpack",
        # Its setup finds the toolkit through nvcc.
        pip_install(context, f"'{_PYCUDA}'", "env PATH=/usr/local/cuda/bin:$PATH "),
    )
    return _check_version(context, "pycuda", PYCUDA, remedy)


def _tensorrt(context: Context) -> Verdict:
    verdict = _check_version(context, "tensorrt", MIN_TENSORRT, _BINDINGS)
    version = verdict.evidence[0].value
    if verdict.severity is Severity.OK and _release(version, "tensorrt") >= _TENSORRT_TOO_NEW:
        return Verdict(
            Severity.ERROR,
            f"tensorrt {version} is too new: 10.3 to 11 are supported",
            verdict.evidence,
            ("# install TensorRT 10 or 11, or a newer jepa-edge",),
        )
    return verdict


def _uses_tensorrt(context: Context) -> bool:
    requirements = context.requirements
    return context.machine.kind == "jetson" and (requirements is None or "tensorrt" in requirements.targets)


def _plugins(context: Context) -> dict[str, str]:
    """Return the engines that other packages declare, with the paths of their entry points."""
    found: dict[str, str] = {}
    for folder in context.system.facts.library_folders():
        for path in context.system.find(f"{glob.escape(folder)}/*.dist-info/entry_points.txt"):
            entries = ConfigParser(delimiters=("=",), interpolation=None)
            with suppress(UndeterminedError, Error):
                entries.read_string(context.system.text(path, may_be_empty=True))
            if entries.has_section(ENTRY_POINTS):
                found |= dict.fromkeys(entries.options(ENTRY_POINTS), path)
    return found


def _list_plugins(context: Context) -> Verdict:
    found = _plugins(context)
    evidence = (Evidence(f"/{path}", name) for name, path in sorted(found.items()))
    return info(f"other packages provide the engines {', '.join(sorted(found))}", *evidence)


def _targets(context: Context) -> Verdict:
    requirements, kind = context.requirements, context.machine.kind
    assert requirements is not None
    evidence = Evidence(
        "jepa-runtime info", f"{requirements.name} has {', '.join(sorted(requirements.targets))}"
    )
    if requirements.targets & set(_TARGETS[kind]):
        return ok("the bundle has a variant for this machine", evidence)
    fallback = ""
    if kind == "jetson" and "onnx" in requirements.targets:
        fallback = ": the GPU will run its ONNX variant in fp32"
    elif requirements.targets & set(_TARGETS["plain"]):
        fallback = ": it will run on the CPU"
    target = {"jetson": "tensorrt", "intel_npu": "npu", "plain": "openvino"}[kind]
    return Verdict(
        Severity.WARNING if fallback else Severity.ERROR,
        f"the bundle has no variant for this machine ({' or '.join(_TARGETS[kind])}){fallback}",
        (evidence,),
        (
            f"# on the workstation, rebuild the bundle with --target {target} (jepa-export build, distill or "
            "train-predictor)",
        ),
    )


CHECKS = (
    Check(
        "engine.openvino",
        "OpenVINO 2025.0 or later is installed",
        "Python package metadata",
        f"`pip install --upgrade '{_OPENVINO}'`",
        _openvino,
    ),
    Check(
        "engine.tensorrt",
        "TensorRT 10.3 to 11 is installed for this Python",
        "Python package metadata",
        "install python3-libnvinfer",
        _tensorrt,
        _uses_tensorrt,
    ),
    Check(
        "engine.pycuda",
        "PyCUDA 2024.1 or later is installed",
        "Python package metadata",
        f"`pip install --upgrade '{_PYCUDA}'`",
        _pycuda,
        _uses_tensorrt,
    ),
    Check(
        "engine.plugins",
        "the engines of other packages are listed",
        "entry points `jepa_runtime.backends`",
        "",
        _list_plugins,
        lambda context: bool(_plugins(context)),
    ),
    Check(
        "bundle.target",
        "the bundle has a variant for this machine",
        "the bundle's manifest",
        "`jepa-export build --target`",
        _targets,
        lambda context: context.requirements is not None,
    ),
)
