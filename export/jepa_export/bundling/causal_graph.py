"""The causal encoder of a bundle: its graph, its latents of a stream, and their gap to two-way attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from jepa_export.bundling.task_progress import Begin, track
from jepa_export.targets.openvino import Sample
from jepa_export.teachers.causal import CausalEncoder, CausalStepEncoder, entry_shape
from jepa_export.teachers.normalization import PixelNormalization, normalize
from jepa_export.teachers.vjepa2 import Encoder
from jepa_runtime.bundle import ClipSpec
from jepa_runtime.model import EncoderCache

_CLIPS = 4


class CausalGraph(nn.Module):
    """The encoder as the runtime runs it: a tubelet, the cache and its positions -> latent and new entry."""

    def __init__(self, encoder: Encoder, steps: int) -> None:
        super().__init__()
        self.encode, self.normalize = CausalStepEncoder(encoder, steps), PixelNormalization()

    def forward(self, frame: Tensor, cache: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 [tubelet, height, width, 3]; see :class:`CausalStepEncoder` for the others."""
        latent, entry = self.encode(self.normalize(frame)[None], cache, positions)
        return latent, entry


class CausalClipEncoder(nn.Module):
    """What the graph computes of a clip, from an empty cache: uint8 [frames, h, w, 3] -> [1, T, D]."""

    def __init__(self, encoder: Encoder, steps: int) -> None:
        super().__init__()
        self.encode, self.config, self.steps = CausalEncoder(encoder, steps), encoder.config, steps

    def forward(self, frames: Tensor) -> Tensor:
        return self.stream(frames)[-1:]

    def stream(self, frames: Tensor) -> Tensor:
        """Return the latents [n, T, D] of all tubelets of uint8 [n * tubelet, height, width, 3]."""
        tokens = self.encode(normalize(frames.float())[None])
        latents: Tensor = tokens[0].unflatten(0, (-1, self.config.patches))
        return latents


def clip_spec(encoder: Encoder, steps: int) -> ClipSpec:
    """Return the clips of a causal encoder, as in the manifest."""
    tubelet = encoder.config.tubelet
    return ClipSpec(frames=steps * tubelet, frames_per_step=tubelet, cache_shape=entry_shape(encoder.config))


def graph_samples(graph: CausalGraph, frames: Tensor) -> list[Sample]:
    """Return inputs of the graph for the first and the last tubelet of a clip.

    Args:
        graph: The graph.
        frames: uint8 [frames, height, width, 3].
    """
    encoder = graph.encode.encoder
    cache = EncoderCache(clip_spec(encoder, graph.encode.steps))
    tubelets = frames.split(encoder.config.tubelet)
    samples: list[Sample] = []
    for step, tubelet in enumerate(tubelets):
        inputs = {"frame": tubelet.numpy(), "cache": cache.entries, "positions": cache.positions(step)}
        if step in (0, len(tubelets) - 1):
            samples.append({name: array.copy() for name, array in inputs.items()})
        _, entry = graph(*map(torch.from_numpy, inputs.values()))
        cache.store(step, entry[0].numpy())
    return samples


@dataclass(frozen=True)
class CausalGap:
    """Mean cosines of tokens of the last tubelet of ``clips`` clips with those of two-way attention.

    Attributes:
        clips: Number of clips.
        frames: Frames in each.
        trained: Whether the weights are trained; those of random weights mean nothing.
        causal: Of the causal encoder that starts with the clip.
        stream: Of the causal encoder after all previous frames, as on the robot.
        still: Of the last frame as a still, for comparison.
        before_training: As ``causal``, with the weights of the teacher; None: these are used.
    """

    clips: int
    frames: int
    trained: bool
    causal: float
    stream: float
    still: float
    before_training: float | None = None

    def report(self, progress: Callable[[str], None]) -> None:
        """Report it in one line."""
        progress(
            f"mean cosine with two-way attention over {self.frames} frames: causal {self.causal:.3f}, in a "
            f"stream {self.stream:.3f}, still {self.still:.3f}"
            + ("" if self.before_training is None else f", before training {self.before_training:.3f}")
            + ("" if self.trained else " (random weights: means nothing)")
        )

    def as_report(self) -> dict[str, Any]:
        """Return the entry for report.json."""
        return {"causal_gap": {name: value for name, value in asdict(self).items() if value is not None}}


def measure_causal_gap(
    two_way: nn.Module,
    causal: CausalClipEncoder,
    frames: Tensor,
    latents: Tensor,
    stills: Tensor,
    *,
    trained: bool,
    begin: Begin,
    before: CausalClipEncoder | None = None,
) -> CausalGap:
    """Compare causal latents with those of two-way attention over the same clips.

    Args:
        two_way: The official encoder of a clip, uint8 [frames, height, width, 3] -> [1, T, D].
        causal: The causal encoder.
        frames: uint8 [n * tubelet, height, width, 3].
        latents: Those of the stream [n, T, D].
        stills: Those of the last frame of each step as a still [n, T, D].
        trained: Whether the weights are trained.
        begin: See :data:`~jepa_export.bundling.task_progress.Begin`.
        before: The causal encoder with the weights of the teacher, if ``causal`` was trained; else None.
    """
    tubelet = causal.config.tubelet
    ends = torch.linspace(causal.steps, len(latents), _CLIPS).round().int().unique().tolist()
    found = []
    for end in track(ends, "comparing attention", begin):
        clip = frames[(end - causal.steps) * tubelet : end * tubelet]
        expected = two_way(clip)[0]
        compared = [causal(clip)[0], latents[end - 1], stills[end - 1]]
        if before is not None:
            compared.append(before(clip)[0])
        found.append([float(cosine_similarity(each, expected, dim=-1).mean()) for each in compared])
    means = torch.tensor(found).mean(0).tolist()
    return CausalGap(len(ends), causal.steps * tubelet, trained, *means)
