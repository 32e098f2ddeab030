"""The manifest of a bundle, format 1: fields, limits, and consistency checks.

The JSON Schema of these models is published in ``schema/manifest-1.schema.json``; consistency between fields
is checked only here.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from jepa_runtime.util.precision import Precision

SCHEMA_VERSION = 1
"""The version of the format."""
MANIFEST_NAME = "manifest.json"
"""The file name of the manifest."""
MAX_MANIFEST_BYTES = 1 << 20
"""The largest size of a manifest."""
MAX_FILES = 1000
MAX_TENSOR_BYTES = 1 << 30
MAX_PATH_LENGTH = 255

Target = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=32)]
"""The name of the format of a graph, which decides the engines that can run it."""
Role = Literal["encoder", "predictor", "step", "energy", "relative_pose"]
"""What a graph computes."""
ROLES: tuple[Role, ...] = get_args(Role)
"""All roles."""
GOAL_ROLES: tuple[Role, ...] = ("energy", "relative_pose")
"""The roles of graphs that compare states with a goal."""
POSE_SIZE = 5
"""The number of values of a relative pose, see :class:`Graphs`."""
POSE_VARIABLES = 3
"""The number of these that are a pose; the others are standard deviations."""
POSE_BATCH = 4
"""The number of states for which a relative pose graph is compiled, in addition to one."""
# OpenVINO 2026.4 crashes the process when it compiles a quantized predictor for 2 to 8 candidates, but not
# for 1, or for 9 and more. A few unused candidates cost little.
_MIN_CANDIDATES = 9

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PATH = re.compile(rf"(?:{_NAME}/)*{_NAME}\.(?:xml|bin|onnx|json|npz|blob)")
# Of the targets that this format defines: OpenVINO IRs, all others are ONNX; and those with fixed shapes.
_IR_TARGETS = ("openvino", "npu")
_FIXED_SHAPES = ("npu",)


def compiled_candidates(num_samples: int) -> int:
    """Return the number of candidates for which a predictor of ``num_samples`` is compiled."""
    return num_samples if num_samples == 1 else max(num_samples, _MIN_CANDIDATES)


def model_suffix(target: Target) -> str:
    """Return the suffix of the model files of a target."""
    return ".xml" if target in _IR_TARGETS else ".onnx"


def check_path(path: str) -> str:
    """Return ``path`` if a manifest may list it: relative, inside the folder, of a data-only file type.

    Raises:
        ValueError: It may not; the message says why.
    """
    if path.startswith("/") or "\\" in path or ":" in path or ".." in path.split("/"):
        raise ValueError(f"path {path!r} leads outside the bundle: use a relative path with / and without ..")
    if len(path) > MAX_PATH_LENGTH:
        raise ValueError(f"path of {len(path)} characters, at most {MAX_PATH_LENGTH} are allowed")
    if not _PATH.fullmatch(path):
        raise ValueError(
            f"path {path!r} is not allowed: use letters, digits, _ - and . only, no leading dot, and one of "
            "the suffixes .xml .bin .onnx .json .npz .blob"
        )
    return path


BundlePath = Annotated[
    str,
    AfterValidator(check_path),
    WithJsonSchema({"type": "string", "maxLength": MAX_PATH_LENGTH, "pattern": f"^{_PATH.pattern}$"}),
]
MAX_TEXT = 4096
"""The largest number of characters of a text."""
# Shown in terminals and logs, so control characters are not allowed.
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT, pattern=r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ModelId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$", max_length=64)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
STEP_S = (1e-6, 3600)
"""The smallest and the largest duration of a step; the planner applies the same bounds to ``model_info``."""
HORIZON = (1, 1024)
"""The smallest and the largest horizon."""
NUM_SAMPLES = (1, 65536)
"""The smallest and the largest K."""
ACTION_LIMIT = (-1e15, 1e15)
"""The range of limits of action components: in fp32, multiples and squares of norms are finite."""
Limit = Annotated[float, Field(ge=ACTION_LIMIT[0], le=ACTION_LIMIT[1])]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Provenance(_Model):
    """Represent the origin of the model."""

    data: Text
    teacher: Text | None
    commit: Text
    command: Text


class FrameSpec(_Model):
    """Represent the input image of the encoder.

    ``mean`` and ``std`` are informative: the graph normalizes its input.
    """

    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[3]
    layout: Literal["NHWC"]
    dtype: Literal["uint8"]
    color: Literal["rgb"]
    rate_hz: Annotated[float, Field(gt=0, le=10_000)]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


class ClipSpec(_Model):
    """Represent the clip that the encoder reads instead of one image: the newest image and those before it.

    The encoder runs once per step, on ``frames`` images that are ``step_s / frames_per_step`` seconds apart.

    ``cache_shape``: a causal encoder reads only the ``frames_per_step`` images of the newest step, and what
    it computed of the steps before it: an array of this shape for each. Absent: it reads all images of the
    clip.
    Runtimes that do not know this field reject the bundle as ``bundle.manifest_invalid``.
    """

    frames: Annotated[int, Field(ge=2, le=1024)]
    frames_per_step: Annotated[int, Field(ge=1, le=1024)]
    cache_shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_TENSOR_BYTES)], ...] | None, Field(min_length=1, max_length=8)
    ] = None

    @property
    def frames_per_call(self) -> int:
        """The number of images that the encoder reads in one call."""
        return self.frames if self.cache_shape is None else self.frames_per_step

    @property
    def steps(self) -> int:
        """The number of steps in a clip."""
        return self.frames // self.frames_per_step

    @property
    def cached_steps(self) -> int:
        """The number of steps before the newest that a causal encoder reads from its cache; 0 without one."""
        return 0 if self.cache_shape is None else self.steps - 1

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit an absent cache, which earlier versions of the reader would reject."""
        written: dict[str, Any] = write(self)
        if self.cache_shape is None:
            written.pop("cache_shape", None)
        return written

    @model_validator(mode="after")
    def _agree(self) -> ClipSpec:
        if self.frames % self.frames_per_step:
            raise ValueError(
                f"clip frames must be a multiple of frames_per_step ({self.frames_per_step}), got "
                f"{self.frames}"
            )
        if self.cache_shape is not None and self.steps == 1:
            raise ValueError(
                f"cache_shape is for clips of several steps: {self.frames} frames are one step, so the cache "
                "would be empty"
            )
        cache_bytes = 4 * self.cached_steps * math.prod(self.cache_shape or ())
        if cache_bytes > MAX_TENSOR_BYTES:
            raise ValueError(
                f"the cache of {self.cached_steps} steps takes {cache_bytes / 2**30:.1f} GiB, at most "
                f"{MAX_TENSOR_BYTES >> 30} GiB is allowed"
            )
        return self


