"""Results of the finished steps of a run, which the same command does not repeat after an interruption.

A result is stored with the inputs of its step, among them :func:`environment`, and reused only if all of them
are the same and its files are intact.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import jepa_export
import jepa_runtime
from jepa_export.errors import JepaExportError
from jepa_runtime.backends import cpu_int8
from jepa_runtime.util import atomic_files, file_sha256

FOLDER = "finished_steps"
_RECORD, _FILES, _UNFINISHED = "result.json", "files", ".unfinished"


@dataclass(frozen=True)
class StepResult:
    """The result of a step.

    Attributes:
        values: JSON values.
        reused: Whether an earlier process made it.
    """

    values: Any
    reused: bool


class StepResults:
    """Run steps, and store the result of each in a folder.

    Args:
        folder: The folder, which no other process uses at the same time.
        progress: Called with each result that is reused, in words.
    """

    def __init__(self, folder: Path, progress: Callable[[str], None]) -> None:
        self._folder, self._progress = folder, progress

    def run(
        self,
        step: str,
        inputs: dict[str, Any],
        work: Callable[[Path], Any],
        *,
        into: Path | None = None,
    ) -> StepResult:
        """Return the stored result of a step, or do its work and store the result.

        Args:
            step: Name of the step.
            inputs: JSON values of everything that the result depends on, except the environment.
            work: Writes files into the empty folder that it is called with, and returns JSON values.
            into: Folder that the files are copied to.

        Raises:
            JepaExportError: The result cannot be stored.
        """
        inputs = json.loads(json.dumps({"environment": environment()} | inputs))
        folder = self._folder / re.sub(r"\W+", "_", step)
        values = self._load(folder, step, inputs)
        reused = values is not None
        if values is None:
            values = self._store(folder, inputs, work)
        if into is not None:
            shutil.copytree(folder / _FILES, into, dirs_exist_ok=True)
        return StepResult(values[0], reused)

    def remove(self) -> None:
        """Remove all results."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _load(self, folder: Path, step: str, inputs: dict[str, Any]) -> list[Any] | None:
        """Return the stored values as the only element of a list; None: there are none for these inputs."""
        try:
            record = json.loads((folder / _RECORD).read_bytes())
            before, files, values = dict(record["inputs"]), dict(record["files"]), record["values"]
            if changed := sorted(name for name in inputs if before.get(name) != inputs[name]):
                self._progress(f"{step}: repeated, because the {', '.join(changed)} changed")
                return None
            if _hashes(folder / _FILES) != files:
                raise ValueError("its files changed")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._progress(f"{step}: repeated, because the stored result is damaged ({error})")
            return None
        self._progress(f"{step}: reused from the interrupted run")
        return [values]

    def _store(self, folder: Path, inputs: dict[str, Any], work: Callable[[Path], Any]) -> list[Any]:
        unfinished = self._folder / _UNFINISHED
        with self._write_errors_reported():
            shutil.rmtree(unfinished, ignore_errors=True)
            (unfinished / _FILES).mkdir(parents=True)
        values = work(unfinished / _FILES)
        with self._write_errors_reported():
            record = {"inputs": inputs, "files": _hashes(unfinished / _FILES), "values": values}
            text = json.dumps(record, indent=2) + "\n"
            (unfinished / _RECORD).write_text(text)
            for path in _files(unfinished):
                atomic_files.sync_file(path)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        return [json.loads(text)["values"]]

    @contextmanager
    def _write_errors_reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JepaExportError(
                f"{self._folder}: cannot be written: {error.strerror or error}; earlier results are intact: "
                "free disk space and run the same command again",
                code="training.not_writable",
            ) from error


@cache
def environment() -> str:
    """Return a hash of the code that computes results, of all installed packages, and of Python.

    On processors that saturate INT8 sums, graphs are quantized differently.
    """
    packages = sorted({f"{each.name} {each.version}" for each in distributions()})
    roots = [Path(folder) for package in (jepa_export, jepa_runtime) for folder in package.__path__]
    code = [file_sha256(path) for root in roots for path in sorted(root.rglob("*.py"))]
    found = [sys.version, cpu_int8.saturates_here(), packages, code]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def network_hash(*networks: nn.Module) -> str:
    """Return a hash of the configurations, parameters and buffers of networks."""
    found = hashlib.sha256()
    for network in networks:
        for name, module in network.named_modules():
            found.update(f"{name} {type(module).__name__} {getattr(module, 'config', None)}\n".encode())
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            values = tensor.detach().cpu().contiguous().reshape(-1)
            found.update(values.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def array_hash(array: NDArray[np.generic]) -> str:
    """Return a hash of the type, shape and values of an array."""
    content = np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(f"{array.dtype} {array.shape}\n".encode() + content).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_sha256(path) for path in _files(folder)}
