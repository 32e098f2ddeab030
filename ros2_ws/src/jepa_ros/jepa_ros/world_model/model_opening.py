"""Real-time settings, model and pipeline of the world_model node, created from its parameters."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ros.common.action_commands import create_action_commands, validate_action_units
from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BundleError
from jepa_runtime.model import WorldModel
from jepa_runtime.ota.health import TrialCounter
from jepa_runtime.ota.storage import SlotStore, find_slot
from jepa_runtime.recording import BlackBox, Topics
from jepa_runtime.serving import Pipeline, RealtimeSettings, realtime
from jepa_runtime.sources import Frame

_LOG = logging.getLogger(__name__)


class ServingSession:
    """Own the pipeline of a configured node and the real-time settings under which it runs.

    Args:
        parameters: Parameters of the node.
        on_model: Called when a model becomes active; see :class:`~jepa_runtime.serving.pipeline.Pipeline`.
        topics: Topics of each stream, for the black box; see
            :class:`~jepa_runtime.recording.black_box.BlackBox`.
        callbacks: Further arguments of the pipeline.

    Attributes:
        box: Black box, or None if it is disabled.
        applied: Real-time settings with their outcome.

    Raises:
        BundleError: The bundle cannot be opened.
        BackendError: The engine cannot run the model.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        *,
        on_model: Callable[[WorldModel, bool], None],
        topics: Mapping[str, Topics],
        **callbacks: Any,
    ) -> None:
        self._parameters = dict(parameters)
        self._settings = realtime_settings(parameters)
        self._on_model = on_model
        self._threads_before_swap: set[int] | None = None
        self._opener = 0
        self._trials: TrialCounter | None = None
        self.applied: list[realtime.AppliedSetting] = []
        self.pipeline = Pipeline(
            self._open,
            on_model=self._activate_model,
            streams=tuple(topics),
            error_probability=parameters["error_probability"],
            false_alarm_every_s=parameters["false_alarm_every_s"],
            actuation_delay_s=parameters["actuation_delay_s"],
            **callbacks,
        )
        # Before the settings are applied: these keep all existing threads off the model's cores.
        self.box = create_black_box(parameters, topics)
        try:
            self.pipeline.start()
        except Exception:
            self._close_box()
            realtime.revert(self._settings)
            raise
        if self.box is not None:
            self.box.set_model(self.model)
        realtime.release_startup_memory()

    @property
    def model(self) -> WorldModel:
        """The active model."""
        return self.pipeline.model

    def swap(self, bundle: str, check_cancelled: Callable[[], None]) -> bool:
        """Swap the model; see :meth:`~jepa_runtime.serving.pipeline.Pipeline.swap`.

        Args:
            bundle: Folder of the bundle, or a slot of a robot's folder.
            check_cancelled: Called between the parts of the work. An exception cancels the swap.
        """

        def between() -> None:
            check_cancelled()
            self.pipeline.wait_gap()

        def opened() -> WorldModel:
            self._opener = threading.get_native_id()
            slot = find_slot(Path(bundle))
            if slot is None:
                return open_model(self._parameters | {"bundle": bundle}, between=between)
            return self._open_slot(*slot, between=between)

        self._threads_before_swap = realtime.threads()
        try:
            return self.pipeline.swap(opened)
        finally:
            self._threads_before_swap = None

    def submit(self, frame: Frame) -> None:
        """Submit a frame to the pipeline and to the black box."""
        if self.box is not None:
            self.box.add_frame(frame)
        self.pipeline.submit(frame)

    def add_action(self, stamp_ns: int, action: NDArray[np.float32]) -> None:
        """Report to the pipeline and the black box that ``action`` is in force from ``stamp_ns`` on."""
        if self.box is not None:
            self.box.add_command(stamp_ns, action)
        self.pipeline.add_action(stamp_ns, action)

    def add_state(self, stamp_ns: int, state: NDArray[np.float32]) -> None:
        """Pass the measured ``state`` [S] of the robot to the pipeline and the black box."""
        if self.box is not None:
            self.box.add_state(stamp_ns, state)
        self.pipeline.add_state(stamp_ns, state)

    def stop(self) -> None:
        """Close all models and undo the real-time settings."""
        try:
            self.pipeline.stop()
        finally:
            if self._trials is not None:
                self._trials.close()
            self._close_box()
        realtime.revert(self._settings)

    def _close_box(self) -> None:
        if self.box is not None:
            self.box.close()

    def _open(self) -> WorldModel:
        # All imports are done. How much of the libraries they leave resident depends on the page cache: on
        # Linux 6.18, imports took 57 MB more after pip had just written the files than after they were
        # copied.
        realtime.release_files()
        # Before the engine starts its threads, which inherit these settings.
        self.applied = realtime.apply(self._settings)
        bundle = Path(self._parameters["bundle"])
        slot = find_slot(bundle)
        parts = itertools.count(1)

        def between() -> None:
            # Reading the first graph loads the engine's frontend, and compiling it loads the plugin.
            if next(parts) in (2, 3):
                realtime.release_files()

        if slot is None:
            return open_model(self._parameters, between=between)
        store, sha256 = slot
        if bundle.name != "current":
            return self._open_slot(store, sha256, between=between)
        good = store.good()
        if good in (None, sha256):
            return self._open_or_fall_back(store, sha256, between=between)
        try:
            return self._open_slot(store, sha256, between=between)
        except Exception as error:
            _LOG.warning(
                "model %s failed to open, falling back to the last known good %s: %s",
                sha256[:12],
                good[:12],
                error,
            )
        return self._open_or_fall_back(store, good, between=between)

    def _open_or_fall_back(self, store: SlotStore, sha256: str, *, between: Callable[[], None]) -> WorldModel:
        """Open a model, or the previous good one if its attempts are exhausted."""
        trials = self._trials_in(store)
        chosen = trials.substitute_for(sha256)
        if chosen != sha256:
            _LOG.error("falling back to the previous model %s: %s", chosen[:12], trials.exhausted(sha256))
        return self._open_slot(store, chosen, between=between)

    def _trials_in(self, store: SlotStore) -> TrialCounter:
        """Return the counter of attempts to open models of a robot's folder, created on first use."""
        if self._trials is None:
            self._trials = TrialCounter(store)
        return self._trials

    def _open_slot(
        self, store: SlotStore, sha256: str, *, between: Callable[[], None] = lambda: None
    ) -> WorldModel:
        """Open the bundle in a slot of a robot's folder, unless it has crashed the device too often."""
        with self._trials_in(store).opening(sha256):
            return open_model(self._parameters | {"bundle": store.open(sha256)}, between=between)

    def _activate_model(self, model: WorldModel, history_kept: bool) -> None:
        if self._threads_before_swap is not None:
            # Not during loading, which would have taken cores from the active model. Python's other threads,
            # such as one that writes a recording, are not the engine's.
            others = {thread.native_id for thread in threading.enumerate()} - {self._opener}
            realtime.apply_to_threads(self._settings, realtime.threads() - self._threads_before_swap - others)
        if self.box is not None:
            self.box.set_model(model)
        self._on_model(model, history_kept)