class LatentSpec(_Model):
    """Represent the latent state of a frame or the end of a clip: ``tokens`` vectors of ``dim`` numbers."""

    tokens: Annotated[int, Field(ge=1, le=65536)]
    dim: Annotated[int, Field(ge=1, le=65536)]
    dtype: Literal["float32"]


NORM_ROUNDING = 1 + 5e-7
"""A norm above its limit by no more than this factor is a rounding error."""


# A command may exceed the limits, which the robot clips to. Beyond this multiple no command is executed, a
# model computes no finite numbers, and a sum that includes the value hides all later values.
_MAX_EXCESS = 1000


class ActionSpec(_Model):
    """Represent an action: A numbers within [low, high], their norm at most ``max_norm`` (None: any)."""

    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    units: tuple[Name, ...]
    low: tuple[Limit, ...]
    high: tuple[Limit, ...]
    max_norm: Positive | None

    @property
    def max_plausible(self) -> float:
        """The largest magnitude of a component that is accepted as an action, in its unit."""
        return _MAX_EXCESS * (max(map(abs, (*self.low, *self.high))) or 1.0)

    @property
    def is_rate(self) -> bool:
        """Whether all components are rates, by their units: half for twice as long has the same path."""
        return all(unit.endswith("/s") for unit in self.units)

    @model_validator(mode="after")
    def _agree(self) -> ActionSpec:
        count = len(self.names)
        if len(set(self.names)) != count:
            raise ValueError("action names must be unique")
        for field, values in (("units", self.units), ("low", self.low), ("high", self.high)):
            if len(values) != count:
                raise ValueError(f"action {field} must have one entry per name ({count}), got {len(values)}")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if low > high:
                raise ValueError(f"action {name}: low must not exceed high, got {low} and {high}")
        least = math.hypot(*(min(max(0.0, low), high) for low, high in zip(self.low, self.high, strict=True)))
        if self.max_norm is not None and least > self.max_norm * NORM_ROUNDING:
            raise ValueError(
                f"max_norm must be at least the smallest norm within low and high ({least:g}), got "
                f"{self.max_norm:g}"
            )
        return self


