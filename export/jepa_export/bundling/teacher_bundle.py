"""The bundle of a published V-JEPA 2 or 2.1, unchanged: a clip is its history, anticipation its prediction.

A latent is the end of a clip. By default the clip is a still: the newest frame repeated ``tubelet`` times and
encoded alone, as in V-JEPA 2-AC (Assran et al. 2025). Motion then reaches only the predictor, which sees the
tokens of the last steps at their positions, and mask tokens at those of the future. With ``clip_frames`` the
encoder reads that number of frames once per step, and the latent is their last tubelet, which also depends on
motion. A causal encoder reads the same frames step by step, with a cache
(:mod:`~jepa_export.teachers.causal`), at a lower cost, but without the attention of earlier frames to later
ones that the teacher was trained with. The report compares them (:mod:`~jepa_export.bundling.still_and_clip`,
for clips :mod:`~jepa_export.bundling.motion_probe`, and for causal encoders
:mod:`~jepa_export.bundling.causal_graph`). The model has no actions: the bundle has one that can only be 0,
and every candidate has the same future.

A teacher that was distilled from a larger one predicts in the latent space of the larger one. A linear map,
fitted here by least squares on recorded frames, projects its predictions into its own latent space; all other
weights are as published.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.bundling.builder import Progress, build_bundle
from jepa_export.bundling.bundle_networks import for_all_candidates
from jepa_export.bundling.causal_graph import (
    CausalClipEncoder,
    CausalGraph,
    graph_samples,
    measure_causal_gap,
)
from jepa_export.bundling.manifest_fields import (
    ERROR_QUANTILE,
    BundleSettings,
    ClipFormat,
    FrameFormat,
    MeasuredErrors,
    ModelIdentity,
    Tolerances,
    create_manifest,
)
from jepa_export.bundling.motion_probe import DIRECTIONS, IMAGES, probe_motion
from jepa_export.bundling.still_and_clip import CLIPS, compare_still_and_clip, steps_needed
from jepa_export.bundling.task_progress import Begin, ignore_progress, track
from jepa_export.bundling.variants import VARIANTS, VariantKey, write_variants
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.compute_cost import network_multiply_adds, parameters
from jepa_export.targets.onnx import check_size, export_onnx
from jepa_export.targets.openvino import Sample, convert
from jepa_export.teachers.causal import check_causal, entry_shape
from jepa_export.teachers.family import Member, shallow
from jepa_export.teachers.layers import Sizes
from jepa_export.teachers.normalization import PixelNormalization
from jepa_export.teachers.vjepa2 import VJEPA2, Encoder, FixedPredictor, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import VJEPA2AC
from jepa_runtime.bundle import Bundle, history_indices

TEACHER_VARIANTS = tuple(key for key in VARIANTS if key[1] != "int8")
# Windows of frames to measure errors on; where a projection is fitted, it is fitted on the first half.
WINDOWS = 8
# With fewer, a history in reverse order would be the same.
GOLDEN_FRAMES = 3
# Of a usual camera, for the cost of stills.
CAMERA_HZ = 30.0
# Regularization of the projection, as a fraction of the mean square of the inputs.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Memory of the libraries on a workstation and on a robot.
_BUILDER_BYTES, _RUNTIME_BYTES = 700e6, 200e6
TOLERANCES: Tolerances = {
    "fp32": {"min_cosine": 0.9999, "max_abs": 0.02},
    "fp16": {"min_cosine": 0.99, "max_abs": 1.0},
}


class StillFrameEncoder(nn.Module):
    """The encoder for one camera frame as a still clip: uint8 [1, height, width, 3] -> tokens [1, T, D]."""

    def __init__(self, model: VJEPA2 | VJEPA2AC) -> None:
        super().__init__()
        self.encoder, self.tubelet = model.encoder, model.config.encoder.tubelet
        self.normalize = PixelNormalization()

    def forward(self, frame: Tensor) -> Tensor:
        out: Tensor = self.encoder(torch.stack([self.normalize(frame)] * self.tubelet, dim=1))
        return out


class ClipEncoder(nn.Module):
    """The encoder for a clip: uint8 [frames, height, width, 3] -> tokens of its last tubelet [1, T, D]."""

    def __init__(self, model: VJEPA2) -> None:
        super().__init__()
        self.encoder, self.tokens = model.encoder, model.config.encoder.patches
        self.normalize = PixelNormalization()

    def forward(self, frame: Tensor) -> Tensor:
        out: Tensor = self.encoder(self.normalize(frame)[None])[:, -self.tokens :]
        return out


class AnticipationPredictor(nn.Module):
    """The predictor with the runtime's interface: tokens of W steps -> the same H steps for every candidate.

    ``read_back`` projects predictions into the latent space of the encoder.
    """

    def __init__(self, model: VJEPA2, history_size: int, horizon: int, read_back: nn.Module) -> None:
        super().__init__()
        tokens = model.config.encoder.patches
        positions = torch.arange((history_size + horizon) * tokens).split(tokens)
        known, predicted = torch.cat(positions[:history_size]), torch.cat(positions[history_size:])
        self.predict, self.read_back = FixedPredictor(model.predictor, known, predicted), read_back

    def forward(
        self, history_latents: Tensor, actions: Tensor, history_actions: Tensor | None = None
    ) -> Tensor:
        """Predict from [1, W, T, D], [K, H, A] and [1, W-1, A]: [K, H, T, D]."""
        future = self.read_back(self.predict(history_latents.flatten(1, 2)))
        future = future.unflatten(1, (-1, history_latents.shape[2]))
        return for_all_candidates(future, actions, history_actions)


@dataclass(frozen=True)
class GraphCost:
    """The cost of one call of a graph.

    Attributes:
        weights: Number of parameters.
        multiply_adds: Number of multiply-adds of the matrix products.
        working_bytes: Memory of the intermediate results of the largest block.
    """

    weights: int
    multiply_adds: int
    working_bytes: int


@dataclass(frozen=True)
class BundleCost:
    """The costs of both graphs and of a clip, and estimates for the build and for the robot.

    Attributes:
        encoder: One frame.
        predictor: One prediction; its working memory is that of all candidates.
        clip: The encoder for a whole clip, which is compared with still frames in the build only; None: it is
            not.
        frames: Frames that the build encodes to measure errors.
        num_samples: K, candidates that are predicted at once.
        still: The encoder for one still, of a bundle whose encoder reads clips; None: of any other.
        steps: Steps of a clip that a causal encoder encodes one by one; 1 for any other encoder.
        cache_bytes: Memory of the cache of a causal encoder.
    """

    encoder: GraphCost
    predictor: GraphCost
    clip: GraphCost | None
    frames: int
    num_samples: int = 1
    still: GraphCost | None = None
    steps: int = 1
    cache_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Size of the weights in fp32."""
        return 4 * (self.encoder.weights + self.predictor.weights)

    @property
    def robot_bytes(self) -> float:
        """Memory on the robot: weights and a cache, each in its own layout and in that of the engine."""
        working_bytes = max(self.encoder.working_bytes, self.predictor.working_bytes)
        return _RUNTIME_BYTES + 2 * (self.weight_bytes + self.cache_bytes) + working_bytes

    @property
    def building_bytes(self) -> float:
        """Peak memory of the build: weights in torch, ONNX, the OpenVINO IR, its file, and the engine."""
        largest = self.encoder if self.clip is None else self.clip
        working_bytes = max(largest.working_bytes, self.predictor.working_bytes)
        return _BUILDER_BYTES + 5 * self.weight_bytes + working_bytes

    def building_multiply_adds(self, variants: int) -> int:
        """Return the multiply-adds of the build: measurements, golden outputs, and each variant's outputs."""
        golden = GOLDEN_FRAMES * variants
        # A causal encoder also encodes the clips of its golden outputs, of the comparison and of the probe.
        causal_clips = 0 if self.steps == 1 else golden + CLIPS + IMAGES * len(DIRECTIONS)
        probed = self.encoder if self.clip is None or self.steps == 1 else self.clip
        return (
            (self.frames + golden + causal_clips * self.steps) * self.encoder.multiply_adds
            + (WINDOWS + GOLDEN_FRAMES + golden * self.num_samples) * self.predictor.multiply_adds
            + (0 if self.clip is None else 2 * CLIPS * self.clip.multiply_adds)
            + (0 if self.still is None else (self.frames + IMAGES) * self.still.multiply_adds)
            + (0 if self.still is None else IMAGES * len(DIRECTIONS) * probed.multiply_adds)
        )


