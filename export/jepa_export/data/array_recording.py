"""A recording in memory: arrays of frames, and the actions between them if there are any."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_runtime.imaging import Image
from jepa_runtime.sources import Commands, Floats, Stamps


class ArrayRecording:
    """One episode as arrays: a :class:`~jepa_export.data.recording.Recording` without files.

    Args:
        images: uint8 [n, height, width, 3] RGB, ``step_s`` apart.
        actions: [n - 1, A] between the frames, or [n, A] with the action from the last frame on, in the units
            ``action_units``; None for a model without actions.
        action_names: Names of the A components; none without actions.
        action_units: Their units, such as ``m/s``.
        step_s: Time between two frames, in seconds.
        name: Name for messages.

    Raises:
        JepaExportError: An array has the wrong shape or type, or an action is not finite.
    """

    def __init__(
        self,
        images: Image,
        actions: NDArray[np.floating] | None = None,
        *,
        action_names: Sequence[str] = (),
        action_units: Sequence[str] = (),
        step_s: float,
        name: str = "array",
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) < 2:
            raise JepaExportError(
                f"{name}: images must be uint8 [n, height, width, 3] with at least 2 frames, got "
                f"{images.dtype} {list(images.shape)}: convert them to RGB bytes",
                code="data.invalid_images",
            )
        count, size = len(images), len(action_names)
        if actions is None and (size or action_units):
            raise JepaExportError(
                f"{name}: has the action names {', '.join(action_names) or 'none'} and "
                f"{len(action_units)} units, but no actions: pass the actions, or neither names nor units",
                code="data.invalid_actions",
            )
        if actions is not None and (
            actions.ndim != 2 or len(actions) not in (count - 1, count) or actions.shape[1] != size
        ):
            raise JepaExportError(
                f"{name}: actions must be [{count - 1} or {count}, {size}] for {count} frames and the names "
                f"{', '.join(action_names)}, got {list(actions.shape)}: pass one action per step",
                code="data.invalid_actions",
            )
        wrong = 0 if actions is None else int((~np.isfinite(actions)).sum())
        if wrong or len(action_units) != size or not step_s > 0:
            raise JepaExportError(
                f"{name}: actions must be finite, with one unit each ({size}) and a positive step_s, got "
                f"{len(action_units)} units, step_s {step_s:g} and {wrong} numbers that are not finite: "
                "leave out the frames without a valid action",
                code="data.invalid_actions",
            )
        step_ns = round(step_s * 1e9)
        self.name, self.rate_hz = name, 1 / step_s
        self.height, self.width = images.shape[1:3]
        self.stamps_ns: Stamps = np.arange(count, dtype=np.int64) * step_ns
        self.episodes = np.zeros(count, np.int32)
        self.action_names = None if actions is None else tuple(action_names)
        self.action_units = None if actions is None else tuple(action_units)
        # The action before the last frame counts as continued, so that the last frame can end a clip.
        self.known = np.full(count, actions is not None)
        self._images = images
        self._commands: Commands | None = None
        content = hashlib.sha256(np.ascontiguousarray(images).data)
        if actions is not None:
            self._commands = Commands(action_names, action_units, self.stamps_ns[: len(actions)], actions)
            content.update(self._commands.values.tobytes())
        self.identity = self.key = content.hexdigest()

    def frames(self, rows: NDArray[np.integer]) -> Image:
        frames: Image = self._images[rows]
        return frames

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        assert self._commands is not None
        return self._commands.mean(starts_ns, ends_ns)
