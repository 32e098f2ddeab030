"""A bundle of a teacher as it is: V-JEPA 2 or 2.1 with a clip as its history, and anticipation as its future.

The runtime encodes frame by frame, the teachers encode clips. So every step of the clip is a still: one frame
shown ``tubelet`` times and encoded alone, as V-JEPA 2-AC does it (Assran et al. 2025). What moves reaches the
predictor, which sees the clip's tokens in their places, and mask tokens in those of the future. It knows no
actions: the bundle has one that can only be 0, and the future is the same for every candidate.

A teacher distilled from a larger one predicts in that one's space. Its predictions are read back into its own
by a linear map, fitted here by least squares on real frames; every other weight is as published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.bundling.manifest_fields import (
    Identity,
    Measured,
    Settings,
    Tolerances,
    complete,
    manifest,
    write_golden,
)
from jepa_export.bundling.staging import staged
from jepa_export.bundling.variants import KINDS, Kind, write_kinds
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import of_network, parameters
from jepa_export.students.encoder import PIXEL_MEAN, PIXEL_STD
from jepa_export.targets.onnx import check_size, export_onnx
from jepa_export.targets.openvino import Sample, convert
from jepa_export.teachers.family import Member, shallow
from jepa_export.teachers.layers import Sizes
from jepa_export.teachers.vjepa2 import VJEPA2, FixedPredictor, VJEPA2Config
from jepa_runtime.bundle import Bundle, history_indices

OFFERED = tuple(kind for kind in KINDS if kind[1] != "int8")
# V-JEPA 2 was trained on 4 frames a second (Assran et al. 2025), and one step is a tubelet of two.
STEP_S = 0.5
# Of the given frames, to measure on; where something is fitted, the first half of them are for that.
WINDOWS = 8
# Fewer, and a history read backwards would be the same.
GOLDEN_FRAMES = 3
QUANTILE = 0.9
# Of the mean square: how much of it is added, so that what hardly varies does not get huge weights.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Of the libraries, on a workstation and on a robot.
_BUILDER_BYTES, _RUNTIME_BYTES = 700e6, 200e6
TOLERANCES: Tolerances = {
    "fp32": {"min_cosine": 0.9999, "max_abs": 0.02},
    "fp16": {"min_cosine": 0.99, "max_abs": 1.0},
}


class FrameEncoder(nn.Module):
    """One frame as cameras give it, uint8 [1, px, px, 3], as a still clip -> tokens [1, T, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: VJEPA2) -> None:
        super().__init__()
        self.encoder, self.tubelet = model.encoder, model.config.encoder.tubelet
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        # As jepa_export.teachers.normalization, whose movedim is exported with an axis that ONNX does not
        # take.
        pixels = ((frame.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        out: Tensor = self.encoder(torch.stack([pixels] * self.tubelet, dim=1))
        return out


class Anticipation(nn.Module):
    """The predictor as the runtime asks: tokens of W steps -> the same H steps for every candidate.

    ``read_back``: from where predictions lie to where the encoder's tokens do.
    """

    def __init__(self, model: VJEPA2, history_size: int, horizon: int, read_back: nn.Module) -> None:
        super().__init__()
        tokens = model.config.encoder.side**2
        places = torch.arange((history_size + horizon) * tokens).split(tokens)
        known, asked = torch.cat(places[:history_size]), torch.cat(places[history_size:])
        self.predict, self.read_back = FixedPredictor(model.predictor, known, asked), read_back

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """[1, W, T, D], [K, H, A], [1, W-1, A] -> [K, H, T, D]."""
        future = self.read_back(self.predict(history_latents.flatten(1, 2)))
        future = future.unflatten(1, (-1, history_latents.shape[2]))
        # Actions change nothing, but an input that no operation reads is lost on the way to some engines.
        nothing = 0 * actions.sum(dim=-1)[..., None, None]
        if history_actions is not None:
            nothing = nothing + 0 * history_actions.sum()
        futures: Tensor = future + nothing
        return futures


@dataclass(frozen=True)
class Cost:
    """Of one call of a graph: ``weights`` (parameters), ``multiply_adds`` of its matrix products, and
    ``working_bytes``, what its largest products keep at once."""

    weights: int
    multiply_adds: int
    working_bytes: int


@dataclass(frozen=True)
class Costs:
    """Of both graphs. The bytes are estimates: what building takes at its peak, and what a robot needs."""

    encoder: Cost
    predictor: Cost

    @property
    def weight_bytes(self) -> int:
        return 4 * (self.encoder.weights + self.predictor.weights)

    @property
    def robot_bytes(self) -> float:
        """Weights as read and as the engine lays them out."""
        return _RUNTIME_BYTES + 2 * self.weight_bytes + self._working_bytes

    @property
    def building_bytes(self) -> float:
        """Weights in torch, in ONNX, in OpenVINO's form, as read again, and as the engine lays them out."""
        return _BUILDER_BYTES + 5 * self.weight_bytes + self._working_bytes

    @property
    def _working_bytes(self) -> int:
        return max(self.encoder.working_bytes, self.predictor.working_bytes)


def costs(config: VJEPA2Config, history_size: int, horizon: int) -> Costs:
    """What a bundle costs, known before any weight is read.

    Args:
        history_size: W, in steps of a tubelet.
        horizon: H, likewise.
    """
    encoder, space = config.encoder, config.output_dim
    tokens, width, steps = encoder.side**2, encoder.output_dim, history_size + horizon
    with torch.device("meta"):
        model = config.build()
        read_back = nn.Linear(space, width) if config.output_space == "teacher" else nn.Identity()
        predictor = Anticipation(model, history_size, horizon, read_back)
        known, nothing = torch.zeros(1, history_size, tokens, width), torch.zeros(1, horizon, 1)
        encode = of_network(FrameEncoder(model), torch.zeros(1, encoder.px, encoder.px, 3, dtype=torch.uint8))
        predict = of_network(predictor, known, nothing)
    return Costs(
        Cost(parameters(model.encoder), encode, _working_bytes(encoder, tokens)),
        Cost(parameters(model.predictor), predict, _working_bytes(config.predictor, steps * tokens)),
    )


def check(
    name: str,
    member: Member,
    *,
    frames: int,
    horizon: int,
    depth: int | None = None,
    accept_non_commercial: bool = False,
) -> VJEPA2Config:
    """What such a teacher is made of, if it can be built with a clip of ``frames`` and a future of
    ``horizon`` steps.

    Args:
        depth: with so many blocks in the encoder, and no more in the predictor: for random weights only.

    Raises:
        JepaExportError: it cannot, or its licence was not accepted; the message says what can be done.
    """
    if not member.commercial and not accept_non_commercial:
        raise JepaExportError(
            f"{name}: its weights are under {member.licence}, and nothing made of them may serve a "
            "commercial purpose: choose another teacher, or say --accept-non-commercial"
        )
    config = member.config
    if not isinstance(config, VJEPA2Config):
        raise JepaExportError(
            f"{name} ({member.family}) cannot be built as it is: it does not anticipate without actions; "
            "those of V-JEPA 2, 2.1 and LeWM can be"
        )
    if depth is not None:
        config = shallow(config, depth)
    tubelet, longest = config.encoder.tubelet, config.encoder.frames
    if frames < tubelet or frames % tubelet:
        raise JepaExportError(f"--frames must be a multiple of {name}'s tubelet ({tubelet}), got {frames}")
    if horizon < 1 or frames + horizon * tubelet > longest:
        raise JepaExportError(
            f"clip and future must stay within the {longest} frames that {name} was trained on, a step of "
            f"the future being {tubelet}: got --frames {frames} and --horizon {horizon}"
        )
    with torch.device("meta"):
        check_size(name, parameters(config.build().encoder))
    return config


def windows(config: VJEPA2Config, horizon: int) -> list[int]:
    """At which frames the windows begin: where predictions are read back, what the second half foretells is
    in none of the first, on which that is fitted."""
    half, apart = WINDOWS // 2, horizon - 1 if config.output_space == "teacher" else 0
    return [*range(half), *range(half + apart, WINDOWS + apart)]


def frames_needed(config: VJEPA2Config, history_size: int, horizon: int) -> int:
    """How many frames, a step apart, a bundle is fitted and measured on."""
    return windows(config, horizon)[-1] + history_size + horizon


@torch.no_grad()
def write_teacher(
    model: VJEPA2,
    frames: NDArray[np.uint8],
    folder: Path,
    settings: Settings,
    identity: Identity,
    progress: Callable[[str], None],
) -> Bundle:
    """Write the bundle ``folder`` (replaced if it exists) of a teacher.

    Args:
        model: in evaluation mode.
        frames: uint8 [:func:`frames_needed`, px, px, 3], a step apart.
        progress: told in words what comes next.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not compute what the network
            does.
        BundleError: what was made is not a valid bundle.
    """
    size, horizon = settings.history_size, settings.horizon
    encoder = FrameEncoder(model)
    with staged(folder) as staging:
        progress(f"encoding {len(frames)} frames")
        latents = torch.cat([encoder(torch.from_numpy(frame[None])) for frame in frames])
        progress(f"anticipating {WINDOWS} times, to measure the errors")
        seen = [latents[start : start + size + horizon] for start in windows(model.config, horizon)]
        raw = Anticipation(model, size, horizon, nn.Identity())
        predicted = torch.cat([raw(*_asked(window[None, :size], settings)) for window in seen])
        arrived = torch.stack([window[size:] for window in seen])
        read_back, report = _read_back(model.config, predicted, arrived)
        predictor = Anticipation(model, size, horizon, read_back)
        fitted = WINDOWS // 2 if report else 0
        measured = measured_errors(
            read_back(predicted[fitted:]), arrived[fitted:], latents[1:] - latents[:-1]
        )
        samples: list[Sample] = [{"frame": frame[None]} for frame in frames]
        _write(encoder, samples, "latent", staging / "encoder", settings.variants, progress)
        names = ("history_latents", "actions", "history_actions")
        pasts = [_asked(window[None, :size], settings) for window in seen]
        asked: list[Sample] = [
            {name: tensor.numpy() for name, tensor in zip(names, past, strict=False)} for past in pasts
        ]
        _write(predictor, asked, "futures", staging / "predictor", settings.variants, progress)
        golden = latents[:GOLDEN_FRAMES]
        given = [_asked(golden[past][None], settings) for past in history_indices(len(golden), size)]
        write_golden(
            staging,
            frames=torch.from_numpy(frames[:GOLDEN_FRAMES]),
            latents=golden,
            actions=given[0][1],
            futures=torch.stack([predictor(*one) for one in given]),
            **{"history_actions": given[0][2][0]} if size > 1 else {},
        )
        fields = manifest(
            identity,
            settings,
            measured,
            px=model.config.encoder.px,
            latent=(latents.shape[1], latents.shape[2]),
            roles=("encoder", "predictor"),
            tolerances=TOLERANCES,
        )
        complete(staging, fields, report, progress)
    return Bundle.open(folder)


def _asked(history: Tensor, settings: Settings) -> list[Tensor]:
    """The inputs of the predictor for a history [1, W, T, D]."""
    actions = torch.zeros(settings.num_samples, settings.horizon, 1)
    between = history.shape[1] - 1
    return [history, actions, *([torch.zeros(1, between, 1)] if between else [])]


def _read_back(
    config: VJEPA2Config, predicted: Tensor, arrived: Tensor
) -> tuple[nn.Module, dict[str, object]]:
    """What makes of predictions [n, H, T, P] tokens of the encoder [n, H, T, D], and what the report says of
    it: fitted on the first half of the :func:`windows`, judged and regularised on the rest."""
    if config.output_space == "encoder":
        return nn.Identity(), {}
    inputs, wanted = (tensor.flatten(1, 2).double() for tensor in (predicted, arrived))
    half = len(inputs) // 2
    known, truth = inputs[:half].flatten(0, 1), wanted[:half].flatten(0, 1)
    middle, mean = known.mean(0), truth.mean(0)
    squares, products = (known - middle).T @ (known - middle), (known - middle).T @ (truth - mean)
    unit = squares.diagonal().mean() * torch.eye(len(squares), dtype=squares.dtype)
    spread = (wanted[half:] - mean).square().sum()
    explained, weights = -torch.inf, products
    for ridge in RIDGES:
        tried = torch.linalg.solve(squares + ridge * unit, products)
        share = 1 - float((wanted[half:] - mean - (inputs[half:] - middle) @ tried).square().sum() / spread)
        if share > explained:
            explained, weights = share, tried
    linear = nn.Linear(*weights.shape)
    linear.weight.copy_(weights.T)
    linear.bias.copy_(mean - middle @ weights)
    about = "share of the variance of what came that the predictions explain once read back, on other frames"
    return linear, {"read_back": {"about": about, "explained": round(explained, 4)}}


def measured_errors(predicted: Tensor, arrived: Tensor, moved: Tensor) -> Measured:
    """Surprising is what is further off than the worst of these predictions; reached, what differs from a
    goal less than frames a step apart do by the median.

    Args:
        predicted, arrived: [n, H, T, D].
        moved: [m, T, D], differences of frames a step apart.
    """
    errors = predicted - arrived
    bounds = errors.flatten(2).norm(dim=-1).quantile(QUANTILE, dim=0)
    one_step = errors[:, 0].flatten(1).square().mean(1).sqrt()
    return Measured(
        error_bounds=tuple(bounds.tolist()),
        surprise_threshold=float(one_step.max()),
        goal_threshold=float(moved.flatten(1).square().mean(1).median()),
    )


def _write(
    module: nn.Module,
    samples: Sequence[Sample],
    output: str,
    folder: Path,
    kinds: Sequence[Kind],
    progress: Callable[[str], None],
) -> None:
    progress(f"{folder.name}: its graphs")
    example = {name: torch.from_numpy(array) for name, array in samples[0].items()}
    free = ("actions",) if "actions" in example else ()
    shapes = {name: tuple(tensor.shape) for name, tensor in example.items()}
    folder.mkdir()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(module, example, [output], path, free_axis=free)
        write_kinds(path, {"fp32": lambda: convert(path)}, samples, folder, kinds, shapes=shapes)


def _working_bytes(sizes: Sizes, tokens: int) -> int:
    """Of the scores of one block, with what stands beside them."""
    return 4 * (2 * sizes.heads * tokens**2 + tokens * (6 * sizes.width + sizes.hidden))
