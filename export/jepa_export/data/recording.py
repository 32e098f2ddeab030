"""Protocols of a recording: as a source that is decoded once, and as training data with random access."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.imaging import Image
from jepa_runtime.sources import Commands, Floats, Frame, Stamps


class Origin(Protocol):
    """One recording as a source: a video, a bag, an episode of a data set.

    Attributes:
        name: Name for messages.
    """

    name: str

    def identity(self) -> str:
        """Return a hash of what was recorded: two copies have the same and fall on the same side of a split.

        Raises:
            JepaExportError: A file is missing or cannot be read.
        """
        ...

    def frames_key(self) -> str:
        """Return a key that the frames follow from: the content of the file and the selected stream.

        Raises:
            JepaExportError: A file is missing or cannot be read.
        """
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, of any size. Another ``frame_id`` begins another episode (see :class:`Frame`).

        Raises:
            JepaExportError: The recording is damaged or ends early.
            JepaRuntimeError: The recording cannot be read.
        """
        ...

    def commands(self) -> Commands | None:
        """Return the commands that the robot executed, or None if the recording has none.

        Raises:
            JepaExportError: The commands are damaged or do not match the options.
            JepaRuntimeError: The commands cannot be read.
        """
        ...


class Recording(Protocol):
    """One recording as training data: any frame at any time, from any thread.

    Attributes:
        name: Name for messages.
        identity: See :meth:`Origin.identity`.
        key: Key that the frames follow from: content, stream and size.
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        rate_hz: Frame rate (median).
        stamps_ns: [N], ascending.
        episodes: [N], episode number of each frame, ascending; no clip spans two episodes.
        action_names: Names of the A components of an action; None if the recording has no actions.
        action_units: Units of the components; None if the recording has no actions.
        known: [N], whether the action from this frame on is known.
    """

    name: str
    identity: str
    key: str
    height: int
    width: int
    rate_hz: float
    stamps_ns: Stamps
    episodes: NDArray[np.int32]
    action_names: tuple[str, ...] | None
    action_units: tuple[str, ...] | None
    known: NDArray[np.bool_]

    def frames(self, rows: NDArray[np.integer]) -> Image:
        """Return the frames uint8 [n, height, width, 3] at ``rows`` [n].

        Raises:
            JepaExportError: They cannot be read.
        """
        ...

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        """Return the mean actions [n, A] over each interval [start, end); at each start one is known."""
        ...
