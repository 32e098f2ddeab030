"""What is compared with what: anything that encodes frames and follows actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips
from jepa_runtime.bundle import GoldenOutputs
from jepa_runtime.imaging.conversion import Image
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.sources.commands import Floats


class Reference(Protocol):
    """A form of the model to compare with: the graphs of the bundle, a student's checkpoint, a teacher. T and
    D are those of the bundle: a teacher of another size brings its own map.

    Attributes:
        name: for people: what it is, and what computes it.
    """

    name: str

    def encode(self, frame: Image) -> Floats:
        """The state [T, D] that a frame (uint8 [h, w, 3] at the model's size) shows."""
        ...

    def roll_out(self, latents: Floats, between: Floats, actions: Floats) -> Floats:
        """The states [C, H, T, D] that ``actions`` [C, H, A] lead to after ``latents`` [W, T, D], between
        which ``between`` [W-1, A] was executed."""
        ...


class Served:
    """An open model, as the robot runs it."""

    def __init__(self, model: WorldModel, name: str) -> None:
        self.model, self.name = model, name

    def encode(self, frame: Image) -> Floats:
        return self.model.encode(frame)

    def roll_out(self, latents: Floats, between: Floats, actions: Floats) -> Floats:
        return self.model.predict(actions, latents=latents, history_actions=between).latents


@dataclass(frozen=True)
class Outputs:
    """Of n clips: latents [n, L, T, D] of their frames, futures [n, C, H, T, D] of their actions."""

    latents: Floats
    futures: Floats


def compute(of: Reference, clips: Clips, tick: Callable[[], None] = lambda: None) -> Outputs:
    """Encode every frame and follow every action sequence of ``clips``; ``tick`` is called after each clip.

    Raises:
        JepaExportError: an output is not finite.
    """
    size = clips.between.shape[1] + 1
    latents, futures = [], []
    for number, (frames, between, actions) in enumerate(
        zip(clips.frames, clips.between, clips.actions, strict=True)
    ):
        latents.append(np.stack([of.encode(frame) for frame in frames]))
        futures.append(of.roll_out(latents[-1][:size], between, actions))
        for what, output in (("encoder", latents[-1]), ("predictor", futures[-1])):
            check_finite(f"{of.name}: the {what}", output, f"clip {number} of {clips.name}")
        tick()
    return Outputs(np.stack(latents), np.stack(futures))


def check_finite(who: str, output: NDArray[np.floating], where: str) -> None:
    """Check that an output holds neither NaN nor infinity.

    Raises:
        JepaExportError: it does.
    """
    if not np.isfinite(output).all():
        raise JepaExportError(
            f"{who} gives NaN or infinity on {where}: its figures would mean nothing; export it again, and "
            "see jepa-runtime verify"
        )


def golden_outputs(golden: GoldenOutputs, clips: Clips) -> Outputs:
    """The bundle's golden outputs, for its golden inputs as clips."""
    return Outputs(golden.latents[golden.history_indices(clips.frames.shape[1])], golden.futures)
