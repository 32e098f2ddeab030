"""The protocol of inference engines.

A backend and its sessions are created, used and closed on one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from jepa_runtime.errors import BackendError

Array = NDArray[Any]
Shape = tuple[int, ...]
"""The shape of a tensor."""
_MAX_THREADS = 1024


@dataclass(frozen=True)
class BackendOptions:
    """Represent the options of a backend.

    Attributes:
        threads: Threads of one inference, at most 1024; None: chosen by the engine.
        cache_dir: The folder for compiled models, which makes later starts faster; None: no cache.
            ONNX Runtime has no cache.
        build: None: engines that take minutes to build (TensorRT) must have been built. Otherwise missing
            engines are built; the function is called, on any thread, with the graph, the phase, the number
            of finished steps and of all steps. It returns False to stop the build.
        between: Called before each step of loading a model. A caller that loads a model while another serves
            can wait here.
    """

    threads: int | None = 1
    cache_dir: Path | None = None
    build: Callable[[str, str, int, int], bool] | None = None
    between: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= _MAX_THREADS:
            raise BackendError(
                f"threads must be from 1 to {_MAX_THREADS}, got {self.threads}", code="backend.option_invalid"
            )


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of an engine: profiles record its version, and ``jepa-runtime doctor`` checks it.

    Attributes:
        name: The name of the distribution.
        title: The name in messages (default: ``name``).
        at_least: The oldest supported version; None: any, and the doctor does not require the package.
        below: The first version that is not supported; None: there is none.
        machines: The kinds of machine (:mod:`jepa_runtime.doctor.machine`) on which the doctor requires it,
            unless the bundle has no graph for the engine; empty: it is required everywhere.
        instructions: What else installs it: lines for a shell, before the command of pip.
        pip: Whether pip can install it.
        pip_environment: Variables for pip, such as ``PATH=/opt/bin:$PATH``.
    """

    name: str
    title: str = ""
    at_least: tuple[int, int] | None = None
    below: tuple[int, int] | None = None
    machines: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    pip: bool = True
    pip_environment: str = ""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Declare an engine: everything that the rest of the program must know about it.

    Attributes:
        name: The name before the colon in ``openvino:CPU``. An entry point has the same name.
        description: One line, for lists of engines.
        create: Opens the engine on a device. It imports the libraries of the engine.
        devices: For each target of graphs that the engine runs (see
            :class:`~jepa_runtime.bundle.manifest.Variant`) the device on which its variants are verified, the
            engine's own targets first.
        default_device: The device if none is given.
        further_devices: Devices that are neither this nor those of ``devices``.
        modules: Python modules that the engine imports.
        install: How to install them.
        packages: The packages whose versions matter.
        build_folder: For engines that run only what ``jepa-runtime build-engine`` has built: returns the
            folder of built engines, for the ``cache_dir`` of the options. None: no build is required.
        reference_for: Targets whose variants this engine computes on the workstation that exports them.
        preferred_targets: For each kind of machine (:mod:`jepa_runtime.doctor.machine`) that the engine is
            meant for, the targets to build bundles with, the best first.
        fallback_targets: What happens on these machines if a bundle has only a variant for another target, by
            target, for the doctor.
        transfers: How inputs get to the device and outputs back, for reports; empty: inside encode and
            predict.
    """

    name: str
    description: str
    create: Callable[[str, BackendOptions], Backend] = field(repr=False)
    devices: Mapping[str, str]
    default_device: str = "CPU"
    further_devices: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    install: str = ""
    packages: tuple[Package, ...] = ()
    build_folder: Callable[[Path | None], Path] | None = field(default=None, repr=False)
    reference_for: tuple[str, ...] = ()
    preferred_targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fallback_targets: Mapping[str, str] = field(default_factory=dict)
    transfers: str = ""

    @property
    def requires_build(self) -> bool:
        """Whether the engine runs only what ``jepa-runtime build-engine`` has built."""
        return self.build_folder is not None

    @property
    def is_installed(self) -> bool:
        """Whether the modules of the engine are installed. Its device may still be missing."""
        return all(find_spec(module) is not None for module in self.modules)


@dataclass(frozen=True)
class Graph:
    """Represent a graph in memory: the engine loads the bytes that were verified.

    Attributes:
        name: The name in error messages.
        model: The ``.xml`` or ``.onnx`` file.
        weights: The ``.bin`` file of an ``.xml``, else None.
        precision: int8, fp16, bf16 or fp32; None if unknown. On a CPU, operations that the graph does not
            quantize are computed in bf16 if this is bf16, else in fp32. On any device, fp32 is computed in
            fp32.
        dynamic_quantization_group_size: The exception to this, see
            :class:`~jepa_runtime.bundle.manifest.Variant`.
        blob: Returns what was compiled ahead of time for an NPU platform, and its metadata
            (:class:`~jepa_runtime.backends.openvino.npu.Origin`); None if there is none.
    """

    name: str
    model: bytes
    weights: bytes | None = None
    precision: str | None = None
    dynamic_quantization_group_size: int = 0
    blob: Callable[[str], tuple[bytes, bytes] | None] = lambda _: None

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the model followed by the weights."""
        digest = hashlib.sha256(self.model)
        digest.update(self.weights or b"")
        return digest.hexdigest()

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Read a graph from trusted files (your own export, not a bundle).

        Raises:
            BackendError: A file cannot be read.
        """
        try:
            weights = path.with_suffix(".bin").read_bytes() if path.suffix == ".xml" else None
            return cls(str(path), path.read_bytes(), weights)
        except OSError as error:
            raise BackendError(
                f"{error.filename}: cannot be read: {error.strerror}", code="backend.graph_unreadable"
            ) from error


@dataclass(frozen=True)
class LayerTime:
    """Represent one operation as the engine executed it, and its mean time per run (ms)."""

    name: str
    kind: str
    implementation: str
    mean_ms: float


class Session(Protocol):
    """A graph compiled for fixed shapes."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """The input buffers of the engine, to be written in place."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """The output buffers of the engine, overwritten by each run."""

    def run(self) -> Mapping[str, Array]:
        """Compute ``outputs`` from ``inputs``.

        Raises:
            BackendError: The engine failed. It is a DeviceLostError if no later call can succeed.
        """

    def close(self) -> None:
        """Release all resources; the buffers become invalid. Repeated calls have no effect."""


@dataclass(frozen=True)
class SessionPart:
    """Represent the buffers of a part of the rows, with a copy of the inputs that all rows share."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@runtime_checkable