def bundle_cost(
    config: VJEPA2Config,
    history_size: int,
    horizon: int,
    clip_frames: int | None = None,
    *,
    causal: bool = False,
) -> BundleCost:
    """Return what a bundle costs, without reading any weights.

    Args:
        config: Configuration of the teacher.
        history_size: W, in tubelets.
        horizon: H, in tubelets.
        clip_frames: Frames that the encoder reads at once; None: a still.
        causal: Whether the encoder is causal over these frames.
    """
    encoder, space = config.encoder, config.output_dim
    tokens, width, steps = encoder.patches, encoder.output_dim, history_size + horizon
    with torch.device("meta"):
        model = config.build()
        read_back = nn.Linear(space, width) if config.output_space == "teacher" else nn.Identity()
        predictor = AnticipationPredictor(model, history_size, horizon, read_back)
        known, actions = torch.zeros(1, history_size, tokens, width), torch.zeros(1, horizon, 1)
        frame = torch.zeros(1, *encoder.frame_size, 3, dtype=torch.uint8)
        compared_frames = history_size * encoder.tubelet if clip_frames is None else clip_frames
        clip = torch.zeros(1, compared_frames, 3, *encoder.frame_size)
        encode = network_multiply_adds(StillFrameEncoder(model), frame)
        predict = network_multiply_adds(predictor, known, actions)
        encode_clip = network_multiply_adds(model, clip)
        steps = compared_frames // encoder.tubelet
        if causal:
            tubelet = torch.zeros(encoder.tubelet, *encoder.frame_size, 3, dtype=torch.uint8)
            cache = torch.zeros(steps - 1, *entry_shape(encoder))
            encode_step = network_multiply_adds(
                CausalGraph(model.encoder, steps), tubelet, cache, torch.zeros(steps)
            )
    weights = parameters(model.encoder)
    of_still = GraphCost(weights, encode, working_bytes(encoder, tokens))
    of_clip = GraphCost(weights, encode_clip, working_bytes(encoder, steps * tokens))
    of_encoder = of_still if clip_frames is None else of_clip
    if causal:
        of_encoder = GraphCost(weights, encode_step, working_bytes(encoder, tokens, steps * tokens))
    return BundleCost(
        of_encoder,
        GraphCost(parameters(model.predictor), predict, working_bytes(config.predictor, steps * tokens)),
        of_clip,
        steps_read(config, history_size, horizon, clip_frames),
        still=None if clip_frames is None else of_still,
        steps=steps if causal else 1,
        cache_bytes=4 * cache.numel() if causal else 0,
    )


