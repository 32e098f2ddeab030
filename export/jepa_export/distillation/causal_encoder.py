"""Distillation of a causal encoder from the two-way encoder with the same weights.

The published encoders attend in both directions, and with causal attention alone their latents change. Here a
copy of the encoder learns, with causal attention, the latents that the original computes of the last tubelet
of a clip. Both read only frames up to that tubelet, so the difference can vanish.

Usage::

    encoder = distill_causal_encoder(model, [frames], "out/causal", CausalDistillation(window=4, steps=2000))

``jepa-export build --time causal:8 --causal-encoder out/causal/causal.pt`` builds a bundle with its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jepa_export.errors import JepaExportError
from jepa_export.teachers.causal import CausalEncoder, check_causal
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2, Encoder
from jepa_export.training.checkpoint import load
from jepa_export.training.stage import WARMUP_STEPS, TrainingStage, run_stage

_CLIP_NORM, _WEIGHT_DECAY = 1.0, 0.05
_NAME = "causal"


@dataclass(frozen=True, kw_only=True)
class CausalDistillation:
    """Settings of the training.

    Attributes:
        window: Tubelets that a tubelet attends to, itself included.
        steps: Training steps.
        batch: Clips in a step.
        learning_rate: Highest learning rate.
        seed: Seed of the clips that are drawn.
        checkpoint_every: Steps between two checkpoints.
        accelerator: Accelerator of Lightning Fabric, such as ``cpu`` or ``cuda``.
    """

    window: int
    steps: int
    batch: int = 4
    learning_rate: float = 1e-4
    seed: int = 0
    checkpoint_every: int = 100
    accelerator: str = "auto"


def distill_causal_encoder(
    model: VJEPA2,
    recordings: Sequence[NDArray[np.uint8]],
    folder: str | Path,
    settings: CausalDistillation,
) -> Encoder:
    """Return a copy of the encoder, trained with causal attention.

    ``folder`` gets the checkpoint ``causal.pt``, from which the next call resumes, and the losses
    ``causal.csv``.

    Args:
        model: The two-way model, which stays unchanged.
        recordings: Frames uint8 [n, height, width, 3] of each recording, at the frame rate of the model
            (``model.config.fps``).
        folder: Folder of the run.
        settings: Settings of the training.

    Raises:
        JepaExportError: The encoder cannot be causal, a recording is shorter than a clip or of another size,
            the loss is not finite, or the checkpoint belongs to a run with other settings.
    """
    stage = _CausalStage(model, recordings, settings)
    run_stage(stage, Path(folder), checkpoint_every=settings.checkpoint_every)
    return stage.encoder.cpu().eval().requires_grad_(False)


def read_causal_encoder(model: VJEPA2, checkpoint: Path, window: int) -> Encoder:
    """Return the encoder that :func:`distill_causal_encoder` has trained.

    Args:
        model: The model that it was trained from.
        checkpoint: The file ``causal.pt``.
        window: Tubelets that a tubelet attends to.

    Raises:
        JepaExportError: The file cannot be read, or belongs to another model or another window.
    """
    state = load(checkpoint)
    if not isinstance(state, dict) or state.get("stage") != _NAME:
        raise JepaExportError(
            f"{checkpoint}: is not the checkpoint of a causal encoder: give the file causal.pt of "
            "distill_causal_encoder",
            code="export.invalid_option",
        )
    if state["window"] != window:
        raise JepaExportError(
            f"{checkpoint}: was trained to attend to {state['window']} tubelets, not {window}: build with "
            f"--time causal:{state['window'] * model.config.encoder.tubelet}",
            code="export.invalid_option",
        )
    encoder = deepcopy(model.encoder)
    try:
        encoder.load_state_dict(state["encoder"])
    except RuntimeError as error:
        raise JepaExportError(
            f"{checkpoint}: belongs to an encoder of another size: give the teacher that it was trained from",
            code="export.invalid_option",
        ) from error
    return encoder.eval().requires_grad_(False)


class _CausalStage(TrainingStage):
    """Training on clips of one to almost two windows, so that streams are covered as well as their begin."""

    name = _NAME

    def __init__(
        self, model: VJEPA2, recordings: Sequence[NDArray[np.uint8]], settings: CausalDistillation
    ) -> None:
        config = model.config.encoder
        check_causal("distill_causal_encoder", config, settings.window)
        super().__init__(
            Fabric(accelerator=settings.accelerator, devices=1),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            clip_norm=_CLIP_NORM,
            warmup_steps=min(WARMUP_STEPS, settings.steps // 10),
        )
        self._recordings, self._settings = recordings, settings
        self._tubelet, self._tokens = config.tubelet, config.patches
        for index, frames in enumerate(recordings):
            if len(frames) < settings.window * config.tubelet or frames.shape[1:] != (*config.frame_size, 3):
                raise JepaExportError(
                    f"recording {index}: must be uint8 [at least {settings.window * config.tubelet}, "
                    f"{', '.join(map(str, config.frame_size))}, 3], is {list(frames.shape)}: resize the "
                    "frames, or omit the recording",
                    code="export.invalid_frames",
                )
        if not recordings:
            raise JepaExportError(
                "distill_causal_encoder: there are no recordings: give at least one",
                code="export.invalid_frames",
            )
        self._two_way = deepcopy(model.encoder).eval().requires_grad_(False).to(self.fabric.device)
        self.encoder = deepcopy(model.encoder).train().requires_grad_(True)
        self._raw_optimizer = torch.optim.AdamW(
            self.encoder.parameters(), settings.learning_rate, weight_decay=_WEIGHT_DECAY
        )
        causal = CausalEncoder(self.encoder, settings.window)
        self.network, self.optimizer = self.fabric.setup(causal, self._raw_optimizer)

    def losses(self, step: int) -> dict[str, Tensor]:
        clips = self._draw(step).to(self.fabric.device)
        with torch.no_grad():
            window = clips[:, -self._settings.window * self._tubelet :]
            expected = self._two_way(window)[:, -self._tokens :]
        found = self.network(clips)[:, -self._tokens :]
        # As in the training of the published models.
        return {"latent": functional.l1_loss(found, expected)}

    def _draw(self, step: int) -> Tensor:
        """Return the normalized clips of a step, [batch, frames, 3, height, width]."""
        random = np.random.default_rng((self._settings.seed, step))
        window = self._settings.window
        shortest = min(len(frames) for frames in self._recordings) // self._tubelet
        length = int(random.integers(window, min(2 * window, shortest + 1))) * self._tubelet
        clips = []
        for _ in range(self._settings.batch):
            frames = self._recordings[int(random.integers(len(self._recordings)))]
            start = random.integers(len(frames) - length + 1)
            clips.append(torch.from_numpy(frames[start : start + length]))
        return normalize(torch.stack(clips).float())

    def checkpoint(self, step: int) -> dict[str, Any]:
        return {
            "stage": self.name,
            "step": step,
            "settings": self._identity(),
            "window": self._settings.window,
            "encoder": self.encoder.state_dict(),
            "optimizer": self._raw_optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any], source: Path) -> int:
        if state["settings"] != self._identity():
            raise JepaExportError(
                f"{source}: written by a run with other settings; resume with the same settings or choose "
                "another folder",
                code="training.settings_mismatch",
            )
        self.encoder.load_state_dict(state["encoder"])
        self._raw_optimizer.load_state_dict(state["optimizer"])
        return cast(int, state["step"])

    def _identity(self) -> list[float]:
        """Return the settings that determine the weights."""
        given = self._settings
        return [given.window, given.steps, given.batch, given.learning_rate, given.seed]
