"""References of an evaluation: anything that encodes frames and predicts from actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips
from jepa_runtime.bundle import GoldenOutputs
from jepa_runtime.imaging import Image
from jepa_runtime.model import WorldModel
from jepa_runtime.sources import Floats


class Reference(Protocol):
    """A computation to compare with: the graphs of the bundle, a student's checkpoint, a teacher.

    T and D are those of the bundle: a teacher of another size needs a projection.

    Attributes:
        name: What it is and what computes it, for messages.
    """

    name: str

    def encode(self, frame: Image) -> Floats:
        """Return the latent [T, D] of a frame (uint8 [h, w, 3] at the model's size)."""
        ...

    def roll_out(
        self,
        latents: Floats,
        history_actions: Floats,
        actions: Floats,
        history_states: Floats | None = None,
    ) -> Floats:
        """Predict the latents [C, H, T, D] after ``latents`` [W, T, D] under ``actions`` [C, H, A].

        ``history_actions`` [W-1, A] were executed between the latents; ``history_states`` [W, S] are the
        states of the robot at them, None if the model reads none.
        """
        ...


class ServedModel:
    """An open model, as the robot runs it."""

    def __init__(self, model: WorldModel, name: str) -> None:
        self.model, self.name = model, name

    def encode(self, frame: Image) -> Floats:
        return self.model.encode(frame)

    def roll_out(
        self,
        latents: Floats,
        history_actions: Floats,
        actions: Floats,
        history_states: Floats | None = None,
    ) -> Floats:
        return self.model.predict(
            actions, latents=latents, history_actions=history_actions, history_states=history_states
        ).latents


@dataclass(frozen=True)
class Outputs:
    """Outputs for n clips: latents [n, L, T, D] of their frames, futures [n, C, H, T, D] of their actions."""

    latents: Floats
    futures: Floats


def compute(of: Reference, clips: Clips, tick: Callable[[], None] = lambda: None) -> Outputs:
    """Encode all frames and predict all action sequences of ``clips``; ``tick`` is called after each clip.

    Raises:
        JepaExportError: An output is not finite.
    """
    size = clips.history_actions.shape[1] + 1
    latents, futures = [], []
    for number, (frames, history_actions, actions) in enumerate(
        zip(clips.frames, clips.history_actions, clips.actions, strict=True)
    ):
        latents.append(np.stack([of.encode(frame) for frame in frames]))
        states = None if clips.history_states is None else clips.history_states[number]
        futures.append(of.roll_out(latents[-1][:size], history_actions, actions, states))
        for output_name, output in (("encoder", latents[-1]), ("predictor", futures[-1])):
            check_finite(f"{of.name}: the {output_name}", output, f"clip {number} of {clips.name}")
        tick()
    return Outputs(np.stack(latents), np.stack(futures))


def check_finite(what: str, output: NDArray[np.floating], where: str) -> None:
    """Check that an output contains neither NaN nor infinity.

    Raises:
        JepaExportError: It does.
    """
    if not np.isfinite(output).all():
        raise JepaExportError(
            f"{what} returns NaN or infinity for {where}, so no result would be meaningful; export the model "
            "again, and check it with jepa-runtime verify",
            code="evaluation.not_finite",
        )


def golden_outputs(golden: GoldenOutputs, clips: Clips) -> Outputs:
    """Return the bundle's golden outputs, for its golden inputs as clips."""
    return Outputs(golden.latents[golden.history_indices(clips.frames.shape[1])], golden.futures)
