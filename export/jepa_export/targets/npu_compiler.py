"""Intel's NPU compiler on a machine without an NPU.

OpenVINO's NPU plugin loads the compiler as a library (NPU_COMPILER_TYPE=PLUGIN). Only the Windows wheels on
PyPI contain it (openvinotoolkit/openvino issue 36374), so the wheel of the installed OpenVINO release is
unpacked into a cache, and a small program runs it under Wine.

Install it with ``python -m jepa_export.targets.npu_compiler``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import openvino as ov

from jepa_export.errors import JepaExportError
from jepa_export.targets.confined_process import ProcessLimits, run_confined
from jepa_runtime.util import ArgumentParser

SYSTEM_PACKAGES = {"wine": "wine", "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64"}
MODEL, BLOB, TRACE = "model.xml", "model.blob", "compileTimeScheduleTrace.json"
_REQUIREMENTS, _FAILED = "REQUIREMENTS ", "FAILED "
# Wine's server ends a few seconds after its last program. A program that connects just then is cut off before
# it has begun.
_CUT_OFF, _ATTEMPTS = "wine client error", 3
_SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include "openvino/c/openvino.h"

static void check(int status, const char *step) {
    if (status == 0) return;
    printf("FAILED to %s: %s\n", step, ov_get_last_err_msg());
    fflush(stdout);
    exit(1);
}

/* MODEL.xml PLATFORM BLOB PARAMETERS */
int main(int count, char **words) {
    if (count != 5) return 2;
    ov_core_t *core = NULL;
    ov_model_t *model = NULL;
    ov_compiled_model_t *compiled = NULL;
    char *requirements = NULL;
    check(ov_core_create(&core), "start OpenVINO");
    check(ov_core_set_property(core, "NPU", "NPU_COMPILER_TYPE", "PLUGIN"), "load the compiler");
    check(ov_core_set_property(core, "NPU", "NPU_PLATFORM", words[2]), "choose the platform");
    check(ov_core_set_property(core, "NPU", "NPU_COMPILATION_MODE_PARAMS", words[4]), "set parameters");
    check(ov_core_read_model(core, words[1], NULL, &model), "read the model");
    check(ov_core_compile_model(core, model, "NPU", 0, &compiled), "compile");
    check(ov_compiled_model_get_property(compiled, "RUNTIME_REQUIREMENTS", &requirements), "describe it");
    check(ov_compiled_model_export_model(compiled, words[3]), "write it");
    printf("REQUIREMENTS %s\n", requirements);
    return 0;
}
"""


@dataclass(frozen=True)
class NpuCompiler:
    """The compiler of one OpenVINO release, in its folder."""

    folder: Path
    release: str

    @property
    def program(self) -> Path:
        """The program that runs the compiler, next to the libraries that it loads."""
        return self.folder / "openvino" / "libs" / "jepa_npu_compile.exe"

    def compile(self, model_xml: Path, platform: str, folder: Path, limits: ProcessLimits) -> str:
        """Compile an IR into ``folder``: :data:`BLOB` and the trace of its schedule, :data:`TRACE`.

        Args:
            model_xml: The IR; its .bin is next to it.
            platform: One of :data:`jepa_export.targets.npu.PLATFORMS`.
            folder: Working directory.
            limits: Limits of the process.

        Returns:
            The blob's requirements on the machine that loads it, in OpenVINO's format
            (``meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu=4000;…]``).

        Raises:
            JepaExportError: The compiler rejects the model, crashed, or exceeded a limit.
        """
        what = f"{model_xml}: the NPU compiler of OpenVINO {self.release} for platform {platform}"
        shutil.copyfile(model_xml, folder / MODEL)
        shutil.copyfile(model_xml.with_suffix(".bin"), folder / Path(MODEL).with_suffix(".bin"))
        for _ in range(_ATTEMPTS):
            # Without folders in file names, because the program expects Windows paths.
            _, output = run_confined(
                ["wine", str(self.program), MODEL, platform, BLOB, "enable-schedule-trace=true"],
                folder=folder,
                limits=limits,
                what=what,
                environment=_wine(self.folder),
            )
            if _CUT_OFF not in output:
                break
        made = [line for line in output.splitlines() if line.startswith(_REQUIREMENTS)]
        if not made or not (folder / BLOB).is_file() or not (folder / TRACE).is_file():
            raise JepaExportError(f"{what} {_reason(output)}", code="target.npu_compilation_failed")
        return made[0].removeprefix(_REQUIREMENTS)


