"""The CUDA kernels of the runtime, compiled by nvcc for Jetsons into the file that a backend loads.

``python -m jepa_export.targets.kernels [FOLDER]`` does it, on the Jetson itself (JetPack has nvcc) or on any
Linux with the extra ``cuda-build``; it needs no GPU. A driver loads what its own major release of CUDA or an
earlier one compiled: for JetPack 6 (CUDA 12) compile on the Jetson."""

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
from jepa_export.targets.confined_process import Limits, run_confined
from jepa_runtime.backends.tensorrt.kernels import FOLDERS, fatbin_name, source

# Thor's has been renamed in CUDA 13.
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
class Usage:
    """What one kernel takes of one GPU: registers a thread, and bytes of them that had to go to memory."""

    entry: str
    architecture: str
    registers: int
    spilled_bytes: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a compiler can be asked for.

    Attributes:
        architectures: of Jetsons that it knows.
        ptx: what every other GPU from there on compiles when it loads the file.
        left_out: a Jetson and why, one a line.
    """

    architectures: tuple[str, ...]
    ptx: int
    left_out: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        """As nvcc takes them."""
        numbers = [int(name.removeprefix("sm_")) for name in self.architectures]
        binary = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
        return [*binary, f"-gencode=arch=compute_{self.ptx},code=compute_{self.ptx}"]


@dataclass(frozen=True, kw_only=True)
class Build:
    """What was made: ``path``, by ``release`` of CUDA (``13.0``)."""

    path: Path
    release: str
    choice: Choice
    usages: tuple[Usage, ...]


def find_nvcc() -> Path:
    """The CUDA compiler: of CUDA_HOME, on the PATH, where JetPack puts it, or of the extra ``cuda-build``.

    Raises:
        JepaExportError: there is none; the message says what to install.
    """
    for candidate in _candidates():
        if os.access(candidate, os.X_OK):
            return candidate
    raise JepaExportError(
        "nvcc is not here: on a Jetson apt-get install cuda-toolkit (of JetPack), elsewhere "
        "pip install 'jepa-edge[cuda-build]'"
    )


def choose(codes: Iterable[str]) -> Choice:
    """What of the architectures that a compiler lists (``sm_87``, …) is worth compiling for.

    Raises:
        JepaExportError: it knows nothing that any of our GPUs runs.
    """
    known = {int(code.removeprefix("sm_")) for code in codes if re.fullmatch(r"sm_\d+", code)}
    recent = [number for number in known if number >= _OLDEST_PTX]
    if not recent:
        raise JepaExportError(f"nvcc compiles for nothing from sm_{_OLDEST_PTX} on: take CUDA 12 or later")
    architectures, left_out = [], []
    for jetson, names in JETSONS.items():
        found = [name for name in names if int(name.removeprefix("sm_")) in known]
        architectures += found[:1]
        if not found:
            left_out.append(f"{jetson}: this nvcc does not know {' or '.join(names)}")
    return Choice(architectures=tuple(architectures), ptx=min(recent), left_out=tuple(left_out))


def usages(said: str) -> tuple[Usage, ...]:
    """What ``ptxas -v`` said of each kernel."""
    return tuple(
        Usage(
            entry=found["entry"],
            architecture=found["architecture"],
            registers=int(found["registers"]),
            spilled_bytes=int(found["spilled"]),
        )
        for found in _USAGE.finditer(said)
    )


def build(folder: Path, *, nvcc: Path | None = None, limits: Limits | None = None) -> Build:
    """Compile the kernels into ``folder``, where the file appears whole or not at all.

    Args:
        nvcc: default: what :func:`find_nvcc` finds.

    Raises:
        JepaExportError: there is no nvcc, it warns or fails, or the folder cannot be written to.
    """
    nvcc, limits = nvcc or find_nvcc(), limits or Limits(time_s=120)
    name = fatbin_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            scratch = Path(made)
            version = _say(nvcc, ["--version"], scratch, limits)
            release = re.search(r"release (\d+\.\d+)", version)
            if release is None:
                raise JepaExportError(f"{nvcc} is no nvcc: --version printed {version.strip()!r}")
            choice = choose(_say(nvcc, ["--list-gpu-code"], scratch, limits).split())
            # Names without folders, so that the file does not depend on where it was made.
            (scratch / "preprocess.cu").write_bytes(source())
            asked = ["-fatbin", *_STRICT, *choice.flags, "-o", name, "preprocess.cu"]
            said = _say(nvcc, asked, scratch, limits)
            os.replace(scratch / name, folder / name)
    except OSError as error:
        raise JepaExportError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    return Build(path=folder / name, release=release[1], choice=choice, usages=usages(said))


def describe(made: Build) -> str:
    """What a user reads: the file, for which GPUs, what each kernel takes, and what was left out."""
    major = made.release.partition(".")[0]
    binary = [*made.choice.architectures, f"PTX for others from sm_{made.choice.ptx} on"]
    return "\n".join(
        [
            f"{made.path} ({made.path.stat().st_size} bytes)",
            f"for {', '.join(binary)}; loads where the driver is of CUDA {major} or later",
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


def _say(nvcc: Path, words: list[str], folder: Path, limits: Limits) -> str:
    status, said = run_confined([str(nvcc), *words], folder=folder, limits=limits, what=str(nvcc))
    if status != 0:
        raise JepaExportError(f"{nvcc} ended with status {status}: {said.strip()}")
    return said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDERS[0], help="for them (%(default)s)")
    try:
        print(describe(build(parser.parse_args().folder)))
    except JepaExportError as error:
        sys.exit(str(error))
