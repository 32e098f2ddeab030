"""What an engine must offer. A backend and its sessions are created, used and closed on one thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from jepa_runtime.errors import BackendError

Array = NDArray[Any]
Shape = tuple[int, ...]
_MOST_THREADS = 1024


@dataclass(frozen=True)
class BackendOptions:
    """How an engine is to run.

    Attributes:
        threads: for one inference, at most 1024; None leaves it to the engine.
        cache_dir: where compiled models are kept, so that the next start is quicker; None: nowhere.
            Onnxruntime keeps none.
        build: None: engines that take minutes to build (TensorRT) must be there. Else they are built where
            they are not, and this is told, on any thread, the graph, a phase of the work, its steps done and
            all of them; False ends it.
        between: called while a model is loaded, before each part of the work: who loads one beside another
            that serves waits there until it does no harm.
    """

    threads: int | None = 1
    cache_dir: Path | None = None
    build: Callable[[str, str, int, int], bool] | None = None
    between: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= _MOST_THREADS:
            raise BackendError(f"threads must be at least 1 and at most {_MOST_THREADS}, got {self.threads}")


@dataclass(frozen=True)
class Graph:
    """A graph in memory: the very bytes that were verified are those that the engine loads.

    Attributes:
        name: how errors call it.
        model: the ``.xml`` or ``.onnx``.
        weights: the ``.bin`` of an ``.xml``, else None.
        precision: int8, fp16, bf16 or fp32, or None if unknown. On a CPU, what the graph itself does not
            quantize is computed in bf16 if this is bf16, else in fp32. On any device, fp32 is computed in
            fp32.
        dynamic_quantization_group_size: the exception, see :class:`~jepa_runtime.bundle.manifest.Variant`.
        blob: gives what was compiled ahead of time for a platform of an NPU, and what that came from
            (:class:`~jepa_runtime.backends.openvino.npu.Origin`); None if nothing was.
    """

    name: str
    model: bytes
    weights: bytes | None = None
    precision: str | None = None
    dynamic_quantization_group_size: int = 0
    blob: Callable[[str], tuple[bytes, bytes] | None] = lambda _: None

    @cached_property
    def sha256(self) -> str:
        """Of the model, then the weights."""
        digest = hashlib.sha256(self.model)
        digest.update(self.weights or b"")
        return digest.hexdigest()

    @classmethod
    def read(cls, path: Path) -> Graph:
        """A graph from files that are trusted (one's own export, not a bundle).

        Raises:
            BackendError: a file cannot be read.
        """
        try:
            weights = path.with_suffix(".bin").read_bytes() if path.suffix == ".xml" else None
            return cls(str(path), path.read_bytes(), weights)
        except OSError as error:
            raise BackendError(f"{error.filename}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class LayerTime:
    """One operation as the engine executed it, and its mean time in a run (ms)."""

    name: str
    kind: str
    implementation: str
    mean_ms: float


class Session(Protocol):
    """A graph of fixed shapes, ready to run."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """The engine's own input buffers, to be written in place."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """The engine's own output buffers, overwritten by each run."""

    def run(self) -> Mapping[str, Array]:
        """Compute ``outputs`` from ``inputs``.

        Raises:
            BackendError: the engine failed. It is a DeviceLostError where no later call can succeed.
        """

    def close(self) -> None:
        """Give everything back; the buffers must not be used any more. May be called again."""


@dataclass(frozen=True)
class DevicePart:
    """Buffers of a part of a session's rows; of what all rows share each part has a copy."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


@runtime_checkable
class Divided(Protocol):
    """A session whose rows are computed in parts side by side; each may be given inputs of its own."""

    parts: tuple[DevicePart, ...]

    def run_parts(self, count: int) -> None:
        """Compute the outputs of the first ``count`` parts from their inputs.

        Raises:
            BackendError: the engine failed.
        """


@runtime_checkable
class TimesItself(Protocol):
    """A session of a device with a clock of its own."""

    @property
    def device_ms(self) -> float:
        """How long the device had the last run, copies of inputs and outputs included."""


@runtime_checkable
class ScalesImages(Protocol):
    """A session that can bring images to the size of its input ``frame`` itself."""

    def scale(self, image: Array) -> bool:
        """Take the next run's ``frame`` from an image.

        Args:
            image: uint8 [h, w, 3] RGB; read before this returns.

        Returns:
            False: it cannot do it; ``inputs["frame"]`` is to be written.
        """


@runtime_checkable
class Links(Protocol):
    """A session that can work on what another one left on the device."""

    def link(self, name: str, source: Session, output: str) -> Session | None:
        """A further session of the same graph whose input ``name`` is an ``output`` of another session, where
        it lies: it does not go to the host and back. It must be closed before ``source``.

        Returns:
            None: these two hold other numbers of bytes, or not on this device.
        """


class Backend(Protocol):
    """An engine on a device."""

    @property
    def engine(self) -> str:
        """Its name, as in ``openvino:CPU`` before the colon."""

    @property
    def device(self) -> str:
        """The device that serves."""

    @property
    def version(self) -> str:
        """The engine's version."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The kinds of graph that it runs, the preferred first."""

    def load(self, graph: Graph | Path, shapes: Mapping[str, Shape], rows: Collection[str] = ()) -> Session:
        """Compile a graph for the given shape of each input.

        Args:
            rows: inputs whose first axis counts rows that know nothing of each other; that of every output
                counts the same rows. A backend may share them out among its threads.

        Raises:
            BackendError: the graph is damaged, its inputs are others, or it does not take these shapes.
        """

    def layer_times(self, graph: Graph, shapes: Mapping[str, Shape], runs: int) -> list[LayerTime]:
        """Time of each operation over ``runs`` runs on zeros. Counting slows the graph down: the sum is more
        than a run takes.

        Raises:
            BackendError: as for :meth:`load`.
        """

    def close(self) -> None:
        """Give everything back. May be called again."""


def check_inputs(graph: str, offered: Iterable[str], asked: Mapping[str, Shape]) -> None:
    """Check that a graph has exactly the inputs for which shapes are given.

    Raises:
        BackendError: it has others.
    """
    names = list(offered)
    if set(names) != asked.keys():
        raise BackendError(
            f"{graph}: has the inputs {', '.join(sorted(names))}; asked for were {', '.join(sorted(asked))}: "
            "the manifest does not fit the graph, export the model again"
        )


def first_line(error: BaseException) -> str:
    """What an engine said, without the lines of its source code that it likes to add; a line that ends with a
    colon goes on in the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from src", "Check '"))]
    first, *others = told or lines or [type(error).__name__]
    while first.endswith(":") and others:
        first = f"{first} {others.pop(0)}"
    return first
