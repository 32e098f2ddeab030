"""The world model: it encodes frames to latent states, and predicts futures under actions."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import cast

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.backends.base import Backend, BackendOptions, ScalingSession, Session, TimedSession
from jepa_runtime.backends.registry import create_backend, split_alternatives
from jepa_runtime.bundle import Bundle, Manifest, Target
from jepa_runtime.bundle.manifest import POSE_SIZE
from jepa_runtime.errors import BackendError, BundleError, FrameError, JepaRuntimeError
from jepa_runtime.imaging.conversion import ImageLike, as_array, check_rgb, resize_into
from jepa_runtime.model.compiled_graphs import CompiledGraphs, open_sessions
from jepa_runtime.model.encoder_cache import EncoderCache
from jepa_runtime.model.relative_pose import RelativePose, are_valid
from jepa_runtime.model.rollouts import RolloutRequest, Rollouts
from jepa_runtime.util.notebook_html import table
from jepa_runtime.util.opencv import cv2, load_opencv

Floats = NDArray[np.float32]
# OpenCV's result for the distance of vectors that are not finite.
_NO_DISTANCE = np.finfo(np.float32).max
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Futures:
    """Represent the predicted futures of K action sequences.

    Attributes:
        latents: float32 [K, H, T, D]; ``latents[k, h]`` is the state after h + 1 steps.
        actions: float32 [K, H, A], the action sequences (SI units).
        energies: float32 [K, H] to the goal; None without a goal.
        error_bounds: float32 [H], bounds of the norm of the prediction error. The bounds of the bundle hold
            for 90 % of predictions; those in results of the pipeline are adapted at run time, see
            :class:`jepa_runtime.calibration.Calibration`.
    """

    latents: Floats
    actions: Floats
    energies: Floats | None
    error_bounds: Floats

    def __repr__(self) -> str:
        energies = None if self.energies is None else list(self.energies.shape)
        return (
            f"Futures(latents={list(self.latents.shape)}, actions={list(self.actions.shape)}, "
            f"energies={energies}, error_bounds={list(self.error_bounds.shape)})"
        )

    def _repr_html_(self) -> str:
        rows = {"latents": list(self.latents.shape), "actions": list(self.actions.shape)}
        curves = {"error bound": self.error_bounds.tolist()}
        if self.energies is not None:
            best = int(np.argmin(np.nan_to_num(self.energies[:, -1], nan=np.inf)))
            curves[f"energy of future {best}, the lowest"] = self.energies[best].tolist()
        return table(f"{len(self.latents)} futures of {self.latents.shape[1]} steps", rows, curves)


@dataclass(frozen=True)
class StepOutcome:
    """Represent the outcome of one step, compared with its prediction.

    All values are in the unit of the surprise (root mean square over tokens and dimensions).

    Attributes:
        surprise: The difference between the predicted and the observed latent.
        predicted_change: The difference between the predicted latent and the latent before the step.
        observed_change: The change of the latent in the direction of the predicted change. It equals
            ``predicted_change`` for a perfect prediction, and is 0 for an image that does not change.
    """

    surprise: float
    predicted_change: float
    observed_change: float


class WorldModel:
    """An open model. Create, use and close it on one thread; calls from other threads raise BackendError.

    W is the manifest's ``history_size``, H its ``horizon``, K ``num_samples``, T and D the tokens and
    dimensions of a latent, A the number of components of an action.

    Attributes:
        bundle: The bundle.
        engine: The name of the engine.
        device: The device.
        engine_version: The version of the engine.
        precision: The precision.
        variants: The variant of each graph that is in use.
        skipped_engines: Preferred engines that cannot be used, each with the reason.
        num_samples: K, the maximum number of futures per call.
        latent_space: The identity of the latent space: two models with equal values can use each other's
            latents.
        energy_space: The identity of the energy: two models with equal values of this and of
            ``latent_space`` compute the same energies. Empty: the mean squared difference.
        timings: The duration in ms of the last call: preprocess, encode, predict, energy,
            relative_pose.
        device_timings: The same of encode and predict on the device's clock, if it has one.
    """

    def __init__(self, bundle: Bundle, backend: Backend, sessions: CompiledGraphs, num_samples: int) -> None:
        self.bundle = bundle
        self.engine = backend.engine
        self.device = backend.device
        self.engine_version = backend.version
        self.precision = sessions.precision
        self.variants = sessions.variants
        self.skipped_engines: tuple[str, ...] = ()
        self.num_samples = num_samples
        self.latent_space = sessions.encoder_sha256
        self.energy_space = sessions.energy_sha256
        self.timings: dict[str, float] = dict.fromkeys(
            ("preprocess", "encode", "predict", "energy", "relative_pose"), 0.0
        )
        self.device_timings: dict[str, float] = {}
        self._backend = backend
        self._sessions: CompiledGraphs | None = sessions
        # Checked once: isinstance with a protocol takes microseconds. Sessions of an engine have one type.
        self._scaler = sessions.encoder if isinstance(sessions.encoder, ScalingSession) else None
        self._has_clock = isinstance(sessions.encoder, TimedSession)
        self._thread = threading.get_ident()
        manifest = bundle.manifest
        self._latent_shape = manifest.io.latent.tokens, manifest.io.latent.dim
        self._rollouts = Rollouts(manifest)
        self._error_bounds = np.asarray(manifest.error_bounds, np.float32)
        # A view of the encoder's output: callers may modify the copy that they get.
        self._last: Floats | None = None
        # The cache whose entries are in the input of the encoder, and its revision then: after a swap,
        # another model may have continued it.
        self._loaded: tuple[EncoderCache | None, int] = (None, 0)

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        *,
        engine: str = DEFAULT_ENGINE,
        precision: str | None = None,
        num_samples: int | None = None,
        target: Target | None = None,
        options: BackendOptions | None = None,
        allow_untrained: bool = False,
    ) -> WorldModel:
        """Verify a bundle and load it.

        Args:
            bundle: Its folder, its address on the Hugging Face Hub (``hf://org/name``, see
                :meth:`jepa_runtime.bundle.Bundle.open`), or the opened bundle.
            engine: ``engine:DEVICE``, or a list of alternatives, the preferred first:
                ``openvino:NPU,openvino:CPU``. Engines that are not listed are never used.
            precision: int8, fp16, bf16 or fp32; None: the first of the bundle that the engine can run.
            num_samples: K; None: that of the bundle. A smaller K makes each prediction cheaper.
            target: Use only the variants for this target, which the engine must be able to read, to verify
                variants for other machines (an NPU's with ``openvino:CPU``, TensorRT's with
                ``onnxruntime:CPU``). None: those that the engine prefers.
            options: Threads, cache.
            allow_untrained: Accept random weights, for tests.

        Raises:
            BundleError: The bundle is invalid, untrained, or has no variant for this engine and precision.
            BackendError: The engine or device does not exist, cannot run the graphs, or the cache folder is
                in the bundle.
            JepaRuntimeError: ``num_samples`` is out of range, or OpenCV cannot be imported.
        """
        load_opencv()
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if not opened.manifest.trained and not allow_untrained:
            raise BundleError(
                f"{opened.path}: has random weights (trained: false), its predictions are meaningless: for "
                "tests, set allow_untrained=True (--allow-untrained)",
                code="bundle.untrained",
            )
        if options is not None and options.cache_dir is not None:
            cache = Path(os.path.realpath(options.cache_dir))
            if opened.path.resolve() in (cache, *cache.parents):
                raise BackendError(
                    f"{options.cache_dir}: is in the bundle {opened.path}, which must not contain other "
                    "files: give another folder",
                    code="backend.cache_invalid",
                )
        count = opened.manifest.num_samples if num_samples is None else num_samples
        first, *others = split_alternatives(engine)
        try:
            return cls._open_on(first, opened, precision, count, target, options)
        except (BackendError, BundleError) as error:
            if not others:
                raise
            reason = f"{first}: {error}"
        try:
            model = cls.open(
                opened,
                engine=",".join(others),
                precision=precision,
                num_samples=count,
                target=target,
                options=options,
                allow_untrained=True,
            )
        except JepaRuntimeError as error:
            raise BackendError(
                f"none of {engine} can be used: {reason}; {error}", code="backend.no_alternative"
            ) from error
        model.skipped_engines = reason, *model.skipped_engines
        _LOG.warning("using %s:%s instead of the preferred engine: %s", model.engine, model.device, reason)
        return model

    @classmethod
    def _open_on(
        cls,
        engine: str,
        bundle: Bundle,
        precision: str | None,
        count: int,
        target: Target | None,
        options: BackendOptions | None,
    ) -> WorldModel:
        backend = create_backend(engine, options)
        try:
            return cls(bundle, backend, open_sessions(bundle, backend, precision, count, target), count)
        except BaseException as error:
            # The frames of the error refer to created sessions, which must be released before their device.
            clear_frames(error.__traceback__)
            backend.close()
            raise

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    @property
    def reads_poses(self) -> bool:
        """Whether the bundle has a relative pose graph: :meth:`goal_pose` returns where the goal is."""
        return "relative_pose" in self.variants

    def __repr__(self) -> str:
        manifest, closed = self.manifest, ", closed" if self._sessions is None else ""
        return (
            f"WorldModel({manifest.model_id} {manifest.version}, {self.engine}:{self.device}, "
            f"{self.precision}, K={self.num_samples}{closed})"
        )

    def _repr_html_(self) -> str:
        manifest = self.manifest
        tokens, dimensions = self._latent_shape
        rows = {
            "engine": f"{self.engine}:{self.device} ({self.engine_version})",
            "precision": self.precision,
            "latent": f"{tokens} x {dimensions}",
            "history size": manifest.history_size,
            "actions": ", ".join(manifest.io.action.names),
            "futures": f"up to {self.num_samples} of up to {manifest.horizon} steps",
            "bundle": self.bundle.path,
            "state": "closed" if self._sessions is None else "open",
        }
        return table(f"WorldModel {manifest.model_id} {manifest.version}", rows)

    def __enter__(self) -> WorldModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release all resources. Repeated calls have no effect."""
        if self._sessions is None:
            return
        sessions = self._open_here()
        self._sessions = self._scaler = self._last = None
        self._loaded = (None, 0)
        sessions.close()
        self._backend.close()

    def encode(self, frame: ImageLike) -> Floats:
        """Encode a frame to its latent state, or a batch of independent frames.

        A model that reads clips (``manifest.io.clip``) encodes a clip [F, h, w, 3], oldest image first, or a
        batch of them [B, F, h, w, 3]. A single image is encoded as a clip that repeats it, which has no
        motion; see :meth:`encode_clip` for images of different sizes. A causal encoder starts from an empty
        cache and encodes all steps of the clip.

        The frames of a batch are encoded one after the other: engines compile the encoder for one frame.
        :meth:`predict` continues from a single frame; after a batch, give it ``latents``.

        Args:
            frame: uint8 [h, w, 3] RGB of any size, or a batch [B, h, w, 3]: an array, or an object that NumPy
                can convert (a torch tensor on the CPU, a PIL image). It is resized to the input of the model,
                see :func:`jepa_runtime.imaging.conversion.resize_into`.

        Returns:
            float32 [T, D], or [B, T, D] of a batch; a copy.

        Raises:
            FrameError: It is neither such an image nor such a batch, or has no pixels; or a clip has another
                number of images.
        """
        self._open_here()
        began = time.perf_counter()
        image = as_array(frame)
        dimensions = image.ndim if isinstance(image, np.ndarray) else 0
        reads_clips = self.manifest.io.clip is not None
        if dimensions == 4 and reads_clips:
            return self._encode_images(image, began)
        if dimensions != (5 if reads_clips else 4):
            return self._encode_images([image], began)
        if image.dtype != np.uint8 or image.shape[-1] != 3 or image.size == 0:
            clip = ", frames" if reads_clips else ""
            raise FrameError(
                f"frames must be uint8 [batch{clip}, height, width, 3] RGB, got {image.dtype} "
                f"{list(image.shape)}",
                code="frame.not_rgb",
            )
        latents: Floats = np.empty((len(image), *self._latent_shape), np.float32)
        preprocess = encode = on_device = 0.0
        try:
            for index, each in enumerate(image):
                latents[index] = self._encode_images(each if reads_clips else [each], began)
                preprocess += self.timings["preprocess"]
                encode += self.timings["encode"]
                on_device += self.device_timings.get("encode", 0.0)
                began = time.perf_counter()
        finally:
            self._last = None
        self.timings |= {"preprocess": preprocess, "encode": encode}
        if self._has_clock:
            self.device_timings["encode"] = on_device
        return latents

    def create_cache(self) -> EncoderCache | None:
        """Return an empty cache for one stream; None: the encoder is not causal, and needs none."""
        clip = self.manifest.io.clip
        return None if clip is None or clip.cache_shape is None else EncoderCache(clip)

    def encode_clip(
        self, images: Sequence[NDArray[np.uint8]], cache: EncoderCache | None = None, step: int = 0
    ) -> Floats:
        """Encode a clip to the latent state at its end.

        With a ``cache``, only the last step of the clip is encoded: the cache has what was computed of the
        steps before it, each of which costs as much. The result differs slightly from that of the clip alone,
        because the cached steps depend on those before them, also on steps before the clip.

        Args:
            images: uint8 [h, w, 3] RGB each, of any size, oldest first: ``manifest.io.clip.frames`` images,
                or a single one that is repeated; a model that reads no clips takes one. With a cache, at
                least the images of one step.
            cache: The cache of the stream (:meth:`create_cache`); None: the clip has no previous steps.
            step: The number of the step in the stream. A step that was not encoded is absent from the cache.

        Returns:
            float32 [T, D]; a copy.

        Raises:
            FrameError: They are not RGB images, or another number.
        """
        self._open_here()
        began = time.perf_counter()
        if cache is None:
            return self._encode_images(images, began)
        return self._encode_step(images, cache, step, began)

    def _encode_images(self, images: Sequence[NDArray[np.uint8]], began: float) -> Floats:
        """Encode a frame or a clip, of which a single image is repeated."""
        cache, clip = self.create_cache(), self.manifest.io.clip
        if cache is None or clip is None:
            return self._encode_input(images, began)
        self._check_count(images, clip.frames)
        preprocess = encode = on_device = 0.0
        for step in range(clip.steps):
            first = 0 if len(images) == 1 else step * clip.frames_per_step
            latent = self._encode_step(images[first : first + clip.frames_per_step], cache, step, began)
            preprocess += self.timings["preprocess"]
            encode += self.timings["encode"]
            on_device += self.device_timings.get("encode", 0.0)
            began = time.perf_counter()
        self.timings |= {"preprocess": preprocess, "encode": encode}
        if self._has_clock:
            self.device_timings["encode"] = on_device
        return latent

    def _encode_step(
        self, images: Sequence[NDArray[np.uint8]], cache: EncoderCache, step: int, began: float
    ) -> Floats:
        """Encode the last step of ``images`` after the steps in the cache, and store its entry there."""
        session, clip = self._open_here().encoder, self.manifest.io.clip
        if clip is None or cache.entries.shape != session.inputs["cache"].shape:
            raise ValueError("the cache is that of another model: create one with create_cache()")
        if self._loaded[0] is not cache or self._loaded[1] != cache.revision:
            session.inputs["cache"][:] = cache.entries
        session.inputs["positions"][:] = cache.positions(step)
        latent = self._encode_input(images[-clip.frames_per_step :], began)
        stored = time.perf_counter()
        entry = session.outputs["entry"][0]
        index = cache.store(step, entry)
        if index is not None:
            session.inputs["cache"][index] = entry
        self._loaded = (cache, cache.revision)
        self.timings["encode"] += (time.perf_counter() - stored) * 1e3
        return latent

    def _check_count(self, images: Sequence[NDArray[np.uint8]], count: int) -> None:
        if len(images) not in (1, count):
            raise FrameError(
                f"a clip of this model has {count} images, got {len(images)}: give the last {count}, "
                f"{self.manifest.io.frame_interval_s:g} s apart",
                code="frame.wrong_clip",
            )

    def _encode_input(self, images: Sequence[NDArray[np.uint8]], began: float) -> Floats:
        """Encode one input of the encoder: a frame or a clip, of which a single image is repeated."""
        session = self._open_here().encoder
        buffer = session.inputs["frame"]
        self._check_count(images, len(buffer))
        if len(buffer) > 1 or not self._is_scaled(images[0]):
            for image, out in zip(images, buffer, strict=False):
                resize_into(image, out)
            buffer[len(images) :] = buffer[0]
        fitted = time.perf_counter()
        self._last = None
        self._last = session.run()["latent"][0]
        latent: Floats = self._last.copy()
        self.timings["preprocess"] = (fitted - began) * 1e3
        self.timings["encode"] = (time.perf_counter() - fitted) * 1e3
        self._note_device_time("encode", session)
        return latent

    def predict(
        self,
        actions: NDArray[np.floating],
        *,
        latents: Floats | None = None,
        history_actions: NDArray[np.floating] | None = None,
        history_states: NDArray[np.floating] | None = None,
        goal: Floats | None = None,
    ) -> Futures:
        """Predict the futures of up to K action sequences of up to H steps.

        Args:
            actions: [K', H', A], each in force for the manifest's ``step_s`` (SI units). The model was
                trained within the limits of the manifest; predictions beyond them are unreliable.
            latents: [W, T, D] one step apart, oldest first, or one [T, D] that is repeated; None: the frame
                encoded last.
            history_actions: [W-1, A] between the latents; None: zero.
            history_states: [W, S], the states of the robot at the latents; required if the model reads them
                (``manifest.io.state``), otherwise None.
            goal: [T, D]; if given, the futures include their energies to it, see :meth:`energy`.

        Returns:
            The futures.

        Raises:
            ValueError: A shape is wrong, an action or a state is not finite, the states are missing, or no
                frame was encoded yet.
        """
        sessions = self._open_here()
        chosen = np.array(actions, np.float32)
        horizon, size = self.manifest.horizon, self.manifest.action_size
        if (
            chosen.ndim != 3
            or not 1 <= chosen.shape[0] <= self.num_samples
            or not 1 <= chosen.shape[1] <= horizon
            or chosen.shape[2] != size
        ):
            raise ValueError(
                f"actions must be [1..{self.num_samples}, 1..{horizon}, {size}], got {list(chosen.shape)}"
            )
        one = len(chosen) == 1 and chosen.shape[1] <= sessions.predict_one.inputs["actions"].shape[1]
        session = sessions.predict_one if one else sessions.predictor
        latents = self._last if latents is None else latents
        if latents is None:
            raise ValueError("no latents to predict from: encode a frame first, or give latents")
        began = time.perf_counter()
        futures = self._rollouts.run(session, chosen, latents, history_actions, history_states).copy()
        self.timings["predict"] = (time.perf_counter() - began) * 1e3
        self._note_device_time("predict", session)
        energies = None if goal is None else self._energies(session, futures, goal)
        return Futures(futures, chosen, energies, self._error_bounds[: chosen.shape[1]].copy())

    def advance(
        self, latents: Floats, history_actions: NDArray[np.floating], actions: NDArray[np.floating]
    ) -> tuple[Floats, Floats]:
        """Return the history after further actions, with predicted latents in place of observed ones.

        Not for models that read the state of the robot, whose later states are unknown.

        Args:
            latents: [W, T, D], one step apart, oldest first.
            history_actions: [W-1, A] between them.
            actions: [n, A], each in force for a step.

        Returns:
            The latents [W, T, D] and the actions [W-1, A] between them, n steps later.

        Raises:
            ValueError: A shape is wrong, an action is not finite, or the model reads the state of the robot.
        """
        session = self._open_here().predict_one
        steps, width = session.inputs["actions"].shape[1], self.manifest.history_size
        chosen = np.asarray(actions, np.float32)
        between = np.asarray(history_actions, np.float32)
        for start in range(0, len(chosen), steps):
            part = chosen[start : start + steps]
            predicted = self._rollouts.run(session, part[None], latents, between)[0]
            latents = np.concatenate([latents, predicted])[-width:]
            between = np.concatenate([between, part])[len(part) :]
        return latents, between

    def predict_each(self, requests: Sequence[RolloutRequest]) -> list[Floats]:
        """Predict the future of each history under its own actions, of up to H steps.

        Args:
            requests: See :class:`~jepa_runtime.model.rollouts.RolloutRequest`.

        Returns:
            The latents [h, T, D] of each.

        Raises:
            ValueError: A shape is wrong, or an action or a state is not finite.
        """
        sessions = self._open_here()
        of_one = sessions.predict_one.inputs["actions"].shape[1] == self.manifest.horizon
        return self._rollouts.each(sessions.predict_one if of_one else sessions.predictor, requests)

    def energy(self, latents: Floats, goal: Floats) -> Floats:
        """Compute the energies of states to a goal.

        The energy is that of the bundle's energy graph or, without one, the mean squared difference.

        Args:
            latents: [..., T, D].
            goal: [T, D].

        Returns:
            float32 [...].

        Raises:
            ValueError: A shape is wrong.
        """
        sessions = self._open_here()
        flat = self._states(latents, goal)
        began = time.perf_counter()
        energies: Floats = np.empty(len(flat), np.float32)
        session = sessions.energy_one if len(flat) == 1 else sessions.energy
        if session is None:
            _mean_squared(flat, goal, energies)
        else:
            _in_blocks(session, flat, goal, "energy", energies)
        self.timings["energy"] = (time.perf_counter() - began) * 1e3
        return energies.reshape(latents.shape[:-2])

    def relative_poses(self, latents: Floats, goal: Floats) -> Floats:
        """Read the pose of a goal in the frame of each state.

        Args:
            latents: [..., T, D].
            goal: [T, D].

        Returns:
            float32 [..., 5]: the values of a :class:`RelativePose` in the order of its fields.

        Raises:
            BundleError: The bundle has no relative pose graph (:attr:`reads_poses`).
            BackendError: A pose is not finite, or has a standard deviation that is not positive.
            ValueError: A shape is wrong.
        """
        sessions = self._open_here()
        flat = self._states(latents, goal)
        session = sessions.relative_pose_one if len(flat) == 1 else sessions.relative_pose
        if session is None:
            raise BundleError(
                f"{self.bundle.path}: has no relative pose graph, so this model reads no poses: use a bundle "
                "that has one (jepa-runtime info)",
                code="bundle.graph_missing",
            )
        began = time.perf_counter()
        poses: Floats = np.empty((len(flat), POSE_SIZE), np.float32)
        _in_blocks(session, flat, goal, "relative_pose", poses)
        self.timings["relative_pose"] = (time.perf_counter() - began) * 1e3
        if not are_valid(poses):
            raise BackendError(
                f"{self.engine}:{self.device} ({self.precision}): a relative pose is not finite, or has a "
                "standard deviation that is not positive: use another precision or engine (jepa-runtime "
                "verify)",
                code="backend.output_not_finite",
            )
        return poses.reshape(*latents.shape[:-2], POSE_SIZE)

    def goal_pose(self, goal: Floats, *, latent: Floats | None = None) -> RelativePose | None:
        """Read the pose of a goal in the frame of an image.

        Args:
            goal: [T, D].
            latent: [T, D] of the image; None: the frame encoded last.

        Returns:
            The pose; None if the bundle has no relative pose graph.

        Raises:
            BackendError: The pose is not finite, or has a standard deviation that is not positive.
            ValueError: A shape is wrong, or no frame was encoded yet.
        """
        if not self.reads_poses:
            return None
        latent = self._last if latent is None else latent
        if latent is None:
            raise ValueError("no latent to read the pose from: encode a frame first, or give latent")
        return RelativePose(*self.relative_poses(latent, goal).tolist())

    def _energies(self, predicted_by: Session, futures: Floats, goal: Floats) -> Floats:
        """Compute the energies of futures [K', H', T, D] that a session has just predicted."""
        sessions = self._open_here()
        session = sessions.energy_of_futures
        if session is None or predicted_by is not sessions.predictor:
            return self.energy(futures, goal)
        self._check_goal(goal)
        began = time.perf_counter()
        session.inputs["goal"][0] = goal
        every = session.run()["energy"].reshape(-1, self.manifest.horizon)
        energies: Floats = every[: futures.shape[0], : futures.shape[1]].copy()
        self.timings["energy"] = (time.perf_counter() - began) * 1e3
        return energies

    def _states(self, latents: Floats, goal: Floats) -> Floats:
        """Return latents [..., T, D] as [n, T, D]; check them and the goal."""
        self._check_goal(goal)
        latent = self._latent_shape
        if latents.shape[-2:] != latent:
            raise ValueError(f"latents must be [..., {latent[0]}, {latent[1]}], got {list(latents.shape)}")
        return latents.reshape(-1, *latent)

    def _check_goal(self, goal: Floats) -> None:
        if goal.shape != self._latent_shape:
            raise ValueError(f"goal must be {list(self._latent_shape)}, got {list(goal.shape)}")

    def surprise(
        self,
        previous: Floats,
        history_actions: NDArray[np.floating],
        action: NDArray[np.floating],
        observed: Floats,
        history_states: NDArray[np.floating] | None = None,
    ) -> float:
        """Return the surprise of one step, see :meth:`outcome`."""
        return self.outcome(previous, history_actions, action, observed, history_states).surprise

    def outcome(
        self,
        previous: Floats,
        history_actions: NDArray[np.floating],
        action: NDArray[np.floating],
        observed: Floats,
        history_states: NDArray[np.floating] | None = None,
    ) -> StepOutcome:
        """Compare the outcome of one step with its prediction.

        Args:
            previous: [W, T, D], the latents before the step, oldest first (or one [T, D] that is repeated).
            history_actions: [W-1, A] between them.
            action: [A], the executed action.
            observed: [T, D], the latent after the step.
            history_states: [W, S], the states of the robot at ``previous``; None if the model reads none.

        Raises:
            ValueError: A shape is wrong, an action or a state is not finite, or the states are missing.
        """
        session = self._open_here().predict_one
        size = self.manifest.action_size
        if np.shape(action) != (size,) or observed.shape != self._latent_shape:
            raise ValueError(
                f"action must be [{size}] and observed {list(self._latent_shape)}, got "
                f"{list(np.shape(action))} and {list(observed.shape)}"
            )
        chosen = np.asarray(action, np.float32)[None, None]
        rollout = self._rollouts.run(session, chosen, previous, history_actions, history_states)
        predicted = rollout[0, 0].ravel()
        before = (previous if previous.shape == self._latent_shape else previous[-1]).ravel()
        return step_outcome(before, predicted, observed.ravel())

    def _is_scaled(self, frame: NDArray[np.uint8]) -> bool:
        """Resize a frame on the device, and return whether the encoder supports it."""
        if self._scaler is None:
            return False
        check_rgb(frame)
        return self._scaler.scale(frame)

    def _note_device_time(self, stage: str, session: Session) -> None:
        if self._has_clock:
            self.device_timings[stage] = cast(TimedSession, session).device_ms

    def _open_here(self) -> CompiledGraphs:
        if self._sessions is None:
            raise BackendError(f"{self.bundle.path}: the model is closed: open it again", code="model.closed")
        if threading.get_ident() != self._thread:
            raise BackendError(
                f"{self.bundle.path}: the model was opened on another thread: open, use and close it on one",
                code="model.wrong_thread",
            )
        return self._sessions


