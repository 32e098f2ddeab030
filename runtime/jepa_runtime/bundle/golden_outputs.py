"""Arrays of a bundle: the golden inputs and reference outputs, and what any ``.npz`` of a bundle must be."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle.manifest import MAX_TENSOR_BYTES, Manifest
from jepa_runtime.errors import BundleError

_MAX_MEMBERS = 64


@dataclass(frozen=True)
class GoldenOutputs:
    """Reference inputs and fp32 outputs of n frames.

    Attributes:
        frames: uint8 [n, H, W, 3].
        latents: [n, T, D], the frames encoded.
        actions: [K, H, A].
        futures: [n, K, H, T, D], of each of :meth:`histories`.
        goal: [1, T, D].
        energy: [n], of ``latents[i]`` to ``goal``; None where the bundle has no energy graph.
        history_actions: [W-1, A], executed in each history; None where histories are of one frame, or stand
            still.
    """

    frames: NDArray[np.uint8]
    latents: NDArray[np.float32]
    actions: NDArray[np.float32]
    futures: NDArray[np.float32]
    goal: NDArray[np.float32]
    energy: NDArray[np.float32] | None
    history_actions: NDArray[np.float32] | None = None

    def histories(self, size: int) -> NDArray[np.intp]:
        """Which of the frames each history of ``size`` shows: [n, ``size``], the newest last. Without
        ``history_actions`` (earlier exports have none) one frame stands for all."""
        count = len(self.frames)
        return histories(count, 1).repeat(size, 1) if self.history_actions is None else histories(count, size)


def histories(count: int, size: int) -> NDArray[np.intp]:
    """The frames of each history as if ``count`` frames came again and again: [``count``, ``size``]."""
    return (np.arange(count)[:, None] - np.arange(size)[::-1]) % count


def read_golden(data: bytes, manifest: Manifest, where: str) -> GoldenOutputs:
    """Read and check the golden arrays against the manifest.

    Raises:
        BundleError: an array is missing, not expected, of another shape or type, or not finite.
    """
    arrays = read_npz(data, where)
    spec = manifest.io
    latent = (spec.latent.tokens, spec.latent.dim)
    frames, actions = arrays.get("frames"), arrays.get("actions")
    n = len(frames) if frames is not None and frames.ndim else 0
    k = len(actions) if actions is not None and actions.ndim else 0
    if n == 0 or k == 0:
        raise BundleError(f"{where}: needs at least one frame and one candidate: export the model again")
    expected: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "frames": ((n, spec.frame.height, spec.frame.width, spec.frame.channels), np.uint8),
        "latents": ((n, *latent), np.float32),
        "actions": ((k, manifest.horizon, manifest.action_size), np.float32),
        "futures": ((n, k, manifest.horizon, *latent), np.float32),
        "goal": ((1, *latent), np.float32),
    }
    if manifest.graphs.energy:
        expected["energy"] = ((n,), np.float32)
    if "history_actions" in arrays and manifest.history_size > 1:
        expected["history_actions"] = ((manifest.history_size - 1, manifest.action_size), np.float32)
    if arrays.keys() != expected.keys():
        raise BundleError(f"{where}: must hold {', '.join(expected)}; holds {', '.join(arrays)}")
    for name, (shape, dtype) in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != dtype:
            raise BundleError(
                f"{where}: {name} must be {np.dtype(dtype)} {list(shape)}, "
                f"is {array.dtype} {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise BundleError(f"{where}: {name} holds NaN or infinity")
    floats = {name: arrays[name].astype(np.float32, copy=False) for name in expected if name != "frames"}
    return GoldenOutputs(
        frames=arrays["frames"].astype(np.uint8, copy=False), energy=floats.pop("energy", None), **floats
    )


def read_npz(data: bytes, where: str) -> dict[str, NDArray[np.generic]]:
    """The arrays of an ``.npz``: plain numbers only, at most 1 GiB together.

    Raises:
        BundleError: it is damaged, too large, or holds Python objects (pickle), which could run code.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > MAX_TENSOR_BYTES:
                raise BundleError(f"{where}: more than {_MAX_MEMBERS} arrays or {MAX_TENSOR_BYTES >> 30} GiB")
            arrays: dict[str, NDArray[np.generic]] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays or not member.filename.endswith(".npy"):
                    raise BundleError(f"{where}: {member.filename!r} is no array, or there twice")
                arrays[name] = _read_member(archive, member, f"{where}: {name}")
            return arrays
    except BundleError:
        raise
    # zipfile, zlib and numpy's header parser raise whatever damage makes them raise.
    except Exception as error:
        raise BundleError(f"{where}: not a readable .npz: {error}; copy the bundle again") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> NDArray[np.generic]:
    # Of bzip2, for one, zipfile decompresses all at once, however little was asked for.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(f"{where}: is compressed in a way that NumPy does not use: save it with NumPy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        # Others are for headers that plain numbers do not need.
        if version != (1, 0):
            raise ValueError(f"npy format {version} is unknown")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or dtype.fields is not None or dtype.kind not in "biuf":
            raise BundleError(f"{where}: holds {dtype}, not plain numbers: objects (pickle) are never loaded")
        # Sizes are checked before any memory is asked for.
        count = 1
        for length in shape:
            if length < 0:
                raise ValueError(f"shape {shape}")
            count *= length
        if fortran or count * dtype.itemsize > MAX_TENSOR_BYTES:
            raise BundleError(
                f"{where}: must be in C order and at most {MAX_TENSOR_BYTES >> 30} GiB, is {shape}"
            )
        # One byte more than needed also makes zipfile check the CRC.
        content = file.read(count * dtype.itemsize + 1)
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"array of {count * dtype.itemsize} bytes has {len(content)}")
    return np.frombuffer(content, dtype).reshape(shape)
