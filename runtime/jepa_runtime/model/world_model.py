"""A model of the world: what is seen becomes a latent state, and actions become futures of it."""

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

from jepa_runtime.backends.base import Backend, BackendOptions, ScalesImages, Session, TimesItself
from jepa_runtime.backends.registry import alternatives, create_backend
from jepa_runtime.bundle import Bundle, Manifest, Target
from jepa_runtime.errors import BackendError, BundleError, JepaRuntimeError
from jepa_runtime.imaging.conversion import check_rgb, resize_into
from jepa_runtime.model.compiled_graphs import CompiledGraphs, open_sessions
from jepa_runtime.model.rollouts import Asked, Rollouts
from jepa_runtime.util.opencv import cv2, load_opencv

Floats = NDArray[np.float32]
# What OpenCV says of the distance between what is not finite.
_NO_DISTANCE = np.finfo(np.float32).max
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Futures:
    """What would follow from K action sequences.

    Attributes:
        latents: float32 [K, H, T, D]; ``latents[k, h]`` is the state after h + 1 steps.
        actions: float32 [K, H, A] that lead there (SI units).
        energies: float32 [K, H] to the goal, or None where there is none.
        error_bounds: float32 [H]: norms within which latents lie of what then happens. Those of the bundle:
            in 90 % of predictions; in results of the pipeline those learnt since, see
            :class:`jepa_runtime.calibration.Calibration`.
    """

    latents: Floats
    actions: Floats
    energies: Floats | None
    error_bounds: Floats


@dataclass(frozen=True)
class StepOutcome:
    """How one step came out, compared with its prediction; all in the unit of the surprise (root mean square
    over tokens and dimensions).

    Attributes:
        surprise: difference between the predicted and the observed latent.
        predicted_change: difference between the predicted latent and the one before the step.
        observed_change: how far the latent moved in the direction of the predicted change. As predicted: the
            same; a picture that does not change: 0.
    """

    surprise: float
    predicted_change: float
    observed_change: float