def check_teacher(
    name: str,
    member: Member,
    *,
    frames: int,
    horizon: int,
    clip_frames: int | None = None,
    causal: bool = False,
    depth: int | None = None,
    accept_non_commercial: bool = False,
) -> VJEPA2Config:
    """Return the configuration of a teacher, after checking that its bundle can be built.

    Args:
        name: Name of the teacher.
        member: Member of the family of teachers.
        frames: Length of the clip.
        horizon: Predicted steps.
        clip_frames: Frames that the encoder reads at once; None: a still.
        causal: Whether the encoder is causal over these frames.
        depth: Number of blocks in the encoder, and at most in the predictor; for random weights only.
        accept_non_commercial: Whether a license that forbids commercial use is accepted.

    Raises:
        JepaExportError: The bundle cannot be built, or the license was not accepted.
    """
    if not member.commercial and not accept_non_commercial:
        raise JepaExportError(
            f"{name}: its license ({member.license}) forbids commercial use, also of models derived from it: "
            "choose another teacher, or pass --accept-non-commercial",
            code="export.non_commercial",
        )
    config = member.config
    if not isinstance(config, VJEPA2Config):
        raise JepaExportError(
            f"{name} ({member.family}) cannot be built: it does not predict without actions; V-JEPA 2, "
            "V-JEPA 2.1, V-JEPA 2-AC and LeWM can be built",
            code="export.teacher_unsupported",
        )
    if depth is not None:
        config = shallow(config, depth)
    tubelet, longest = config.encoder.tubelet, config.encoder.frames
    if frames < tubelet or frames % tubelet:
        raise JepaExportError(
            f"--frames must be a multiple of {name}'s tubelet ({tubelet}), got {frames}",
            code="export.invalid_clip_length",
        )
    if clip_frames is not None and (
        clip_frames < max(2, tubelet) or clip_frames % tubelet or clip_frames > longest
    ):
        raise JepaExportError(
            f"--time clip:N or causal:N: N must be a multiple of {name}'s tubelet ({tubelet}), and from "
            f"{max(2, tubelet)} to the {longest} frames that it was trained on, got {clip_frames}",
            code="export.invalid_clip_length",
        )
    if clip_frames is not None and causal:
        check_causal(name, config.encoder, clip_frames // tubelet)
    if horizon < 1 or frames + horizon * tubelet > longest:
        raise JepaExportError(
            f"clip and prediction must stay within the {longest} frames that {name} was trained on; a "
            f"predicted step has {tubelet} frames: got --frames {frames} and --horizon {horizon}",
            code="export.invalid_clip_length",
        )
    with torch.device("meta"):
        check_size(name, parameters(config.build().encoder))
    return config


def windows(config: VJEPA2Config, horizon: int) -> list[int]:
    """Return the first frame of each window.

    Where a projection is fitted, no frame that the second half of the windows predicts is part of the first
    half, on which it is fitted.
    """
    half, gap = WINDOWS // 2, horizon - 1 if config.output_space == "teacher" else 0
    return [*range(half), *range(half + gap, WINDOWS + gap)]


def steps_read(config: VJEPA2Config, history_size: int, horizon: int, clip_frames: int | None = None) -> int:
    """Return the number of steps, of ``tubelet`` frames each, that a bundle is fitted and measured on.

    With ``clip_frames``, the first steps only belong to the clip that ends after them.
    """
    measured = windows(config, horizon)[-1] + history_size + horizon
    if clip_frames is None:
        return max(measured, steps_needed(history_size))
    clip_steps = clip_frames // config.encoder.tubelet
    return max(measured + clip_steps - 1, steps_needed(clip_steps))


@torch.no_grad()
def write_teacher_bundle(
    model: VJEPA2,
    frames: NDArray[np.uint8],
    folder: Path,
    settings: BundleSettings,
    identity: ModelIdentity,
    progress: Progress,
    begin: Begin = ignore_progress,
    *,
    clip_frames: int | None = None,
    causal: Encoder | None = None,
) -> Bundle:
    """Write the bundle ``folder`` of a teacher; an existing bundle is replaced.

    Args:
        model: Model in evaluation mode.
        frames: uint8 [n * tubelet, height, width, 3], ``tubelet`` for each of n :func:`steps_read`.
        folder: Destination.
        settings: Settings of the bundle.
        identity: Identity of the weights.
        progress: See :data:`~jepa_export.bundling.builder.Progress`.
        begin: See :data:`~jepa_export.bundling.task_progress.Begin`.
        clip_frames: Frames that the encoder reads at once; None: a still.
        causal: The encoder to run with block-causal attention over the frames of a clip: that of the model,
            or one that was trained for it (:mod:`~jepa_export.distillation.causal_encoder`). None: attention
            in both directions.

    Raises:
        JepaExportError: ``folder`` exists and is not a bundle, or a graph does not reproduce the network.
        BundleError: The result is not a valid bundle.
    """
    size, horizon = settings.history_size, settings.horizon
    still, tubelet = StillFrameEncoder(model), model.config.encoder.tubelet
    images = torch.from_numpy(frames)
    stills = images[tubelet - 1 :: tubelet]
    # The inputs of the encoder: [n, 1 or clip_frames, height, width, 3], one for each step.
    encoder: nn.Module = still
    inputs, clip = stills[:, None], None
    step_encoder: CausalClipEncoder | None = None
    if clip_frames is not None:
        encoder, clip = ClipEncoder(model), ClipFormat(clip_frames, tubelet)
        inputs = images.unfold(0, clip_frames, tubelet).movedim(-1, 1)
        if causal is not None:
            step_encoder = CausalClipEncoder(causal, clip_frames // tubelet)
            clip = replace(clip, cache_shape=entry_shape(causal.config))
    with build_bundle(folder, progress) as builder:
        progress(f"encoding {len(inputs)} {'frames' if clip is None else 'clips'}")
        stream = None if step_encoder is None else step_encoder.stream(images)
        if stream is None:
            latents = torch.cat([encoder(each) for each in track(inputs.unbind(0), "encoding frames", begin)])
        else:
            # The first steps only belong to the first clip.
            latents = stream[len(stream) - len(inputs) :]
        progress("comparing still frames with clips")
        still_latents = latents
        if clip_frames is not None:
            still_latents = torch.cat([still(each) for each in stills.split(1)])
        compared = compare_still_and_clip(
            model,
            images,
            still_latents,
            size if clip_frames is None else clip_frames // tubelet,
            trained=identity.trained,
            begin=begin,
        )
        compared.report(progress)
        found = compared.as_report()
        if clip_frames is not None:
            probe = probe_motion(
                still,
                encoder,
                stills,
                clip_frames,
                trained=identity.trained,
                begin=begin,
                causal=step_encoder,
            )
            probe.report(progress)
            found |= probe.as_report()
            found |= _encoder_cost(model.config, size, settings, clip_frames, causal=causal is not None)
        if step_encoder is not None and stream is not None:
            steps = step_encoder.steps
            gap = measure_causal_gap(
                encoder,
                step_encoder,
                images,
                stream,
                still_latents,
                trained=identity.trained,
                begin=begin,
                before=None if causal is model.encoder else CausalClipEncoder(model.encoder, steps),
            )
            gap.report(progress)
            found |= gap.as_report()
        progress(f"predicting {WINDOWS} windows to measure errors")
        seen = [latents[start : start + size + horizon] for start in windows(model.config, horizon)]
        unprojected = AnticipationPredictor(model, size, horizon, nn.Identity())
        predicted = torch.cat(
            [
                unprojected(*_inputs(window[None, :size], settings))
                for window in track(seen, "predicting", begin)
            ]
        )
        actual = torch.stack([window[size:] for window in seen])
        read_back, report = _fit_read_back(model.config, predicted, actual)
        predictor = AnticipationPredictor(model, size, horizon, read_back)
        fitted = WINDOWS // 2 if report else 0
        measured = measure_errors(read_back(predicted[fitted:]), actual[fitted:], latents[1:] - latents[:-1])
        graph, outputs = encoder, ["latent"]
        samples: list[Sample] = [{"frame": each.contiguous().numpy()} for each in inputs]
        golden = latents[:GOLDEN_FRAMES]
        if causal is not None and step_encoder is not None:
            graph, outputs = CausalGraph(causal, step_encoder.steps), ["latent", "entry"]
            samples = graph_samples(graph, images[:clip_frames])
            golden = torch.cat([step_encoder(each) for each in inputs[:GOLDEN_FRAMES]])
        _write(graph, samples, outputs, builder.staging / "encoder", settings.variants, progress)
        names = ("history_latents", "actions", "history_actions")
        rollouts: list[Sample] = [
            {name: tensor.numpy() for name, tensor in zip(names, each, strict=False)}
            for each in (_inputs(window[None, :size], settings) for window in seen)
        ]
        _write(predictor, rollouts, ["futures"], builder.staging / "predictor", settings.variants, progress)
        golden_inputs = [_inputs(golden[past][None], settings) for past in history_indices(len(golden), size)]
        builder.write_golden_outputs(
            frames=inputs[:GOLDEN_FRAMES, 0] if clip is None else inputs[:GOLDEN_FRAMES],
            latents=golden,
            actions=golden_inputs[0][1],
            futures=torch.stack([predictor(*each) for each in golden_inputs]),
            **{"history_actions": golden_inputs[0][2][0]} if size > 1 else {},
        )
        fields = create_manifest(
            identity,
            settings,
            measured,
            frame=FrameFormat(*model.config.encoder.frame_size),
            latent=(latents.shape[1], latents.shape[2]),
            roles=("encoder", "predictor"),
            tolerances=TOLERANCES,
            clip=clip,
        )
        builder.finish(fields, report | found)
    return Bundle.open(folder)


def _encoder_cost(
    config: VJEPA2Config, history_size: int, settings: BundleSettings, clip_frames: int, *, causal: bool
) -> dict[str, object]:
    """Return the entry for report.json: what stills, clips and a causal encoder cost per second."""
    cost = bundle_cost(config, history_size, settings.horizon, clip_frames, causal=causal)
    assert cost.still is not None and cost.clip is not None
    calls_hz = {"still": CAMERA_HZ, "clip": 1 / settings.step_s}
    per_call = {"still": cost.still.multiply_adds, "clip": cost.clip.multiply_adds}
    about = (
        "multiply-adds of the encoder: stills are encoded for every image, here of a camera with "
        f"{CAMERA_HZ:g} Hz, and clips once per step"
    )
    if causal:
        calls_hz["causal"], per_call["causal"] = 1 / settings.step_s, cost.encoder.multiply_adds
        about += "; a causal encoder reads the images of one step, and its cache"
    return {
        "encoder_cost": {"about": about}
        | {
            name: {
                "multiply_adds": per_call[name],
                "calls_per_s": rate_hz,
                "multiply_adds_per_s": round(per_call[name] * rate_hz),
            }
            for name, rate_hz in calls_hz.items()
        }
    }


def _inputs(history: Tensor, settings: BundleSettings) -> list[Tensor]:
    """Return the inputs of the predictor for a history [1, W, T, D]."""
    actions = torch.zeros(settings.num_samples, settings.horizon, 1)
    between = history.shape[1] - 1
    return [history, actions, *([torch.zeros(1, between, 1)] if between else [])]


def _fit_read_back(
    config: VJEPA2Config, predicted: Tensor, actual: Tensor
) -> tuple[nn.Module, dict[str, object]]:
    """Fit the projection of predictions [n, H, T, P] to tokens of the encoder [n, H, T, D].

    It is fitted by ridge regression on the first half of the :func:`windows`; the second half selects the
    regularization and yields the explained variance for the report.
    """
    if config.output_space == "encoder":
        return nn.Identity(), {}
    inputs, targets = (tensor.flatten(1, 2).double() for tensor in (predicted, actual))
    half = len(inputs) // 2
    known, truth = inputs[:half].flatten(0, 1), targets[:half].flatten(0, 1)
    input_mean, target_mean = known.mean(0), truth.mean(0)
    centered = known - input_mean
    squares, products = centered.T @ centered, centered.T @ (truth - target_mean)
    unit = squares.diagonal().mean() * torch.eye(len(squares), dtype=squares.dtype)
    variance = (targets[half:] - target_mean).square().sum()
    explained, weights = -torch.inf, products
    for ridge in RIDGES:
        tried = torch.linalg.solve(squares + ridge * unit, products)
        residual = targets[half:] - target_mean - (inputs[half:] - input_mean) @ tried
        proportion = 1 - float(residual.square().sum() / variance)
        if proportion > explained:
            explained, weights = proportion, tried
    linear = nn.Linear(*weights.shape)
    linear.weight.copy_(weights.T)
    linear.bias.copy_(target_mean - input_mean @ weights)
    about = "explained variance of the projected predictions, on frames that the projection was not fitted on"
    return linear, {"read_back": {"about": about, "explained": round(explained, 4)}}


def measure_errors(predicted: Tensor, actual: Tensor, changes: Tensor) -> MeasuredErrors:
    """Return the error statistics of predictions.

    The surprise threshold is the largest of these one-step errors; the goal threshold is the median
    difference of two frames one step apart.

    Args:
        predicted: [n, H, T, D].
        actual: [n, H, T, D].
        changes: [m, T, D], differences of frames one step apart.
    """
    errors = predicted - actual
    bounds = errors.flatten(2).norm(dim=-1).quantile(ERROR_QUANTILE, dim=0)
    one_step = errors[:, 0].flatten(1).square().mean(1).sqrt()
    return MeasuredErrors(
        error_bounds=tuple(bounds.tolist()),
        surprise_threshold=float(one_step.max()),
        goal_threshold=float(changes.flatten(1).square().mean(1).median()),
    )


def _write(
    module: nn.Module,
    samples: Sequence[Sample],
    outputs: Sequence[str],
    folder: Path,
    variants: Sequence[VariantKey],
    progress: Progress,
) -> None:
    progress(f"{folder.name}: writing graphs")
    example = {name: torch.from_numpy(array) for name, array in samples[0].items()}
    free_axis = ("actions",) if "actions" in example else ()
    shapes = {name: tuple(tensor.shape) for name, tensor in example.items()}
    folder.mkdir()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        path = Path(scratch) / "model.onnx"
        export_onnx(module, example, outputs, path, free_axis=free_axis)
        write_variants(path, {"fp32": lambda: convert(path)}, samples, folder, variants, shapes=shapes)


def working_bytes(sizes: Sizes, tokens: int, attended: int | None = None) -> int:
    """Return the memory of the attention scores of one block and its other intermediate results.

    Args:
        sizes: Sizes of the transformer.
        tokens: Tokens that it computes.
        attended: Tokens that these attend to; None: to each other.
    """
    scores = 2 * sizes.heads * tokens * (tokens if attended is None else attended)
    return 4 * (scores + tokens * (6 * sizes.width + sizes.hidden))
