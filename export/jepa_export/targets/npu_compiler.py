"""Intel's NPU compiler on a machine without an NPU: where it is found, and one compilation with it.

OpenVINO's NPU plugin loads the compiler as a library (NPU_COMPILER_TYPE=PLUGIN). Of the wheels on PyPI only
those for Windows carry it (openvinotoolkit/openvino issue 36374), so that wheel, of the same release as the
OpenVINO here, is unpacked into a cache, and a program of a few lines runs it under Wine.

``python -m jepa_export.targets.npu_compiler`` puts it there."""

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
from jepa_export.targets.confined_process import Limits, run_confined

SYSTEM_PACKAGES = {"wine": "wine", "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64"}
MODEL, BLOB, TRACE = "model.xml", "model.blob", "compileTimeScheduleTrace.json"
_REQUIREMENTS, _FAILED = "REQUIREMENTS ", "FAILED "
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
class Compiler:
    """The compiler of one OpenVINO release in its folder."""

    folder: Path
    release: str

    @property
    def program(self) -> Path:
        """What runs it, beside the libraries that it loads."""
        return self.folder / "openvino" / "libs" / "jepa_npu_compile.exe"

    def compile(self, model_xml: Path, platform: str, folder: Path, limits: Limits) -> str:
        """Compile an IR into ``folder``: :data:`BLOB` and the trace of its schedule, :data:`TRACE`.

        Returns:
            What the blob requires of the machine that loads it, in OpenVINO's words
            (``meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu=4000;…]``).

        Raises:
            JepaExportError: the compiler does not take the model, crashed, or exceeded a limit.
        """
        what = f"{model_xml}: the NPU compiler of OpenVINO {self.release} for platform {platform}"
        shutil.copyfile(model_xml, folder / MODEL)
        shutil.copyfile(model_xml.with_suffix(".bin"), folder / Path(MODEL).with_suffix(".bin"))
        # Names without folders: to the program the files are those of a Windows machine.
        _, said = run_confined(
            ["wine", str(self.program), MODEL, platform, BLOB, "enable-schedule-trace=true"],
            folder=folder,
            limits=limits,
            what=what,
            environment=_wine(self.folder),
        )
        made = [line for line in said.splitlines() if line.startswith(_REQUIREMENTS)]
        if not made or not (folder / BLOB).is_file() or not (folder / TRACE).is_file():
            raise JepaExportError(f"{what} {_reason(said)}")
        return made[0].removeprefix(_REQUIREMENTS)


def find() -> Compiler:
    """The compiler of the OpenVINO that is installed here.

    Raises:
        JepaExportError: it is not here; the message says how it gets here.
    """
    compiler, missing = _expected(), _missing_system_packages()
    if missing or not compiler.program.is_file():
        first = f"apt-get install {' '.join(missing)}, then " if missing else ""
        raise JepaExportError(
            f"Intel's NPU compiler is not here: {first}python -m jepa_export.targets.npu_compiler (takes "
            f"OpenVINO {compiler.release} for Windows from PyPI into {compiler.folder}, 1 GB)"
        )
    return compiler


def install(progress: Callable[[str], None]) -> Compiler:
    """Put the compiler into the cache, unless it is there: its wheel from PyPI, and the program that runs it.

    Args:
        progress: told in words what comes next.

    Raises:
        JepaExportError: a system package is missing, or a step failed; the cache is as before.
    """
    compiler = _expected()
    if missing := _missing_system_packages():
        raise JepaExportError(f"first: apt-get install {' '.join(missing)}")
    if compiler.program.is_file():
        return compiler
    compiler.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=compiler.folder.parent) as scratch:
        made = Compiler(Path(scratch) / "made", compiler.release)
        progress(f"fetching OpenVINO {compiler.release} for Windows from PyPI")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        windows = ["--platform=win_amd64", f"--python-version={version}", "--implementation=cp"]
        only = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={scratch}"]
        _step([sys.executable, "-m", "pip", "download", *only, *windows, f"openvino=={compiler.release}"])
        progress("unpacking it")
        with zipfile.ZipFile(next(Path(scratch).glob("openvino-*.whl"))) as wheel:
            parts = ("openvino/libs/", "openvino/include/")
            wheel.extractall(made.folder, [name for name in wheel.namelist() if name.startswith(parts)])
        progress("compiling the program that runs it")
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


def _expected() -> Compiler:
    release = ov.get_version().partition("-")[0]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Compiler(Path(cache) / "jepa-edge" / "npu" / release, release)


def _missing_system_packages() -> list[str]:
    return [package for tool, package in SYSTEM_PACKAGES.items() if shutil.which(tool) is None]


def _wine(folder: Path) -> dict[str, str]:
    """Variables for Wine: its files in ``folder``, no chatter, and nothing of .NET or HTML, which it would
    offer to download."""
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
        raise JepaExportError(f"{command[0]} failed: {done.stderr.strip() or f'status {done.returncode}'}")


def _reason(said: str) -> str:
    """What the program said from where it failed, in one line, without the places in OpenVINO's source."""
    reason = re.sub(r"Exception from \S+:\d+:", "", said[max(0, said.find(_FAILED)) :])
    return " ".join(reason.split()).replace(_FAILED, "failed ", 1) or "ended without a word"


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        print(install(print).folder)
    except JepaExportError as error:
        sys.exit(str(error))