class WorldModel:
    """An open model. Created, used and closed on one thread; from any other, calls raise BackendError.

    W is the manifest's ``history_size``, H its ``horizon``, K ``num_samples``, T and D the tokens and
    dimensions of a latent, A the components of an action.

    Attributes:
        bundle: where it comes from.
        engine, device, precision: what computes it.
        variants: which one of each graph is computed.
        passed_over: engines that were preferred, each with why it does not serve.
        num_samples: K, the most futures that one call can predict.
        latent_space: names what latents mean: two models with the same name can read each other's.
        timings: milliseconds that the last call of each kind took: preprocess, encode, predict, energy.
        device_timings: of encode and predict, by the device's own clock, where it has one.
    """

    def __init__(self, bundle: Bundle, backend: Backend, sessions: CompiledGraphs, num_samples: int) -> None:
        self.bundle = bundle
        self.engine = backend.engine
        self.device = backend.device
        self.engine_version = backend.version
        self.precision = sessions.precision
        self.variants = sessions.variants
        self.passed_over: tuple[str, ...] = ()
        self.num_samples = num_samples
        self.latent_space = sessions.encoder_sha256
        self.timings: dict[str, float] = dict.fromkeys(("preprocess", "encode", "predict", "energy"), 0.0)
        self.device_timings: dict[str, float] = {}
        self._backend = backend
        self._sessions: CompiledGraphs | None = sessions
        # Asked once: of a protocol it takes several microseconds. One engine's sessions are of one kind.
        self._scaler = sessions.encoder if isinstance(sessions.encoder, ScalesImages) else None
        self._has_clock = isinstance(sessions.encoder, TimesItself)
        self._thread = threading.get_ident()
        manifest = bundle.manifest
        self._latent_shape = manifest.io.latent.tokens, manifest.io.latent.dim
        self._rollouts = Rollouts(manifest)
        self._error_bounds = np.asarray(manifest.error_bounds, np.float32)
        # A view on what the encoder left: callers may change what they were given.
        self._last: Floats | None = None

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        *,
        engine: str = "openvino:CPU",
        precision: str | None = None,
        num_samples: int | None = None,
        target: Target | None = None,
        options: BackendOptions | None = None,
        allow_untrained: bool = False,
    ) -> WorldModel:
        """Verify a bundle and load it.

        Args:
            bundle: its folder, or the bundle already opened.
            engine: ``engine:DEVICE``; no other one takes its place, unless several are listed, the preferred
                first: ``openvino:NPU,openvino:CPU``.
            precision: int8, fp16, bf16 or fp32; None: the first of the bundle that the engine can run.
            num_samples: K; None: the bundle's. A smaller K makes each prediction cheaper.
            target: use the variants for this target only, which the engine must be able to read; to check on
                this machine what another will run (an NPU's graphs with ``openvino:CPU``, TensorRT's with
                ``onnxruntime:CPU``). None: those that the engine prefers.
            options: threads, cache.
            allow_untrained: accept random weights, for tests.

        Raises:
            BundleError: the bundle is not valid, untrained, or has nothing for this engine and precision.
            BackendError: no such engine or device, it cannot run the graphs, or the cache lies in the bundle.
            JepaRuntimeError: ``num_samples`` is out of range, or OpenCV cannot be imported.
        """
        load_opencv()
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if not opened.manifest.trained and not allow_untrained:
            raise BundleError(
                f"{opened.path}: holds random weights (trained: false), its predictions mean nothing; to "
                "test with it all the same, say allow_untrained=True (--allow-untrained)"
            )
        if options is not None and options.cache_dir is not None:
            cache = Path(os.path.realpath(options.cache_dir))
            if opened.path.resolve() in (cache, *cache.parents):
                raise BackendError(
                    f"{options.cache_dir}: lies in {opened.path}, which may hold nothing else: keep compiled "
                    "models elsewhere"
                )
        count = opened.manifest.num_samples if num_samples is None else num_samples
        first, *others = alternatives(engine)
        try:
            return cls._open_on(first, opened, precision, count, target, options)
        except (BackendError, BundleError) as error:
            if not others:
                raise
            refused = f"{first}: {error}"
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
            raise BackendError(f"none of {engine} can serve: {refused}; {error}") from error
        model.passed_over = refused, *model.passed_over
        _LOG.warning("%s:%s serves, not what was preferred: %s", model.engine, model.device, refused)
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
            # What was half made lives on in the frames of the error; it must go before its device does.
            clear_frames(error.__traceback__)
            backend.close()
            raise

    @property
    def manifest(self) -> Manifest:
        """What the model says about itself."""
        return self.bundle.manifest

    def __enter__(self) -> WorldModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back. May be called again."""
        if self._sessions is None:
            return
        sessions = self._open_here()
        self._sessions = self._scaler = self._last = None
        sessions.close()
        self._backend.close()

    def encode(self, frame: NDArray[np.uint8]) -> Floats:
        """The state that a frame shows.

        Args:
            frame: uint8 [h, w, 3] RGB of any size; scaled to the model's (see
            :func:`jepa_runtime.imaging.conversion.resize_into`).

        Returns:
            float32 [T, D], the caller's own.

        Raises:
            FrameError: not such an image.
        """
        session = self._open_here().encoder
        began = time.perf_counter()
        if not self._is_scaled(frame):
            resize_into(frame, session.inputs["frame"][0])
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
        goal: Floats | None = None,
    ) -> Futures:
        """The futures of up to K action sequences of up to H steps.

        Args:
            actions: [K', H', A], each held for the manifest's ``step_s`` (SI units). The model was trained
                within the manifest's limits; beyond them its predictions mean little.
            latents: [W, T, D] one step apart, oldest first, or one [T, D] that stands for all; None: the
                frame encoded last.
            history_actions: [W-1, A] between those; None: zero.
            goal: [T, D]; the futures come with their energies to it, see :meth:`energy`.

        Returns:
            Futures of those actions.

        Raises:
            ValueError: a shape is another, an action is not finite, or nothing was encoded yet.
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
        futures = self._rollouts.run(session, chosen, latents, history_actions).copy()
        self.timings["predict"] = (time.perf_counter() - began) * 1e3
        self._note_device_time("predict", session)
        energies = None if goal is None else self._energies(session, futures, goal)
        return Futures(futures, chosen, energies, self._error_bounds[: chosen.shape[1]].copy())

    def follow(self, asked: Sequence[Asked]) -> list[Floats]:
        """What each history leads to under actions of its own, of up to H steps; see
        :data:`~jepa_runtime.model.rollouts.Asked`.

        Returns:
            Of each the latents [h, T, D].

        Raises:
            ValueError: a shape is another, or an action is not finite.
        """
        sessions = self._open_here()
        of_one = sessions.predict_one.inputs["actions"].shape[1] == self.manifest.horizon
        return self._rollouts.each(sessions.predict_one if of_one else sessions.predictor, asked)

    def energy(self, latents: Floats, goal: Floats) -> Floats:
        """How far states are from a goal: the bundle's energy graph or, without one, the mean squared
        difference.

        Args:
            latents: [..., T, D].
            goal: [T, D].

        Returns:
            float32 [...].

        Raises:
            ValueError: a shape is another.
        """
        sessions = self._open_here()
        self._check_goal(goal)
        latent = self._latent_shape
        if latents.shape[-2:] != latent:
            raise ValueError(f"latents must be [..., {latent[0]}, {latent[1]}], got {list(latents.shape)}")
        began = time.perf_counter()
        flat = latents.reshape(-1, *latent)
        energies: Floats = np.empty(len(flat), np.float32)
        session = sessions.energy_one if len(flat) == 1 else sessions.energy
        if session is None:
            _mean_squared(flat, goal, energies)
        else:
            _in_blocks(session, flat, goal, energies)
        self.timings["energy"] = (time.perf_counter() - began) * 1e3
        return energies.reshape(latents.shape[:-2])

    def _energies(self, predicted_by: Session, futures: Floats, goal: Floats) -> Floats:
        """Of futures [K', H', T, D] that a session has just predicted."""
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

    def _check_goal(self, goal: Floats) -> None:
        if goal.shape != self._latent_shape:
            raise ValueError(f"goal must be {list(self._latent_shape)}, got {list(goal.shape)}")

    def surprise(
        self,
        previous: Floats,
        history_actions: NDArray[np.floating],
        action: NDArray[np.floating],
        arrived: Floats,
    ) -> float:
        """How wrong the prediction of one step was; see :meth:`outcome`."""
        return self.outcome(previous, history_actions, action, arrived).surprise

    def outcome(
        self,
        previous: Floats,
        history_actions: NDArray[np.floating],
        action: NDArray[np.floating],
        arrived: Floats,
    ) -> StepOutcome:
        """Compare what one step led to with its prediction.

        Args:
            previous: [W, T, D] known one step ago, oldest first (or one [T, D] that stands for all).
            history_actions: [W-1, A] between those.
            action: [A] that was executed since.
            arrived: [T, D] that came.

        Raises:
            ValueError: a shape is another, or an action is not finite.
        """
        session = self._open_here().predict_one
        size = self.manifest.action_size
        if np.shape(action) != (size,) or arrived.shape != self._latent_shape:
            raise ValueError(
                f"action must be [{size}] and arrived {list(self._latent_shape)}, got "
                f"{list(np.shape(action))} and {list(arrived.shape)}"
            )
        chosen = np.asarray(action, np.float32)[None, None]
        predicted = self._rollouts.run(session, chosen, previous, history_actions)[0, 0].ravel()
        before = (previous if previous.shape == self._latent_shape else previous[-1]).ravel()
        return step_outcome(before, predicted, arrived.ravel())

    def _is_scaled(self, frame: NDArray[np.uint8]) -> bool:
        """Whether the encoder takes its next input from a frame itself."""
        if self._scaler is None:
            return False
        check_rgb(frame)
        return self._scaler.scale(frame)

    def _note_device_time(self, stage: str, session: Session) -> None:
        if self._has_clock:
            self.device_timings[stage] = cast(TimesItself, session).device_ms

    def _open_here(self) -> CompiledGraphs:
        if self._sessions is None:
            raise BackendError(f"{self.bundle.path}: the model is closed: open it again")
        if threading.get_ident() != self._thread:
            raise BackendError(
                f"{self.bundle.path}: the model was opened on another thread; open, use and close it on one"
            )
        return self._sessions


