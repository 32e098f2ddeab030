"""What is learnt in which order: first the encoder from the teacher, then the predictor on its latents.

A stage is a network whose forward pass gives the terms of the loss, all means over the batch: the mean over
several processes is then the loss of the whole batch. What needs no gradient is computed before, by
:meth:`Stage.inputs`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.data.batches import Batch
from jepa_export.distillation.frozen_encoders import FrozenEncoder
from jepa_export.distillation.teacher_targets import Features
from jepa_export.quantization.fake_quantization import FakeInt8
from jepa_export.students.encoder import Encoder, TeacherHead
from jepa_export.students.predictor import Predictor


class Stage(nn.Module, ABC):
    """See the module. ``reads`` names its inputs."""

    name: str
    reads: tuple[str, ...]

    @abstractmethod
    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        """What the forward pass reads, of a batch or a part of one; called without gradients."""

    @abstractmethod
    def watched(self, *inputs: Tensor) -> Tensor:
        """The latents that must not collapse, [N, T, D], of :meth:`inputs`; called without gradients."""


class EncoderStage(Stage):
    """The student's latent of a frame must tell what the teacher saw in it: through a head, the teacher's
    tokens (smooth L1 and cosine distance). Targets do not move, and so cannot collapse."""

    name = "encoder"
    reads = ("frames", "targets")

    def __init__(self, encoder: Encoder, features: Features) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = TeacherHead(encoder.config, teacher_side=features.side, teacher_dim=features.dim)
        # Not one of this network's parts: it is neither trained nor saved.
        self._features = (features,)

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        frames = torch.from_numpy(batch.frames).to(device)
        return frames[:, -1].contiguous(), self._features[0].to(device)(frames).float()

    def forward(self, frames: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return self.terms(self.encoder(frames), targets)

    def terms(self, latents: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Of the loss, by what the head tells of ``latents``."""
        told = self.head(latents).float()
        return {
            "smooth_l1": functional.smooth_l1_loss(told, targets),
            "cosine": 1 - functional.cosine_similarity(told, targets, dim=-1).mean(),
        }

    def watched(self, *inputs: Tensor) -> Tensor:
        latents: Tensor = self.encoder(inputs[0])
        return latents


class QuantizationAwareStage(EncoderStage):
    """A trained encoder goes on learning from the same teacher, and computes with the numbers that INT8 can
    hold."""

    name = "encoder_int8"

    def __init__(self, trained: EncoderStage) -> None:
        super().__init__(trained.encoder, *trained._features)
        self.head = trained.head

    def forward(self, frames: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with FakeInt8():
            latents = self.encoder(frames)
        return self.terms(latents, targets)


class PredictorStage(Stage):
    """On latents of a frozen encoder, mean squared errors: each next frame from true ones (teacher-forced),
    H steps from ``history`` true frames and its own predictions, and each next frame without being told the
    action. Where the data has no actions, the action is one number that is always 0."""

    name = "predictor"
    reads = ("latents", "actions")

    def __init__(self, predictor: Predictor, encoder: FrozenEncoder, *, history: int) -> None:
        super().__init__()
        self.predictor = predictor
        self._history = history
        self._encoder = (encoder.eval().requires_grad_(False),)

    def get_extra_state(self) -> Tensor:
        """What its weights were trained to see actions divided by, which they mean nothing without."""
        return self.predictor.action_scale

    def set_extra_state(self, state: Tensor) -> None:
        self.predictor.action_scale.copy_(state)

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        encoder = self._encoder[0].to(device)
        frames = torch.from_numpy(batch.frames).to(device)
        latents = encoder(frames.flatten(0, 1)).float().unflatten(0, frames.shape[:2])
        if batch.actions is None:
            return latents, latents.new_zeros(*latents.shape[:2], 1)
        return latents, torch.from_numpy(batch.actions).to(device)

    def forward(self, latents: Tensor, actions: Tensor) -> dict[str, Tensor]:
        before, after = latents[:, :-1], latents[:, 1:]
        futures = self.roll_out(latents, actions)
        return {
            "next": functional.mse_loss(self.predictor.next_latents(before, actions[:, :-1]).float(), after),
            "rollout": functional.mse_loss(futures.float(), latents[:, self._history :]),
            "free": functional.mse_loss(self.predictor.next_latents(before, None).float(), after),
        }

    def roll_out(self, latents: Tensor, actions: Tensor) -> Tensor:
        """What is predicted for all frames after the history, from the history and the actions alone."""
        size = self._history
        futures: Tensor = self.predictor(latents[:, :size], actions[:, size - 1 : -1], actions[:, : size - 1])
        return futures

    def watched(self, *inputs: Tensor) -> Tensor:
        return self.roll_out(*inputs)[:, -1]
