"""The interfaces of frames and of sources of frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle import Manifest, StateSpec
from jepa_runtime.errors import SourceError
from jepa_runtime.sources.commands import Commands
from jepa_runtime.sources.message_fields import action_mismatch, state_mismatch
from jepa_runtime.sources.states import States
from jepa_runtime.util.odometry_history import OdometryPose
from jepa_runtime.util.state_parts import MeasuredState

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """Represent one image of a source.

    Attributes:
        image: uint8 [h, w, 3] RGB.
        stamp_ns: The time at which it was taken.
        frame_id: The view that it shows. An image continues the previous one only if both have the same
            ``frame_id``. A source announces a discontinuity (another place, the restart of a file) by another
            ``frame_id``: see :func:`view_name`.
        sequence: Its number at the source, from 0.
        stream: The stream of a pipeline that serves several.
    """

    image: Image
    stamp_ns: int
    frame_id: str
    sequence: int
    stream: str = ""


def view_name(frame_id: str, part: int) -> str:
    """Return the ``frame_id`` of a continuous ``part`` (from 0) of a source, such as ``camera#2``."""
    return frame_id if part == 0 else f"{frame_id}#{part + 1}"


class Source(Protocol):
    """Yield frames in the order in which they were taken.

    Attributes:
        name: The name of the source, for messages.
        rate_hz: The rate of the source; None if it has none.
        live: Whether the source determines when frames arrive (a camera); otherwise the caller does.
        commands: All recorded commands with the names of their components; None if there are none.
        states: All recorded states of the robot with the names of their components; None if there are none.
        command: The action [A] (SI units) in force from the stamp of the last frame on; None if unknown.
        state: The state of the robot measured nearest to the last frame; None if unknown.
        goal: The image of the goal that the source proposes; None if it proposes none.
        pose: The pose of the robot by odometry at the last frame; None if unknown.
    """

    name: str
    rate_hz: float | None
    live: bool
    commands: Commands | None
    states: States | None

    @property
    def command(self) -> NDArray[np.float32] | None: ...

    @property
    def state(self) -> MeasuredState | None: ...

    @property
    def goal(self) -> Image | None: ...

    @property
    def pose(self) -> OdometryPose | None: ...

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, once.

        Raises:
            SourceError: A frame cannot be read, or the source ended early.
        """
        ...

    def close(self) -> None:
        """Release the device or file. Repeated calls have no effect."""
        ...


class PassiveSource:
    """Base class of sources that neither move a robot nor know its goal."""

    live = False
    commands: Commands | None = None
    states: States | None = None

    @property
    def command(self) -> NDArray[np.float32] | None:
        """None: actions are unknown."""
        return None

    @property
    def state(self) -> MeasuredState | None:
        """None: the state of the robot is unknown."""
        return None

    @property
    def goal(self) -> Image | None:
        """None: goals are unknown."""
        return None

    @property
    def pose(self) -> OdometryPose | None:
        """None: there is no odometry."""
        return None

    def close(self) -> None:
        """Do nothing: no device or file is open."""


def check_commands(source: Source, manifest: Manifest) -> None:
    """Check that recorded commands match the actions of a model.

    Raises:
        SourceError: Their number, order or units differ.
    """
    commands = source.commands
    if commands is None or not manifest.takes_actions:
        return
    reason = action_mismatch(commands.names, commands.units, manifest.io.action)
    if reason is not None:
        raise SourceError(
            f"{source.name}: {reason} (?action=TOPIC:FIELD,FIELD)", code="source.action_mismatch"
        )


def check_states(source: Source, manifest: Manifest) -> None:
    """Check that a source has the states that a model reads, if it reads any.

    Raises:
        SourceError: There are none, or their number, order or units differ.
    """
    if manifest.io.state is not None:
        check_state_names(source, manifest.io.state, manifest.model_id)


def check_state_names(source: Source, spec: StateSpec, model_id: str) -> None:
    """Check that a source has the states that the model ``model_id`` reads.

    Raises:
        SourceError: There are none, or their number, order or units differ.
    """
    states = source.states
    if states is None:
        raise SourceError(
            f"{source.name}: the model {model_id} reads the measured state of the robot "
            f"({', '.join(spec.names)}) at each image, and this source has none: use a bag and name the "
            "topics of its states (?state=TOPIC:FIELD,FIELD;TOPIC:FIELD)",
            code="source.state_missing",
        )
    reason = state_mismatch(states.names, states.units, spec)
    if reason is not None:
        raise SourceError(
            f"{source.name}: {reason} (?state=TOPIC:FIELD,FIELD;TOPIC:FIELD)", code="source.state_mismatch"
        )