def step_outcome(before: Floats, predicted: Floats, arrived: Floats) -> StepOutcome:
    """The outcome of a step from the latent ``before``; each float32 [n]."""
    error, change = predicted - arrived, predicted - before
    scale, length = math.sqrt(before.size), float(np.linalg.norm(change))
    moved = float((arrived - before) @ change) / length if length else 0.0
    return StepOutcome(float(np.linalg.norm(error)) / scale, length / scale, moved / scale)


def _mean_squared(latents: Floats, goal: Floats, energies: Floats) -> None:
    """Fill ``energies`` [n]; NaN where latents [n, T, D] or the goal are not finite."""
    if not len(energies):
        return
    states, ends = (np.asarray(each, np.float32).reshape(-1, goal.size) for each in (latents, goal))
    # In one pass: to subtract and then to square takes two to four times as long.
    distances, _ = cv2.batchDistance(states, ends, cv2.CV_32F, normType=cv2.NORM_L2SQR, K=1)
    np.divide(distances[:, 0], goal.size, out=energies)
    energies[distances[:, 0] == _NO_DISTANCE] = np.nan


def _in_blocks(session: Session, latents: Floats, goal: Floats, energies: Floats) -> None:
    """Fill ``energies`` [n] block by block of the size that the session takes."""
    buffer = session.inputs["latents"]
    session.inputs["goal"][0] = goal
    for start in range(0, len(latents), len(buffer)):
        block = latents[start : start + len(buffer)]
        buffer[: len(block)] = block
        buffer[len(block) :] = 0
        energies[start : start + len(block)] = session.run()["energy"][: len(block)]
