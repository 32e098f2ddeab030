"""What a recording is: first as found (read once, from its first frame to its last), then as trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.imaging.conversion import Image
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.commands import Commands, Floats, Stamps


class Origin(Protocol):
    """One recording as it is found: a video, a bag, an episode of a data set.

    Attributes:
        name: for people: which recording this is.
    """

    name: str

    def identity(self) -> str:
        """A hash of what was recorded: two copies have the same, and go to the same side of a split.

        Raises:
            JepaExportError: a file is missing or cannot be read.
        """
        ...

    def frames_key(self) -> str:
        """What the frames follow from: the content of the file, and which stream of it.

        Raises:
            JepaExportError: a file is missing or cannot be read.
        """
        ...

    def frames(self) -> Iterator[Frame]:
        """The frames, of any size. Another ``frame_id`` begins another episode (see :class:`Frame`).

        Raises:
            JepaExportError, JepaRuntimeError: the recording is damaged or ends early.
        """
        ...

    def commands(self) -> Commands | None:
        """The commands that the robot executed; None where the recording has none.

        Raises:
            JepaExportError, JepaRuntimeError: they cannot be read, or are not what was asked for.
        """
        ...


class Recording(Protocol):
    """One recording to train on: any of its frames at any time, from any thread.

    Attributes:
        name: for people: which recording this is.
        identity: see :meth:`Origin.identity`.
        key: what its frames follow from: content, stream and size.
        height, width: of the frames [pixels].
        rate_hz: of the frames (the median).
        stamps_ns: [N] of the frames, ascending.
        episodes: [N] number of the episode of each frame, ascending; no clip spans two of them.
        action_names, action_units: of the A components of an action; None where nothing is known of actions.
        known: [N], at which frames it is known what was executed from there on.
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
        """Frames uint8 [n, height, width, 3] at ``rows`` [n].

        Raises:
            JepaExportError: they cannot be read.
        """
        ...

    def actions(self, starts_ns: Stamps, ends_ns: Stamps) -> Floats:
        """Mean actions [n, A] executed over each [start, end), which begins where one is known."""
        ...