def step_outcome(before: Floats, predicted: Floats, observed: Floats) -> StepOutcome:
    """Return the outcome of a step from the latent ``before``; all are float32 [n]."""
    error, change = predicted - observed, predicted - before
    scale, length = math.sqrt(before.size), float(np.linalg.norm(change))
    moved = float((observed - before) @ change) / length if length else 0.0
    return StepOutcome(float(np.linalg.norm(error)) / scale, length / scale, moved / scale)


def _mean_squared(latents: Floats, goal: Floats, energies: Floats) -> None:
    """Write mean squared differences to ``energies`` [n]; NaN if latents [n, T, D] or goal are not finite."""
    if not len(energies):
        return
    states, ends = (np.asarray(each, np.float32).reshape(-1, goal.size) for each in (latents, goal))
    # One pass: subtraction followed by squaring takes two to four times as long.
    distances, _ = cv2.batchDistance(states, ends, cv2.CV_32F, normType=cv2.NORM_L2SQR, K=1)
    np.divide(distances[:, 0], goal.size, out=energies)
    energies[distances[:, 0] == _NO_DISTANCE] = np.nan


def _in_blocks(session: Session, latents: Floats, goal: Floats, output: str, values: Floats) -> None:
    """Write the values [n, ...] of an output in blocks of the size of the session."""
    buffer = session.inputs["latents"]
    session.inputs["goal"][0] = goal
    for start in range(0, len(latents), len(buffer)):
        block = latents[start : start + len(buffer)]
        buffer[: len(block)] = block
        buffer[len(block) :] = 0
        values[start : start + len(block)] = session.run()[output][: len(block)]
