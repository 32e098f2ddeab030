"""The stages of a distillation: the encoder learns from the teacher, then the predictor from latents.

A stage is a network whose forward pass returns the terms of the loss, each a mean over the batch: the mean
over several processes is then the loss of the whole batch. Inputs that need no gradient are computed before,
by :meth:`DistillationStage.inputs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_export.data.batches import Batch
from jepa_export.distillation.teacher_targets import TeacherFeatures
from jepa_export.quantization.fake_quantization import FakeInt8
from jepa_export.students.encoder import Encoder, FrameEncoder, TeacherHead
from jepa_export.students.predictor import Predictor


class DistillationStage(nn.Module, ABC):
    """Network whose forward pass returns the terms of the loss; ``input_names`` names its inputs."""

    name: str
    input_names: tuple[str, ...]

    @abstractmethod
    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        """Return the inputs of the forward pass for a batch or a part of one; called without gradients."""

    @abstractmethod
    def monitored_latents(self, *inputs: Tensor) -> Tensor:
        """Return the latents [N, T, D] that must not collapse, from :meth:`inputs`, without gradients."""


class EncoderStage(DistillationStage):
    """Training of an encoder: a head reconstructs the teacher's tokens from the student's latent.

    The loss is smooth L1 and cosine distance. The targets are fixed and so cannot collapse.
    """

    name = "encoder"
    input_names = ("frames", "targets")

    def __init__(self, encoder: Encoder, features: TeacherFeatures) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = TeacherHead(encoder.config, teacher_side=features.side, teacher_dim=features.dim)
        # In a tuple, so that torch does not register it as a submodule: it is neither trained nor saved.
        self._features = (features,)

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        frames = torch.from_numpy(batch.frames).to(device)
        return frames[:, -1].contiguous(), self._features[0].to(device)(frames).float()

    def forward(self, frames: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return self.terms(self.encoder(frames), targets)

    def terms(self, latents: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss for ``latents``."""
        reconstructed = self.head(latents).float()
        return {
            "smooth_l1": functional.smooth_l1_loss(reconstructed, targets),
            "cosine": 1 - functional.cosine_similarity(reconstructed, targets, dim=-1).mean(),
        }

    def monitored_latents(self, *inputs: Tensor) -> Tensor:
        latents: Tensor = self.encoder(inputs[0])
        return latents


class QuantizationAwareStage(EncoderStage):
    """Further training of a trained encoder with emulated INT8 arithmetic."""

    name = "encoder_int8"

    def __init__(self, trained: EncoderStage) -> None:
        super().__init__(trained.encoder, *trained._features)
        self.head = trained.head

    def forward(self, frames: Tensor, targets: Tensor) -> dict[str, Tensor]:
        with FakeInt8():
            latents = self.encoder(frames)
        return self.terms(latents, targets)


class PredictorStage(DistillationStage):
    """Training of a predictor on latents of a frozen encoder, with three mean squared errors.

    Each next frame from true frames (teacher forcing); H steps from ``history`` true frames and its own
    predictions; and each next frame without the action. For data without actions, the action is one number
    that is always 0.
    """

    name = "predictor"
    input_names = ("latents", "actions")

    def __init__(self, predictor: Predictor, encoder: FrameEncoder, *, history: int) -> None:
        super().__init__()
        self.predictor = predictor
        self._history = history
        self._encoder = (encoder.eval().requires_grad_(False),)

    def get_extra_state(self) -> Tensor:
        """Return the divisors of the actions, which the weights depend on."""
        return self.predictor.action_scale

    def set_extra_state(self, state: Tensor) -> None:
        self.predictor.action_scale.copy_(state)

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
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
        """Predict all frames after the history, from the history and the actions alone."""
        size = self._history
        futures: Tensor = self.predictor(latents[:, :size], actions[:, size - 1 : -1], actions[:, : size - 1])
        return futures

    def monitored_latents(self, *inputs: Tensor) -> Tensor:
        return self.roll_out(*inputs)[:, -1]
