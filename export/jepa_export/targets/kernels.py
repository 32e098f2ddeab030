"""Compile the CUDA kernels of the runtime with nvcc into the fatbin that the TensorRT backend loads.

Run ``python -m jepa_export.targets.kernels [FOLDER]`` on the Jetson itself (JetPack includes nvcc) or on any
Linux with the extra ``cuda-build``; no GPU is needed. A driver loads only kernels compiled with its own or an
earlier major release of CUDA: for JetPack 6 (CUDA 12), compile on the Jetson.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from jepa_export.errors import JepaExportError
from jepa_export.targets.confined_process import ProcessLimits, run_confined
from jepa_runtime.backends.tensorrt.kernels import FOLDERS, fatbin_name, source
from jepa_runtime.util import ArgumentParser

# CUDA 13 renamed the architecture of Thor.
JETSONS = {"Jetson Orin": ("sm_87",), "Jetson Thor": ("sm_110", "sm_101")}
_OLDEST_PTX = 80
_STRICT = (
    "-std=c++17",
    "-Werror=all-warnings",
    "-Xptxas=-v,-Werror,--warn-on-spills,--warn-on-local-memory-usage",
)
_USAGE = re.compile(
    r"entry function '(?P<entry>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<spilled>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class KernelUsage:
    """Resources of one kernel on one architecture: registers per thread, and bytes spilled to memory."""

    entry: str
    architecture: str
    registers: int
    spilled_bytes: int


@dataclass(frozen=True, kw_only=True)
class ArchitectureChoice:
    """The architectures to compile for.

    Attributes:
        architectures: Those of Jetsons that the compiler supports.
        ptx: Compute capability of the PTX, which any newer GPU compiles when it loads the file.
        left_out: Unsupported Jetsons, each with the reason.
    """

    architectures: tuple[str, ...]
    ptx: int
    left_out: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        """Arguments for nvcc."""
        numbers = [int(name.removeprefix("sm_")) for name in self.architectures]
        binary = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
        return [*binary, f"-gencode=arch=compute_{self.ptx},code=compute_{self.ptx}"]


@dataclass(frozen=True, kw_only=True)
class KernelBuild:
    """A compiled file: its path, and the CUDA release (such as ``13.0``) of the compiler."""

    path: Path
    release: str
    choice: ArchitectureChoice
    usages: tuple[KernelUsage, ...]


def find_nvcc() -> Path:
    """Find the CUDA compiler: in CUDA_HOME, on the PATH, of JetPack, or of the extra ``cuda-build``.

    Raises:
        JepaExportError: It is not installed.
    """
    for candidate in _candidates():
        if os.access(candidate, os.X_OK):
            return candidate
    raise JepaExportError(
        "nvcc is not installed: run apt-get install cuda-toolkit on a Jetson (from JetPack), elsewhere "
        "pip install 'jepa-edge[cuda-build]'",
        code="target.nvcc_missing",
    )


def choose_architectures(codes: Iterable[str]) -> ArchitectureChoice:
    """Choose from the architectures that a compiler lists (``sm_87``, …).

    Raises:
        JepaExportError: The compiler is too old for every supported GPU.
    """
    known = {int(code.removeprefix("sm_")) for code in codes if re.fullmatch(r"sm_\d+", code)}
    recent = [number for number in known if number >= _OLDEST_PTX]
    if not recent:
        raise JepaExportError(
            f"nvcc supports no architecture from sm_{_OLDEST_PTX} on: install CUDA 12 or later",
            code="target.nvcc_unsupported",
        )
    architectures, left_out = [], []
    for jetson, names in JETSONS.items():
        found = [name for name in names if int(name.removeprefix("sm_")) in known]
        architectures += found[:1]
        if not found:
            left_out.append(f"{jetson}: this nvcc does not support {' or '.join(names)}")
    return ArchitectureChoice(architectures=tuple(architectures), ptx=min(recent), left_out=tuple(left_out))


def parse_usage(output: str) -> tuple[KernelUsage, ...]:
    """Parse the resources of each kernel from the output of ``ptxas -v``."""
    return tuple(
        KernelUsage(
            entry=found["entry"],
            architecture=found["architecture"],
            registers=int(found["registers"]),
            spilled_bytes=int(found["spilled"]),
        )
        for found in _USAGE.finditer(output)
    )


def compile_kernels(
    folder: Path, *, nvcc: Path | None = None, limits: ProcessLimits | None = None
) -> KernelBuild:
    """Compile the kernels into ``folder``; the file is written completely or not at all.

    Args:
        folder: Destination.
        nvcc: Path of the compiler; None: :func:`find_nvcc`.
        limits: Limits of the compiler.

    Raises:
        JepaExportError: nvcc is missing, warns or fails, or the folder cannot be written.
    """
    nvcc, limits = nvcc or find_nvcc(), limits or ProcessLimits(time_s=120)
    name = fatbin_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            scratch = Path(made)
            version = _output(nvcc, ["--version"], scratch, limits)
            release = re.search(r"release (\d+\.\d+)", version)
            if release is None:
                raise JepaExportError(
                    f"{nvcc} is not nvcc: --version printed {version.strip()!r}",
                    code="target.nvcc_unsupported",
                )
            choice = choose_architectures(_output(nvcc, ["--list-gpu-code"], scratch, limits).split())
            # Without folders in file names, the result does not depend on where it was compiled.
            (scratch / "preprocess.cu").write_bytes(source())
            arguments = ["-fatbin", *_STRICT, *choice.flags, "-o", name, "preprocess.cu"]
            output = _output(nvcc, arguments, scratch, limits)
            os.replace(scratch / name, folder / name)
    except OSError as error:
        raise JepaExportError(
            f"{error.filename or folder}: cannot be written: {error.strerror}", code="export.write_failed"
        ) from error
    return KernelBuild(path=folder / name, release=release[1], choice=choice, usages=parse_usage(output))


def describe(made: KernelBuild) -> str:
    """Describe the file, the GPUs it is for, the resources of each kernel, and what was left out."""
    major = made.release.partition(".")[0]
    binary = [*made.choice.architectures, f"PTX for other GPUs from sm_{made.choice.ptx} on"]
    return "\n".join(
        [
            f"{made.path} ({made.path.stat().st_size} bytes)",
            f"for {', '.join(binary)}; requires a driver of CUDA {major} or later",
            *(
                f"  {usage.architecture} {usage.entry}: {usage.registers} registers, "
                f"{usage.spilled_bytes} bytes spilled"
                for usage in made.usages
            ),
            *(f"left out: {reason}" for reason in made.choice.left_out),
        ]
    )


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("CUDA_HOME"):
        yield Path(home) / "bin" / "nvcc"
    if found := shutil.which("nvcc"):
        yield Path(found)
    yield Path("/usr/local/cuda/bin/nvcc")
    if wheels := find_spec("nvidia"):
        for place in wheels.submodule_search_locations or ():
            yield from sorted(Path(place).glob("cu*/bin/nvcc"))


def _output(nvcc: Path, arguments: list[str], folder: Path, limits: ProcessLimits) -> str:
    status, output = run_confined([str(nvcc), *arguments], folder=folder, limits=limits, what=str(nvcc))
    if status != 0:
        raise JepaExportError(
            f"{nvcc} ended with status {status}: {output.strip()}", code="target.nvcc_failed"
        )
    return output


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=FOLDERS[0],
        help="folder of the compiled file (default: %(default)s)",
    )
    try:
        print(describe(compile_kernels(parser.parse_args().folder)))
    except JepaExportError as error:
        sys.exit(str(error))