class StateSpec(_Model):
    """Represent the measured state of the robot, which the predictor reads: S numbers, such as a pose."""

    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    units: tuple[Name, ...]

    @model_validator(mode="after")
    def _agree(self) -> StateSpec:
        if len(set(self.names)) != len(self.names):
            raise ValueError("state names must be unique")
        if len(self.units) != len(self.names):
            raise ValueError(
                f"state units must have one entry per name ({len(self.names)}), got {len(self.units)}"
            )
        return self


class IO(_Model):
    """Represent the inputs and outputs. An action is held for ``step_s``, the step of the predictor.

    ``state``: the measured state of the robot that the predictor reads at each latent; absent: it reads none.
    ``clip``: the images that the encoder reads at once; absent: it reads one. Runtimes that do not know one
    of these fields reject the bundle as ``bundle.manifest_invalid``.
    """

    frame: FrameSpec
    clip: ClipSpec | None = None
    latent: LatentSpec
    action: ActionSpec
    state: StateSpec | None = None
    step_s: Annotated[float, Field(ge=STEP_S[0], le=STEP_S[1])]

    @property
    def encoder_frames(self) -> int:
        """The number of images that a latent is computed from; a causal encoder caches the earlier ones."""
        return 1 if self.clip is None else self.clip.frames

    @property
    def frame_interval_s(self) -> float:
        """The time between two images that the encoder reads, in seconds."""
        return self.step_s if self.clip is None else self.step_s / self.clip.frames_per_step

    @model_validator(mode="after")
    def _agree(self) -> IO:
        frame, clip_bytes = self.frame, self.encoder_frames * self.frame.height * self.frame.width * 3
        if clip_bytes > MAX_TENSOR_BYTES:
            raise ValueError(
                f"a clip of {self.encoder_frames} images of {frame.height} x {frame.width} takes "
                f"{clip_bytes / 2**30:.1f} GiB, at most {MAX_TENSOR_BYTES >> 30} GiB is allowed"
            )
        return self


