"""Networks of other projects with the inputs and outputs that graphs of a bundle have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from jepa_export.bundling.manifest_fields import FrameFormat

_WHITE = 255.0

PredictorInputs = Literal["one_step", "action_free", "action_prefixes"]
"""What a predictor reads and returns: see :class:`UnrolledPredictor`, :class:`ActionFreePredictor` and
:class:`PrefixPredictor`."""


@dataclass(frozen=True)
class Normalization:
    """What the encoder expects of an image, as in torchvision: pixels in 0 … 1, minus ``mean``, by ``std``.

    Attributes:
        mean: Mean of each channel (R, G, B).
        std: Standard deviation of each channel.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def frame_format(self, height: int, width: int) -> FrameFormat:
        """Return the frame of this size for the manifest, whose statistics are in 0 … 255."""
        red, green, blue = self.mean
        std_red, std_green, std_blue = self.std
        return FrameFormat(
            height,
            width,
            (red * _WHITE, green * _WHITE, blue * _WHITE),
            (std_red * _WHITE, std_green * _WHITE, std_blue * _WHITE),
        )


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The normalization of most published image encoders, DINO and V-JEPA 2 among them."""


class NormalizedEncoder(nn.Module):
    """The graph ``encoder``: it normalizes camera frames for an encoder of float images.

    Args:
        encoder: float32 [N, 3, height, width] -> latents [N, tokens, dim].
        frame: The frames, with their mean and standard deviation in 0 … 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, frame: FrameFormat) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(frame.mean), persistent=False)
        self.register_buffer("std", torch.tensor(frame.std), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        """Encode uint8 frames [N, height, width, 3] to latents [N, tokens, dim]."""
        pixels = ((frame.float() - self.mean) / self.std).permute(0, 3, 1, 2).contiguous()
        latents: Tensor = self.encoder(pixels)
        return latents


class UnrolledPredictor(nn.Module):
    """The graph ``predictor``: it applies a predictor of one step once for each action.

    Args:
        step: latents [K, W, tokens, dim] and actions [K, W, A] -> the next latent [K, tokens, dim].
    """

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """Predict K futures of H steps.

        Args:
            history_latents: [1 or K, W, tokens, dim], oldest first.
            actions: [K, H, A], the first executed after the newest latent.
            history_actions: [1 or K, W-1, A], executed between the latents; None if W is 1.

        Returns:
            [K, H, tokens, dim].
        """
        count = actions.shape[0]
        latents = history_latents.expand(count, -1, -1, -1)
        known = None if history_actions is None else history_actions.expand(count, -1, -1)
        futures = []
        for action in actions.split(1, dim=1):
            executed = action if known is None else torch.cat([known, action], dim=1)
            following = self.step(latents, executed)
            latents = torch.cat([latents[:, 1:], following[:, None]], dim=1)
            known = None if known is None else executed[:, 1:]
            futures.append(following)
        return torch.stack(futures, dim=1)


class PrefixPredictor(nn.Module):
    """The graph ``predictor`` of a network that predicts the latents after every prefix of the actions.

    One call of the network returns all steps (Fast-LeWM, arXiv:2606.26217).

    Args:
        network: From latents [1, W, tokens, dim], actions [K, H, A] and, if W is not 1, the actions between
            the latents [1, W-1, A] to futures [K, H, tokens, dim].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """Predict K futures of H steps, see :class:`UnrolledPredictor`."""
        if history_actions is None:
            futures: Tensor = self.network(history_latents, actions)
        else:
            futures = self.network(history_latents, actions, history_actions)
            # Some engines drop an input that no operation reads, and a network may ignore this one.
            futures = futures + 0 * history_actions.sum()
        return futures


class ActionFreePredictor(nn.Module):
    """The graph ``predictor`` of a network without actions: every candidate has the same future.

    Args:
        step: latents [1, W, tokens, dim] -> the next latent [1, tokens, dim].
    """

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """Predict the same H steps for K candidates, see :class:`UnrolledPredictor`."""
        latents, futures = history_latents, []
        for _ in actions.split(1, dim=1):
            following = self.step(latents)
            latents = torch.cat([latents[:, 1:], following[:, None]], dim=1)
            futures.append(following)
        return for_all_candidates(torch.stack(futures, dim=1), actions, history_actions)


def for_all_candidates(future: Tensor, actions: Tensor, history_actions: Tensor | None) -> Tensor:
    """Repeat a future that actions do not change.

    The result reads the actions, because some engines drop an input that no operation reads.

    Args:
        future: [1, H, tokens, dim].
        actions: [K, H, A].
        history_actions: [1, W-1, A]; None if W is 1.

    Returns:
        [K, H, tokens, dim].
    """
    nothing = 0 * actions.sum(dim=-1)[..., None, None]
    if history_actions is not None:
        nothing = nothing + 0 * history_actions.sum()
    return future + nothing


class L1Energy(nn.Module):
    """The graph ``energy`` by default: the mean absolute difference of two latents, as in V-JEPA 2-AC."""

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Return the distance of each latent [N, tokens, dim] from the goal [1, tokens, dim]: [N]."""
        return (latents - goal).abs().flatten(1).mean(1)