class PartitionedSession(Protocol):
    """A session that computes its rows in parallel parts, each of which can have its own inputs."""

    parts: tuple[SessionPart, ...]

    def run_parts(self, count: int) -> None:
        """Compute the outputs of the first ``count`` parts from their inputs.

        Raises:
            BackendError: The engine failed.
        """


@runtime_checkable
class TimedSession(Protocol):
    """A session on a device with its own clock."""

    @property
    def device_ms(self) -> float:
        """The time of the last run on the device, including copies of inputs and outputs."""


@runtime_checkable
class ScalingSession(Protocol):
    """A session that can resize images to its input ``frame`` on the device."""

    def scale(self, image: Array) -> bool:
        """Use an image as the ``frame`` of the next run.

        Args:
            image: uint8 [h, w, 3] RGB; it is read before this returns.

        Returns:
            False if the session cannot resize it; then write ``inputs["frame"]``.
        """


@runtime_checkable
class LinkableSession(Protocol):
    """A session that can read an output of another session on the device."""

    def link(self, name: str, source: Session, output: str) -> Session | None:
        """Return another session of the same graph that reads input ``name`` from ``output`` of ``source``.

        The data stays on the device. Close the new session before ``source``.

        Returns:
            None if the sizes differ, or the two are not on the same device.
        """


class Backend(Protocol):
    """An engine on a device."""

    @property
    def engine(self) -> str:
        """The name of the engine, before the colon in ``openvino:CPU``."""

    @property
    def device(self) -> str:
        """The device in use."""

    @property
    def version(self) -> str:
        """The version of the engine."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of graphs that it runs, the preferred first."""

    def load(self, graph: Graph | Path, shapes: Mapping[str, Shape], rows: Collection[str] = ()) -> Session:
        """Compile a graph.

        Args:
            graph: The graph, or the path of its file.
            shapes: The shape of each input.
            rows: Inputs whose first axis enumerates independent rows; the first axis of every output
                enumerates the same rows. A backend may distribute them among its threads.

        Raises:
            BackendError: The graph is damaged, has other inputs, or does not accept these shapes.
        """

    def layer_times(self, graph: Graph, shapes: Mapping[str, Shape], runs: int) -> list[LayerTime]:
        """Measure the time of each operation over ``runs`` runs on zeros.

        Profiling slows the graph down: the sum exceeds the time of a normal run.

        Raises:
            BackendError: See :meth:`load`.
        """

    def close(self) -> None:
        """Release all resources. Repeated calls have no effect."""


def check_inputs(graph: str, offered: Iterable[str], requested: Mapping[str, Shape]) -> None:
    """Check that a graph has exactly the inputs for which shapes are given.

    Raises:
        BackendError: It has others.
    """
    names = list(offered)
    if set(names) != requested.keys():
        raise BackendError(
            f"{graph}: has the inputs {', '.join(sorted(names))}, expected "
            f"{', '.join(sorted(requested))}: the manifest does not match the graph, export the model again",
            code="backend.graph_mismatch",
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error without source locations; a line ending in a colon is continued."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    relevant = [line for line in lines if not line.startswith(("Exception from src", "Check '"))]
    first, *others = relevant or lines or [type(error).__name__]
    while first.endswith(":") and others:
        first = f"{first} {others.pop(0)}"
    return first