class Variant(_Model):
    """Represent a variant of a graph: its target, precision and file (an IR has a ``.bin`` next to it).

    Targets. ``openvino``: an IR for any OpenVINO device. ``onnx``: for any engine. ``npu``: an IR for Intel
    NPUs with all shapes fixed (the predictor for ``num_samples``, at least 9 unless it is 1; the energy for
    ``num_samples`` x ``horizon`` states; the relative pose for 4), optionally with blobs compiled ahead of
    time next to it, such as ``model_int8_4000.blob``. ``tensorrt``: ONNX with its precision in the graph,
    from which a robot with an NVIDIA GPU builds its engine. Any other name: ONNX, for an engine of another
    package. A robot ignores the variants that it cannot run.

    ``bf16``: a graph for ``openvino`` with fp32 weights, computed in bfloat16 on CPUs that support it (x86
    with AMX or AVX512-BF16) and on no others; it is used only if it is requested by name.

    ``dynamic_quantization_group_size`` is the OpenVINO property of that name, for graphs with INT8 weights
    and floating-point activations. 0: activations are computed in fp32 on every CPU. Above 0: OpenVINO
    quantizes activations at run time in groups of this size where the CPU supports it (x86 with VNNI), and
    computes them in fp32 elsewhere; results then differ between CPUs and between values of K.
    """

    target: Target
    precision: Precision
    path: BundlePath
    dynamic_quantization_group_size: Annotated[int, Field(ge=0, le=65536)] = 0

    @model_validator(mode="after")
    def _agree(self) -> Variant:
        if self.dynamic_quantization_group_size and self.target != "openvino":
            raise ValueError(
                f"{self.path}: dynamic_quantization_group_size is for the target openvino, not {self.target}"
            )
        if self.precision == "bf16" and self.target != "openvino":
            raise ValueError(f"{self.path}: bf16 is for the target openvino, not {self.target}")
        return self

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the default, which earlier versions of the reader would reject."""
        written: dict[str, Any] = write(self)
        if not self.dynamic_quantization_group_size:
            written.pop("dynamic_quantization_group_size", None)
        return written

    @property
    def label(self) -> str:
        """The precision and target, for messages and tables."""
        group = self.dynamic_quantization_group_size
        dynamic = f" (activations quantized at run time, groups of {group})" if group else ""
        return f"{self.precision} for {self.target}{dynamic}"

    @property
    def has_fixed_shapes(self) -> bool:
        """Whether the shapes of all inputs are fixed."""
        return self.target in _FIXED_SHAPES

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of this variant."""
        return (self.path, weights_path(self.path)) if self.path.endswith(".xml") else (self.path,)


def weights_path(path: str) -> str:
    """Return the path of the weights of the OpenVINO IR ``path``."""
    return path.removesuffix(".xml") + ".bin"


def blob_path(path: str, platform: str) -> str:
    """Return the path of the blob that was compiled from the IR ``path`` for an NPU platform."""
    return path.removesuffix(".xml") + f"_{platform}.blob"


def blob_metadata_path(blob: str) -> str:
    """Return the path of the metadata of a blob."""
    return f"{blob}.json"


_Variants = Annotated[tuple[Variant, ...], Field(max_length=16)]


class Graphs(_Model):
    """Represent the variants of each graph, the preferred first.

    ``step`` is the predictor for one candidate and one step. Without it, the predictor is compiled for one
    candidate as well, which takes time and memory if it is large; a predictor for an NPU, whose shapes are
    fixed, needs it unless ``num_samples`` is 1. ``energy`` may be empty (then energy is the mean squared
    difference), and need not exist in every precision.

    ``relative_pose`` reads where a goal is: from ``latents`` [N, T, D] and ``goal`` [1, T, D] it computes
    ``relative_pose`` [N, 5], which is x [m], y [m] and yaw [rad] of the goal in the frame of each latent
    (REP-103: x forward, y left, yaw counterclockwise), followed by the standard deviations of the position
    [m] and of the yaw [rad]. It may be empty (then the model reads no poses), and need not exist in every
    precision. Runtimes that do not know it reject the whole bundle as ``bundle.manifest_invalid``, so a robot
    that gets it as an update continues with its active model.
    """

    encoder: Annotated[_Variants, Field(min_length=1)]
    predictor: Annotated[_Variants, Field(min_length=1)]
    step: _Variants = ()
    energy: _Variants
    relative_pose: _Variants = ()

    def variants(self, role: Role) -> tuple[Variant, ...]:
        """Return the variants of one graph."""
        variants: tuple[Variant, ...] = getattr(self, role)
        return variants

    @model_validator(mode="after")
    def _agree(self) -> Graphs:
        kinds = {
            role: [(variant.target, variant.precision) for variant in self.variants(role)] for role in ROLES
        }
        for role in ROLES:
            if len(set(kinds[role])) != len(kinds[role]):
                raise ValueError(f"graph {role} has two variants of the same target and precision")
            for variant in self.variants(role):
                suffix, folder = model_suffix(variant.target), f"{role}/{variant.target}/"
                if not variant.path.startswith(folder) or not variant.path.endswith(suffix):
                    raise ValueError(f"graph {role}: path must be {folder}*{suffix}, got {variant.path!r}")
        if set(kinds["encoder"]) != set(kinds["predictor"]):
            raise ValueError("encoder and predictor must have the same targets and precisions")
        for target in dict.fromkeys(target for target, _ in kinds["step"]):
            step, predictor = (
                {kind for kind in kinds[role] if kind[0] == target} for role in ("step", "predictor")
            )
            if step != predictor:
                raise ValueError(f"step and predictor must have the same precisions for {target}")
        targets = {target for target, _ in kinds["encoder"]}
        for role in GOAL_ROLES:
            if kinds[role] and {target for target, _ in kinds[role]} != targets:
                raise ValueError(f"the {role} graph must have the same targets as the encoder")
        return self