def realtime_settings(parameters: Mapping[str, Any]) -> RealtimeSettings:
    """Return the real-time settings of the serving process."""
    return RealtimeSettings(
        cpu_affinity=tuple(core for core in parameters["cpu_affinity"] if core >= 0),
        fifo_priority=parameters["fifo_priority"],
        lock_memory=parameters["lock_memory"],
        keep_heap=True,
    )


def create_black_box(parameters: Mapping[str, Any], topics: Mapping[str, Topics]) -> BlackBox | None:
    """Return the black box, or None if it is disabled."""
    if not parameters["black_box_dir"]:
        return None
    return BlackBox(
        Path(parameters["black_box_dir"]),
        streams=topics,
        before_s=parameters["black_box_before_s"],
        after_s=parameters["black_box_after_s"],
        max_bytes=parameters["black_box_max_bytes"],
    )


def open_model(parameters: Mapping[str, Any], *, between: Callable[[], None] = lambda: None) -> WorldModel:
    """Open the model on this thread.

    Args:
        parameters: Parameters of the node; ``bundle`` may be an already verified bundle.
        between: See :class:`~jepa_runtime.backends.base.BackendOptions`.

    Raises:
        BundleError: No bundle is set, its actions have no ROS 2 messages, or see :meth:`WorldModel.open`.
        BackendError: See :meth:`WorldModel.open`.
    """
    if not parameters["bundle"]:
        raise BundleError(
            "parameter bundle is empty: set it to the folder of a model bundle", code="bundle.not_set"
        )
    bundle = parameters["bundle"]
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    if bundle.manifest.takes_actions:
        action = bundle.manifest.io.action
        try:
            create_action_commands(action.names)
            validate_action_units(action.names, action.units)
        except ValueError as error:
            raise BundleError(f"{bundle.path}: {error}", code="bundle.unsupported_actions") from error
    options = BackendOptions(
        threads=parameters["threads"],
        cache_dir=Path(parameters["cache_dir"]) if parameters["cache_dir"] else None,
        between=between,
    )
    return WorldModel.open(
        bundle,
        engine=parameters["engine"],
        precision=parameters["precision"] or None,
        num_samples=parameters["num_samples"] or None,
        options=options,
        allow_untrained=parameters["allow_untrained"],
    )
