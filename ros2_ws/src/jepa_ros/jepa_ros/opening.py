"""From the parameters of the world_model node to its settings and its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.errors import BundleError
from jepa_runtime.realtime import RealtimeSettings
from jepa_runtime.world_model import WorldModel


def realtime_settings(chosen: Mapping[str, Any]) -> RealtimeSettings:
    """What is wanted of the process that serves."""
    return RealtimeSettings(
        cpu_affinity=tuple(core for core in chosen["cpu_affinity"] if core >= 0),
        fifo_priority=chosen["fifo_priority"],
        lock_memory=chosen["lock_memory"],
        keep_heap=True,
    )


def open_model(chosen: Mapping[str, Any]) -> WorldModel:
    """The model, on this thread.

    Raises:
        BundleError: no bundle is named, or see :meth:`WorldModel.open`.
        BackendError: see :meth:`WorldModel.open`.
    """
    if not chosen["bundle"]:
        raise BundleError("parameter bundle is empty: set it to the folder of a model bundle")
    options = BackendOptions(
        threads=chosen["threads"],
        cache_dir=Path(chosen["cache_dir"]) if chosen["cache_dir"] else None,
        # The engine would choose other cores.
        pinning=not realtime_settings(chosen).cpu_affinity,
    )
    return WorldModel.open(
        chosen["bundle"],
        engine=chosen["engine"],
        precision=chosen["precision"] or None,
        num_samples=chosen["num_samples"] or None,
        options=options,
        allow_untrained=chosen["allow_untrained"],
    )