class Tolerance(_Model):
    """Represent the allowed deviation: the cosine of the worst vector, and the largest difference."""

    min_cosine: Annotated[float, Field(ge=-1, le=1)]
    max_abs: NonNegative


class GoldenSpec(_Model):
    """Represent the golden outputs, and the tolerance of each precision."""

    path: Literal["golden.npz"]
    tolerances: dict[Precision, Tolerance]


class FileRecord(_Model):
    """Represent one file of the bundle."""

    path: BundlePath
    bytes: Annotated[int, Field(ge=0, le=1 << 40)]
    sha256: Sha256


MAX_BLOCKS = 32768
"""The largest number of block maxima in a manifest."""


class NormalScores(_Model):
    """Represent the anomaly scores of normal data: one score per step, in units of ``error_bounds``.

    ``data``: the data set. ``highest``: the highest score of each ``block`` scores. See
    :mod:`jepa_runtime.calibration`.
    """

    data: Text
    block: Annotated[int, Field(ge=1, le=65536)]
    highest: Annotated[tuple[NonNegative, ...], Field(min_length=1, max_length=MAX_BLOCKS)]


class Manifest(_Model):
    """Represent the manifest of a bundle.

    W = ``history_size``, H = ``horizon``, K = ``num_samples`` (the default number of candidates).

    ``error_bounds`` [H]: 90 % quantile of the norm of (predicted - encoded) over held-out frames, per step.
    ``surprise_threshold``: root mean squared one-step error above which a frame is surprising.
    ``goal_threshold``: energy at or below which a goal is reached. ``normal_scores``: the scores from which a
    robot computes its alarm thresholds; without them alarms are disabled.
    """

    model_config = ConfigDict(title="jepa-edge bundle manifest, format 1")

    schema_version: Literal[1]
    model_id: ModelId
    version: Annotated[
        str,
        StringConstraints(
            pattern=r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$",
            max_length=64,
        ),
    ]
    release_seq: Annotated[int, Field(ge=1, le=2**63 - 1)]
    trained: bool
    description: Text
    licence: Text
    provenance: Provenance
    io: IO
    history_size: Annotated[int, Field(ge=1, le=1024)]
    horizon: Annotated[int, Field(ge=HORIZON[0], le=HORIZON[1])]
    num_samples: Annotated[int, Field(ge=NUM_SAMPLES[0], le=NUM_SAMPLES[1])]
    graphs: Graphs
    error_bounds: tuple[NonNegative, ...]
    surprise_threshold: NonNegative
    goal_threshold: float
    normal_scores: NormalScores | None = None
    golden: GoldenSpec
    files: Annotated[tuple[FileRecord, ...], Field(min_length=1, max_length=MAX_FILES)]

    @property
    def action_size(self) -> int:
        """The number of components of an action, A."""
        return len(self.io.action.names)

    @property
    def state_size(self) -> int:
        """The number of components of the robot's state, S; 0 if the predictor reads none."""
        return 0 if self.io.state is None else len(self.io.state.names)

    @property
    def takes_actions(self) -> bool:
        """Whether the predicted futures can depend on actions."""
        return self.io.action.low != self.io.action.high

    def interface(self) -> dict[str, Any]:
        """Return what a robot's software relies on, as JSON values.

        That is the actions, their units, limits and duration, the state of the robot and the clips if the
        model reads them, and the number of predicted steps. Latents may change.
        """
        clip = {} if self.io.clip is None else {"clip": self.io.clip.model_dump(mode="json")}
        state = {} if self.io.state is None else {"state": self.io.state.model_dump(mode="json")}
        action = self.io.action.model_dump(mode="json")
        return action | state | clip | {"step_s": self.io.step_s, "horizon": self.horizon}

    def to_json_dict(self) -> dict[str, Any]:
        """Return the fields as they are written: without defaults that earlier readers would reject."""
        omitted: dict[str, Any] = {}
        if self.normal_scores is None:
            omitted["normal_scores"] = True
        if not self.graphs.relative_pose:
            omitted["graphs"] = {"relative_pose"}
        absent = {name for name in ("clip", "state") if getattr(self.io, name) is None}
        if absent:
            omitted["io"] = absent
        return self.model_dump(mode="json", exclude=omitted)

    @model_validator(mode="after")
    def _agree(self) -> Manifest:
        check_futures_size(self, self.num_samples)
        if len(self.error_bounds) != self.horizon:
            raise ValueError(
                f"error_bounds must have one entry per step ({self.horizon}), got {len(self.error_bounds)}"
            )
        self._check_listed()
        stepped = {variant.target for variant in self.graphs.step}
        for variant in self.graphs.predictor:
            if self.num_samples > 1 and variant.has_fixed_shapes and variant.target not in stepped:
                raise ValueError(
                    f"graphs: the predictor for {variant.target} has fixed shapes, for {self.num_samples} "
                    f"candidates, so {variant.target} needs a step graph too: export its variants again "
                    "(jepa-export add-variant creates it)"
                )
        for role in ROLES:
            for variant in self.graphs.variants(role):
                if variant.precision not in self.golden.tolerances:
                    raise ValueError(f"golden.tolerances must have an entry for {variant.precision}")
        return self

    def _check_listed(self) -> None:
        listed = [record.path for record in self.files]
        if len(set(listed)) != len(listed):
            twice = next(path for path in listed if listed.count(path) > 1)
            raise ValueError(f"files: {twice!r} is listed twice")
        if MANIFEST_NAME in listed:
            raise ValueError(f"files: {MANIFEST_NAME} cannot list itself")
        needed: list[str] = [self.golden.path]
        for role in ROLES:
            needed += [path for variant in self.graphs.variants(role) for path in variant.paths]
        for path in needed:
            if path not in listed:
                raise ValueError(f"files: {path!r} is used but not listed")


def check_futures_size(manifest: Manifest, num_samples: int) -> None:
    """Check that ``num_samples`` futures fit into the allowed memory.

    Raises:
        ValueError: They do not.
    """
    latent_bytes = manifest.io.latent.tokens * manifest.io.latent.dim * 4
    counts = {
        "num_samples x horizon": num_samples * manifest.horizon,
        "history_size": manifest.history_size,
    }
    for what, count in counts.items():
        if count * latent_bytes > MAX_TENSOR_BYTES:
            raise ValueError(
                f"{what} x tokens x dim takes {count * latent_bytes / 2**30:.1f} GiB, at most "
                f"{MAX_TENSOR_BYTES >> 30} GiB is allowed"
            )


def manifest_schema() -> str:
    """Return the JSON Schema of the manifest, as published."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Manifest.model_json_schema()
    return json.dumps(schema, indent=2) + "\n"
