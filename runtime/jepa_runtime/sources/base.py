"""What a frame and a source of frames are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest
from jepa_runtime.errors import SourceError
from jepa_runtime.sources.command_fields import misfit
from jepa_runtime.sources.commands import Commands

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """One image: uint8 [h, w, 3] RGB, the time at which it was taken, the view that it shows, its number at
    its source (from 0), and the stream it belongs to in a pipeline that serves several.

    An image continues the one before only where both have the same ``frame_id``. A source announces a
    discontinuity (another place, the start of a file that is played again) by another one: see
    :func:`view_name`.
    """

    image: Image
    stamp_ns: int
    frame_id: str
    sequence: int
    stream: str = ""


def view_name(frame_id: str, part: int) -> str:
    """The ``frame_id`` of the images of a continuous ``part`` (from 0) of what a source shows: ``camera``,
    ``camera#2``, ``camera#3``."""
    return frame_id if part == 0 else f"{frame_id}#{part + 1}"


class Source(Protocol):
    """Frames in the order in which they were taken.

    Attributes:
        name: for people: which source this is.
        rate_hz: the source's own rate, or None if it has none.
        live: frames come when they come (a camera); otherwise whoever plays the source sets the pace.
        commands: all that were recorded, with what their numbers are called; None where there are none.
        command: the action [A] (SI units) being executed from the last frame's stamp on; None where nothing
            is known.
        goal: the image of a goal the source proposes; None where it does not.
    """

    name: str
    rate_hz: float | None
    live: bool
    commands: Commands | None

    @property
    def command(self) -> NDArray[np.float32] | None: ...

    @property
    def goal(self) -> Image | None: ...

    def frames(self) -> Iterator[Frame]:
        """The frames, once.

        Raises:
            SourceError: a frame could not be read, or the source ended before its time.
        """
        ...

    def close(self) -> None:
        """Release the device or file. May be called again."""
        ...


class PassiveSource:
    """What sources have in common that neither move a robot nor know its goal."""

    live = False
    commands: Commands | None = None

    @property
    def command(self) -> NDArray[np.float32] | None:
        """Nothing is known about actions."""
        return None

    @property
    def goal(self) -> Image | None:
        """Nothing is known about goals."""
        return None

    def close(self) -> None:
        """Nothing is held open."""


def check_commands(source: Source, manifest: Manifest) -> None:
    """Refuse recorded commands that are not the actions of a model.

    Raises:
        SourceError: there are more or fewer of them, or they have another order or other units.
    """
    commands = source.commands
    if commands is None or not manifest.takes_actions:
        return
    reason = misfit(commands.names, commands.units, manifest.io.action)
    if reason is not None:
        raise SourceError(f"{source.name}: {reason} (?action=TOPIC:FIELD,FIELD)")