def find() -> NpuCompiler:
    """Return the compiler of the installed OpenVINO release.

    Raises:
        JepaExportError: It is not installed.
    """
    compiler, missing = _expected(), _missing_system_packages()
    if missing or not compiler.program.is_file():
        first = f"apt-get install {' '.join(missing)}, then " if missing else ""
        raise JepaExportError(
            f"Intel's NPU compiler is not installed: run {first}python -m jepa_export.targets.npu_compiler "
            f"(downloads OpenVINO {compiler.release} for Windows from PyPI into {compiler.folder}, 1 GB)",
            code="target.npu_compiler_missing",
        )
    return compiler


def install(progress: Callable[[str], None]) -> NpuCompiler:
    """Install the compiler into the cache: its wheel from PyPI, and the program that runs it.

    Args:
        progress: Called with each step in words.

    Raises:
        JepaExportError: A system package is missing, or a step failed; the cache is unchanged.
    """
    compiler = _expected()
    if missing := _missing_system_packages():
        raise JepaExportError(
            f"Wine or MinGW is not installed: run apt-get install {' '.join(missing)}",
            code="target.system_package_missing",
        )
    if compiler.program.is_file():
        return compiler
    compiler.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=compiler.folder.parent) as scratch:
        made = NpuCompiler(Path(scratch) / "made", compiler.release)
        progress(f"downloading OpenVINO {compiler.release} for Windows from PyPI")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        windows = ["--platform=win_amd64", f"--python-version={version}", "--implementation=cp"]
        only = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={scratch}"]
        _step([sys.executable, "-m", "pip", "download", *only, *windows, f"openvino=={compiler.release}"])
        progress("unpacking the wheel")
        with zipfile.ZipFile(next(Path(scratch).glob("openvino-*.whl"))) as wheel:
            parts = ("openvino/libs/", "openvino/include/")
            wheel.extractall(made.folder, [name for name in wheel.namelist() if name.startswith(parts)])
        progress("compiling the program that runs the compiler")
        source = Path(scratch) / "compile.c"
        source.write_text(_SOURCE, encoding="utf-8")
        headers, library = made.folder / "openvino/include", made.program.parent / "openvino_c.lib"
        _step(["x86_64-w64-mingw32-gcc", f"-I{headers}", str(source), str(library), "-o", str(made.program)])
        progress("preparing Wine")
        _step(["wineboot", "--init"], _wine(made.folder))
        _step(["wineserver", "--wait"], _wine(made.folder))
        shutil.rmtree(compiler.folder, ignore_errors=True)
        made.folder.rename(compiler.folder)
    return compiler


def _expected() -> NpuCompiler:
    release = ov.get_version().partition("-")[0]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return NpuCompiler(Path(cache) / "jepa-edge" / "npu" / release, release)


def _missing_system_packages() -> list[str]:
    return [package for tool, package in SYSTEM_PACKAGES.items() if shutil.which(tool) is None]


def _wine(folder: Path) -> dict[str, str]:
    """Return variables for Wine: files in ``folder``, no debug output, no prompts to download .NET."""
    return {
        "WINEPREFIX": str(folder / "wine"),
        "XDG_RUNTIME_DIR": str(folder / "wine"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
    }


def _step(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        reason = done.stderr.strip() or f"status {done.returncode}"
        raise JepaExportError(f"{command[0]} failed: {reason}", code="target.npu_compiler_install_failed")


def _reason(output: str) -> str:
    """Return the failure that the program printed, in one line, without locations in OpenVINO's source."""
    reason = re.sub(r"Exception from \S+:\d+:", "", output[max(0, output.find(_FAILED)) :])
    return " ".join(reason.split()).replace(_FAILED, "failed ", 1) or "ended without a message"


if __name__ == "__main__":
    ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        print(install(print).folder)
    except JepaExportError as error:
        sys.exit(str(error))
