"""From the parameters of the world_model node to its settings, its model and its pipeline."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ros.common.action_commands import actions_of, check_units
from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BundleError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota.health.trial_counter import TrialCounter
from jepa_runtime.ota.storage.slots import SlotStore, find_slot
from jepa_runtime.recording.black_box import BlackBox, Topics
from jepa_runtime.serving import realtime
from jepa_runtime.serving.pipeline import Pipeline
from jepa_runtime.serving.realtime import RealtimeSettings
from jepa_runtime.sources.base import Frame

_LOG = logging.getLogger(__name__)


class Served:
    """The pipeline of a configured node, and the real-time settings under which it runs.

    Args:
        chosen: the node's parameters.
        on_model: see :class:`~jepa_runtime.serving.pipeline.Pipeline`, as are ``callbacks``.
        topics: of each stream, for the black box; see :class:`~jepa_runtime.recording.black_box.BlackBox`.

    Attributes:
        box: the black box; None where none is asked for.

    Raises:
        BundleError, BackendError: the model cannot be opened.
    """

    def __init__(
        self,
        chosen: Mapping[str, Any],
        *,
        on_model: Callable[[WorldModel, bool], None],
        topics: Mapping[str, Topics],
        **callbacks: Any,
    ) -> None:
        self._chosen = dict(chosen)
        self._settings = realtime_settings(chosen)
        self._on_model = on_model
        self._before: set[int] | None = None
        self._opener = 0
        self._trials: TrialCounter | None = None
        self.applied: list[realtime.AppliedSetting] = []
        self.pipeline = Pipeline(
            self._open,
            on_model=self._take_in,
            streams=tuple(topics),
            error_probability=chosen["error_probability"],
            false_alarm_every_s=chosen["false_alarm_every_s"],
            **callbacks,
        )
        # Before the settings are applied: they keep the threads that there are from the model's cores.
        self.box = black_box(chosen, topics)
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
        """The model that serves."""
        return self.pipeline.model

    def swap(self, bundle: str, go_on: Callable[[], None]) -> bool:
        """See :meth:`~jepa_runtime.serving.pipeline.Pipeline.swap`. ``go_on`` is called between the parts of
        the work; what it raises ends that."""

        def between() -> None:
            go_on()
            self.pipeline.wait_gap()

        def opened() -> WorldModel:
            self._opener = threading.get_native_id()
            slot = find_slot(Path(bundle))
            if slot is None:
                return open_model(self._chosen | {"bundle": bundle}, between=between)
            return self._open_slot(*slot, between=between)

        self._before = realtime.threads()
        try:
            return self.pipeline.swap(opened)
        finally:
            self._before = None

    def submit(self, frame: Frame) -> None:
        """Offer a frame to the pipeline, and to the black box."""
        if self.box is not None:
            self.box.add_frame(frame)
        self.pipeline.submit(frame)

    def add_action(self, stamp_ns: int, action: NDArray[np.float32]) -> None:
        """Tell both that ``action`` is in force from ``stamp_ns`` on."""
        if self.box is not None:
            self.box.add_command(stamp_ns, action)
        self.pipeline.add_action(stamp_ns, action)

    def stop(self) -> None:
        """Close every model and give back what the settings took."""
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
        # Importing is done. How much of the libraries it leaves resident depends on the page cache: on Linux
        # 6.18 imports took 57 MB more where pip had just written them than where they were copied.
        realtime.release_files()
        # Before the engine starts threads of its own: they inherit what is applied.
        self.applied = realtime.apply(self._settings)
        bundle = Path(self._chosen["bundle"])
        slot = find_slot(bundle)
        parts = itertools.count(1)

        def between() -> None:
            # Reading the first graph has loaded the engine's frontend, compiling it the plugin.
            if next(parts) in (2, 3):
                realtime.release_files()

        if slot is None:
            return open_model(self._chosen, between=between)
        store, sha256 = slot
        if bundle.name != "current":
            return self._open_slot(store, sha256, between=between)
        good = store.good()
        if good in (None, sha256):
            return self._open_instead_of(store, sha256, between=between)
        try:
            return self._open_slot(store, sha256, between=between)
        except Exception as error:
            _LOG.warning("the last known good model %s is opened instead: %s", good[:12], error)
        return self._open_instead_of(store, good, between=between)

    def _open_instead_of(self, store: SlotStore, sha256: str, *, between: Callable[[], None]) -> WorldModel:
        """Open a model or, where it may not be opened any more, the one that was good before it."""
        trials = self._trials_in(store)
        instead = trials.instead_of(sha256)
        if instead != sha256:
            _LOG.error(
                "the model before it, %s, is opened instead: %s", instead[:12], trials.exhausted(sha256)
            )
        return self._open_slot(store, instead, between=between)

    def _trials_in(self, store: SlotStore) -> TrialCounter:
        """Return the attempts to open models of a robot's folder, which last as long as this object."""
        if self._trials is None:
            self._trials = TrialCounter(store)
        return self._trials

    def _open_slot(
        self, store: SlotStore, sha256: str, *, between: Callable[[], None] = lambda: None
    ) -> WorldModel:
        """Open what a slot of a robot's folder holds, unless it took the machine down too often."""
        with self._trials_in(store).opening(sha256):
            return open_model(self._chosen | {"bundle": store.open(sha256)}, between=between)

    def _take_in(self, model: WorldModel, kept: bool) -> None:
        if self._before is not None:
            # Not while it was loading: it would have kept the model that serves from its cores. Python's
            # other threads are not the engine's: a recording that an alarm began, for one.
            others = {thread.native_id for thread in threading.enumerate()} - {self._opener}
            realtime.apply_to_threads(self._settings, realtime.threads() - self._before - others)
        if self.box is not None:
            self.box.set_model(model)
        self._on_model(model, kept)


