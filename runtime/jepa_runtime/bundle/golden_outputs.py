"""The arrays of a bundle: golden inputs and reference outputs, and the checks of any ``.npz`` file."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle.manifest import MAX_TENSOR_BYTES, POSE_SIZE, POSE_VARIABLES, Manifest
from jepa_runtime.errors import BundleError

_MAX_MEMBERS = 64


@dataclass(frozen=True)
class GoldenOutputs:
    """Represent reference inputs and fp32 outputs of n frames.

    Attributes:
        frames: uint8 [n, H, W, 3]; of a model that reads clips, the clips [n, F, H, W, 3].
        latents: [n, T, D], the encoded frames.
        actions: [K, H, A].
        futures: [n, K, H, T, D], one set for each of :meth:`history_indices`.
        goal: [1, T, D].
        energy: [n], from ``latents[i]`` to ``goal``; None if the bundle has no energy graph.
        relative_pose: [n, 5], of ``goal`` in the frame of ``latents[i]``; None if the bundle has no relative
            pose graph.
        history_actions: [W-1, A], executed in each history; None if a history is one frame, or repeats one
            frame.
        history_states: [W, S], the states of the robot in each history; None if the predictor reads none.
    """

    frames: NDArray[np.uint8]
    latents: NDArray[np.float32]
    actions: NDArray[np.float32]
    futures: NDArray[np.float32]
    goal: NDArray[np.float32]
    energy: NDArray[np.float32] | None
    relative_pose: NDArray[np.float32] | None = None
    history_actions: NDArray[np.float32] | None = None
    history_states: NDArray[np.float32] | None = None

    def history_indices(self, size: int) -> NDArray[np.intp]:
        """Return the frame indices of each history of ``size`` frames: [n, ``size``], the newest last.

        Without ``history_actions`` (earlier exports have none), a history repeats one frame.
        """
        count = len(self.frames)
        if self.history_actions is None:
            return history_indices(count, 1).repeat(size, 1)
        return history_indices(count, size)


def history_indices(count: int, size: int) -> NDArray[np.intp]:
    """Return the frame indices of each history in a cycle of ``count`` frames: [``count``, ``size``]."""
    return (np.arange(count)[:, None] - np.arange(size)[::-1]) % count


def read_golden(data: bytes, manifest: Manifest, where: str) -> GoldenOutputs:
    """Read the golden arrays, and check them against the manifest.

    Raises:
        BundleError: An array is missing, unexpected, of the wrong shape or type, or not finite.
    """
    arrays = read_npz(data, where)
    spec = manifest.io
    latent = (spec.latent.tokens, spec.latent.dim)
    frames, actions = arrays.get("frames"), arrays.get("actions")
    n = len(frames) if frames is not None and frames.ndim else 0
    k = len(actions) if actions is not None and actions.ndim else 0
    if n == 0 or k == 0:
        raise BundleError(
            f"{where}: must hold at least one frame and one candidate: export the model again",
            code="bundle.golden_invalid",
        )
    clip = () if spec.clip is None else (spec.clip.frames,)
    expected: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "frames": ((n, *clip, spec.frame.height, spec.frame.width, spec.frame.channels), np.uint8),
        "latents": ((n, *latent), np.float32),
        "actions": ((k, manifest.horizon, manifest.action_size), np.float32),
        "futures": ((n, k, manifest.horizon, *latent), np.float32),
        "goal": ((1, *latent), np.float32),
    }
    if manifest.graphs.energy:
        expected["energy"] = ((n,), np.float32)
    if manifest.graphs.relative_pose:
        expected["relative_pose"] = ((n, POSE_SIZE), np.float32)
    if "history_actions" in arrays and manifest.history_size > 1:
        expected["history_actions"] = ((manifest.history_size - 1, manifest.action_size), np.float32)
    if manifest.state_size:
        expected["history_states"] = ((manifest.history_size, manifest.state_size), np.float32)
    if arrays.keys() != expected.keys():
        raise BundleError(
            f"{where}: must hold {', '.join(expected)}; holds {', '.join(arrays)}: export the model again",
            code="bundle.golden_invalid",
        )
    for name, (shape, dtype) in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != dtype:
            raise BundleError(
                f"{where}: {name} must be {np.dtype(dtype)} {list(shape)}, "
                f"is {array.dtype} {list(array.shape)}: export the model again",
                code="bundle.golden_invalid",
            )
        if not np.isfinite(array).all():
            raise BundleError(
                f"{where}: {name} holds NaN or infinity: export the model again", code="bundle.golden_invalid"
            )
    floats = {name: arrays[name].astype(np.float32, copy=False) for name in expected if name != "frames"}
    poses = floats.get("relative_pose")
    if poses is not None and not (poses[:, POSE_VARIABLES:] > 0).all():
        raise BundleError(
            f"{where}: relative_pose has a standard deviation that is not positive: export the model again",
            code="bundle.golden_invalid",
        )
    return GoldenOutputs(
        frames=arrays["frames"].astype(np.uint8, copy=False), energy=floats.pop("energy", None), **floats
    )


def read_npz(data: bytes, where: str) -> dict[str, NDArray[np.generic]]:
    """Read the arrays of an ``.npz`` file: plain numbers only, at most 1 GiB in total.

    Raises:
        BundleError: It is damaged, too large, or holds Python objects (pickle), which could run code.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > MAX_TENSOR_BYTES:
                raise BundleError(
                    f"{where}: more than {_MAX_MEMBERS} arrays or {MAX_TENSOR_BYTES >> 30} GiB",
                    code="bundle.too_large",
                )
            arrays: dict[str, NDArray[np.generic]] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays or not member.filename.endswith(".npy"):
                    raise BundleError(
                        f"{where}: {member.filename!r} is not an array, or is duplicated: save it with NumPy",
                        code="bundle.array_invalid",
                    )
                arrays[name] = _read_member(archive, member, f"{where}: {name}")
            return arrays
    except BundleError:
        raise
    # zipfile, zlib and NumPy's header parser raise arbitrary errors for damaged files.
    except Exception as error:
        raise BundleError(
            f"{where}: not a readable .npz file: {error}: copy the bundle again", code="bundle.array_invalid"
        ) from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> NDArray[np.generic]:
    # zipfile decompresses bzip2, for example, completely, however few bytes are read.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BundleError(
            f"{where}: uses a compression method that NumPy does not use: save it with NumPy",
            code="bundle.array_invalid",
        )
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        # Plain numbers need no later version of the header.
        if version != (1, 0):
            raise ValueError(f"unsupported npy format {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or dtype.fields is not None or dtype.kind not in "biuf":
            raise BundleError(
                f"{where}: holds {dtype}, not plain numbers: objects (pickle) are never loaded",
                code="bundle.array_invalid",
            )
        # Sizes are checked before memory is allocated.
        count = 1
        for length in shape:
            if length < 0:
                raise ValueError(f"shape {shape}")
            count *= length
        if fortran or count * dtype.itemsize > MAX_TENSOR_BYTES:
            raise BundleError(
                f"{where}: must be in C order and at most {MAX_TENSOR_BYTES >> 30} GiB, is {shape}",
                code="bundle.too_large",
            )
        # Reading one byte more than needed makes zipfile check the CRC.
        content = file.read(count * dtype.itemsize + 1)
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"array of {count * dtype.itemsize} bytes has {len(content)}")
    return np.frombuffer(content, dtype).reshape(shape)
