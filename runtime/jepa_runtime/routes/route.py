"""A taught route: key frames along a drive, in a folder.

The folder has ``route.json`` (see :mod:`jepa_runtime.routes.manifest`), ``latents.npy`` (float32 [N, T, D])
and one PNG for each key frame in ``images``, at the resolution of the encoder, so that a route can be encoded
again for another model. The manifest has the hash of every other file.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.errors import FrameError, RouteError
from jepa_runtime.imaging.conversion import Image, decode, to_png
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.routes.manifest import (
    FORMAT_VERSION,
    IMAGES_NAME,
    LATENTS_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    KeyFrameRecord,
    RouteManifest,
    RouteModel,
    parse_manifest,
)
from jepa_runtime.util import atomic_files
from jepa_runtime.util.atomic_files import make_folder, move, read_small
from jepa_runtime.util.poses import travel_m

Floats = NDArray[np.float32]
Score = Callable[[Floats, Floats], Floats]
"""Returns the energies [N] of latents [N, T, D] to one latent [T, D], such as ``WorldModel.energy``."""

_MAX_IMAGE_BYTES = 64 << 20
_NPY_HEADER_BYTES = 4096
# Key frames whose energies to all others are computed, for the statistics.
_ANCHORS = 64
# Least travel between key frames, which are different places.
_LEAST_TRAVEL_M = 1e-3
# Key frames at least this far apart, in key frames, count as other places.
_FAR = 4
# Key frames whose energies to each of these are measured, besides its neighbors.
_OTHERS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyFrame:
    """One place of a route.

    Attributes:
        time_s: Time since the start of the route.
        latent: float32 [T, D].
        image: The image at the resolution of the encoder, as a PNG file.
        command: Mean command [A] until the next key frame; None: unknown.
        pose: Odometry pose x [m], y [m], yaw [rad]; None: unknown.
    """

    time_s: float
    latent: Floats
    image: bytes
    command: tuple[float, ...] | None = None
    pose: tuple[float, float, float] | None = None

    @classmethod
    def of(cls, image: Image, latent: Floats) -> KeyFrame:
        """Return a key frame of an image, uint8 [h, w, 3] RGB, at the start of a route."""
        return cls(time_s=0.0, latent=latent, image=to_png(image))

    @property
    def picture(self) -> Image:
        """The decoded image, uint8 [h, w, 3] RGB."""
        return decode(self.image)


@dataclass(frozen=True, kw_only=True, eq=False)
class Route:
    """A taught route.

    Attributes:
        model: The model that it was taught with.
        source: Where its images came from.
        key_frames: At least two places, in order.
        near_energy: Median energy between neighboring key frames.
        far_energy: Median energy between key frames of different places.
    """

    model: RouteModel
    source: str
    key_frames: tuple[KeyFrame, ...]
    near_energy: float
    far_energy: float

    def __len__(self) -> int:
        return len(self.key_frames)

    @property
    def duration_s(self) -> float:
        """Duration of the taught drive."""
        return self.key_frames[-1].time_s

    @cached_property
    def latents(self) -> Floats:
        """The latents of the key frames, float32 [N, T, D]."""
        return np.stack([key_frame.latent for key_frame in self.key_frames])

    @cached_property
    def times_s(self) -> NDArray[np.float64]:
        """The times of the key frames [N]."""
        return np.array([key_frame.time_s for key_frame in self.key_frames])

    @cached_property
    def poses(self) -> NDArray[np.float64] | None:
        """The odometry poses of the key frames [N, 3]; None: at least one is unknown."""
        poses = [key_frame.pose for key_frame in self.key_frames if key_frame.pose is not None]
        return np.array(poses) if len(poses) == len(self) else None

    @cached_property
    def traveled_m(self) -> NDArray[np.float64] | None:
        """The travel from the first key frame to each one [N]; None: the route has no odometry.

        See :func:`~jepa_runtime.util.poses.travel_m`.
        """
        if self.poses is None:
            return None
        steps = [max(travel_m(start, end), _LEAST_TRAVEL_M) for start, end in pairwise(self.poses)]
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def lost_energy(self) -> float:
        """Lowest energy to the key frames above which an image shows no place of the route.

        It is the geometric mean of the energies between neighbors and between different places, and at least
        twice the former.
        """
        return max(float(np.sqrt(self.near_energy * self.far_energy)), 2 * self.near_energy)

    def reversed(self) -> Route:
        """Return the route from its end to its start."""
        frames, duration_s = self.key_frames, self.duration_s
        commands = [
            None if before.command is None else tuple(-value for value in before.command)
            for before in reversed(frames[:-1])
        ]
        return replace(
            self,
            key_frames=tuple(
                replace(frame, time_s=duration_s - frame.time_s, command=command)
                for frame, command in zip(reversed(frames), [*commands, None], strict=True)
            ),
        )

    def index_at(self, time_s: float) -> int:
        """Return the key frame nearest to ``time_s``."""
        return int(np.abs(self.times_s - time_s).argmin())

    def check_model(self, model: RouteModel, where: str) -> None:
        """Check that latents and energies of ``model`` are comparable with those of the route.

        Args:
            model: The active model.
            where: The route, for the message.

        Raises:
            RouteError: Its encoder or its energy differs.
        """
        taught = self.model
        if (taught.latent_space, taught.tokens, taught.dim) != (model.latent_space, model.tokens, model.dim):
            part, code = "encoder", "route.encoder_mismatch"
        elif taught.energy_space != model.energy_space:
            part, code = "energy", "route.energy_mismatch"
        else:
            return
        raise RouteError(
            f"{where}: the route was taught with another {part} ({taught.model_id} {taught.version}) "
            "than that of "
            f"{model.model_id} {model.version}, or with another precision: encode its images again "
            "(jepa-runtime "
            "teach BUNDLE --from ROUTE --output NEW), or teach it again",
            code=code,
        )

    def save(self, path: Path) -> None:
        """Write the route to a new folder, which is complete or absent.

        Raises:
            RouteError: The folder exists.
            StorageError: It cannot be written.
        """
        check_absent(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            make_folder(temporary / IMAGES_NAME)
            for index, key_frame in enumerate(self.key_frames):
                atomic_files.write(temporary / image_name(index), key_frame.image)
            latents = io.BytesIO()
            np.save(latents, self.latents, allow_pickle=False)
            atomic_files.write(temporary / LATENTS_NAME, latents.getvalue())
            manifest = self._manifest(hashlib.sha256(latents.getvalue()).hexdigest())
            atomic_files.write(temporary / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())
            move(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @classmethod
    def open(cls, path: str | Path) -> Route:
        """Read a route and verify it completely.

        Raises:
            RouteError: There is none, it is incomplete, damaged, or of another format version.
        """
        folder = Path(path)
        manifest = parse_manifest(_read_manifest(folder), str(folder / MANIFEST_NAME))
        model, count = manifest.model, len(manifest.key_frames)
        size = count * model.tokens * model.dim * 4 + _NPY_HEADER_BYTES
        latents = _read_latents(
            _verified(folder / LATENTS_NAME, size, manifest.latents_sha256),
            (count, model.tokens, model.dim),
            folder / LATENTS_NAME,
        )
        key_frames = tuple(
            KeyFrame(
                time_s=record.time_s,
                latent=latent,
                image=_verified(folder / image_name(index), _MAX_IMAGE_BYTES, record.sha256),
                command=record.command,
                pose=record.pose,
            )
            for index, (record, latent) in enumerate(zip(manifest.key_frames, latents, strict=True))
        )
        return cls(
            model=model,
            source=manifest.source,
            key_frames=key_frames,
            near_energy=manifest.near_energy,
            far_energy=manifest.far_energy,
        )

    def encoded_with(self, model: WorldModel) -> Route:
        """Return the route with its images encoded by ``model``.

        Raises:
            RouteError: An image cannot be decoded, or the new energies do not tell the places apart.
        """
        identity = model_of(model)
        try:
            latents = [model.encode(frame.picture) for frame in self.key_frames]
        except FrameError as error:
            raise RouteError(
                f"an image of the route cannot be decoded: {error}", code="route.damaged"
            ) from error
        key_frames = tuple(
            replace(frame, latent=latent) for frame, latent in zip(self.key_frames, latents, strict=True)
        )
        near, far = measure_energies(np.stack(latents), model.energy)
        return replace(self, model=identity, key_frames=key_frames, near_energy=near, far_energy=far)

    def _manifest(self, latents_sha256: str) -> RouteManifest:
        return RouteManifest(
            format_version=FORMAT_VERSION,
            model=self.model,
            source=self.source,
            near_energy=self.near_energy,
            far_energy=self.far_energy,
            latents_sha256=latents_sha256,
            key_frames=tuple(
                KeyFrameRecord(
                    time_s=frame.time_s,
                    sha256=hashlib.sha256(frame.image).hexdigest(),
                    command=frame.command,
                    pose=frame.pose,
                )
                for frame in self.key_frames
            ),
        )


def model_of(model: WorldModel) -> RouteModel:
    """Return the description of an open model."""
    manifest = model.manifest
    return RouteModel(
        model_id=manifest.model_id,
        version=manifest.version,
        latent_space=model.latent_space,
        energy_space=model.energy_space,
        tokens=manifest.io.latent.tokens,
        dim=manifest.io.latent.dim,
        step_s=manifest.io.step_s,
        goal_threshold=manifest.goal_threshold,
        frame_width=manifest.io.frame.width,
        frame_height=manifest.io.frame.height,
        action_names=tuple(manifest.io.action.names),
        action_units=tuple(manifest.io.action.units),
    )


def measure_energies(latents: Floats, score: Score) -> tuple[float, float]:
    """Return the median energies between neighboring key frames and between different places.

    Args:
        latents: Latents of the key frames [N, T, D].
        score: Energies of latents to one latent.

    Raises:
        RouteError: They are not positive finite numbers.
    """
    count = len(latents)
    indices = np.arange(count)
    # Not all of a long route: the node that scores them must answer in time.
    others = np.unique(np.linspace(0, count - 1, min(count, _OTHERS)).round().astype(int))
    near: list[float] = []
    far: list[float] = []
    for anchor in np.unique(np.linspace(0, count - 1, min(count, _ANCHORS)).round().astype(int)):
        scored = np.union1d(others, indices[max(anchor - 1, 0) : anchor + 2])
        energies = score(latents[scored], latents[anchor])
        apart = np.abs(scored - anchor)
        near.extend(energies[apart == 1])
        far.extend(energies[apart >= min(_FAR, count - 1)])
    found = float(np.median(near)), float(np.median(far or near))
    if not all(np.isfinite(found)) or min(found) <= 0:
        raise RouteError(
            f"the energies between the key frames are {found[0]:g} (neighbors) and {found[1]:g} "
            "(other places): the "
            "model does not tell the places of this route apart: use another model",
            code="route.indistinct",
        )
    return found


def check_absent(path: Path) -> None:
    """Check that a route can be written to a folder.

    Raises:
        RouteError: It exists.
    """
    if path.exists() or path.is_symlink():
        raise RouteError(f"{path}: exists already: choose another name, or remove it", code="route.exists")


def image_name(index: int) -> str:
    """Return the path of an image in the folder of a route."""
    return f"{IMAGES_NAME}/{index:06d}.png"


def _read_manifest(folder: Path) -> bytes:
    if not folder.is_dir():
        raise RouteError(
            f"{folder}: no such folder: record a route with jepa-runtime teach", code="route.not_found"
        )
    path = folder / MANIFEST_NAME
    try:
        return read_small(path, MAX_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise RouteError(
            f"{folder}: no {MANIFEST_NAME}: this is not a route, or its recording was interrupted: "
            "teach it again",
            code="route.incomplete",
        ) from error
    except OSError as error:
        raise RouteError(f"{path}: cannot be read: {error.strerror}", code="route.not_readable") from error


def _verified(path: Path, max_bytes: int, sha256: str) -> bytes:
    try:
        content = read_small(path, max_bytes)
    except FileNotFoundError as error:
        raise RouteError(
            f"{path}: the file is missing: copy the route again, or teach it again", code="route.incomplete"
        ) from error
    except OSError as error:
        raise RouteError(f"{path}: cannot be read: {error.strerror}", code="route.not_readable") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RouteError(
            f"{path}: the file is not the one that {MANIFEST_NAME} lists: copy the route again, or "
            "teach it again",
            code="route.damaged",
        )
    return content


def _read_latents(content: bytes, shape: Sequence[int], path: Path) -> Floats:
    try:
        latents = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RouteError(
            f"{path}: not an array: {error}: teach the route again", code="route.damaged"
        ) from error
    if latents.dtype != np.float32 or latents.shape != tuple(shape) or not np.isfinite(latents).all():
        raise RouteError(
            f"{path}: must be float32 {list(shape)} finite numbers, got {latents.dtype} "
            f"{list(latents.shape)}: teach "
            "the route again",
            code="route.damaged",
        )
    array: Floats = latents
    return array