def realtime_settings(chosen: Mapping[str, Any]) -> RealtimeSettings:
    """What is wanted of the process that serves."""
    return RealtimeSettings(
        cpu_affinity=tuple(core for core in chosen["cpu_affinity"] if core >= 0),
        fifo_priority=chosen["fifo_priority"],
        lock_memory=chosen["lock_memory"],
        keep_heap=True,
    )


def black_box(chosen: Mapping[str, Any], topics: Mapping[str, Topics]) -> BlackBox | None:
    """The black box that the parameters ask for."""
    if not chosen["black_box_dir"]:
        return None
    return BlackBox(
        Path(chosen["black_box_dir"]),
        streams=topics,
        before_s=chosen["black_box_before_s"],
        after_s=chosen["black_box_after_s"],
        max_bytes=chosen["black_box_max_bytes"],
    )


def open_model(chosen: Mapping[str, Any], *, between: Callable[[], None] = lambda: None) -> WorldModel:
    """Open the model on this thread.

    Args:
        chosen: the node's parameters; ``bundle`` may be one that was verified already.
        between: see :class:`~jepa_runtime.backends.base.BackendOptions`.

    Raises:
        BundleError: no bundle is named, its actions cannot be told, or see :meth:`WorldModel.open`.
        BackendError: see :meth:`WorldModel.open`.
    """
    if not chosen["bundle"]:
        raise BundleError("parameter bundle is empty: set it to the folder of a model bundle")
    bundle = chosen["bundle"]
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    if bundle.manifest.takes_actions:
        action = bundle.manifest.io.action
        try:
            actions_of(action.names)
            check_units(action.names, action.units)
        except ValueError as error:
            raise BundleError(f"{bundle.path}: {error}") from error
    options = BackendOptions(
        threads=chosen["threads"],
        cache_dir=Path(chosen["cache_dir"]) if chosen["cache_dir"] else None,
        between=between,
    )
    return WorldModel.open(
        bundle,
        engine=chosen["engine"],
        precision=chosen["precision"] or None,
        num_samples=chosen["num_samples"] or None,
        options=options,
        allow_untrained=chosen["allow_untrained"],
    )
