"""Statistics of the actions in clips, for the limits in a bundle and for scaling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_export.data.clip_windows import Windows
from jepa_export.data.recording import Recording
from jepa_runtime.sources import Floats

# Ratio at which a value is suspected to have another unit: degrees are 57 times radians.
_OUTLIER_RATIO = 30


@dataclass(frozen=True)
class ActionStatistics:
    """Statistics of the A components of an action, in their units.

    Attributes:
        std: Standard deviation, 0 for a constant component.
        low: Smallest value in the data.
        high: Largest value in the data.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def constant(self) -> list[str]:
        """Return the names of the components that never change."""
        return [name for name, low, high in zip(self.names, self.low, self.high, strict=True) if low == high]


def measure(windows: Windows) -> ActionStatistics | None:
    """Return statistics over all clips, or None if they have no actions. No frame is read."""
    if windows.action_names is None or windows.action_units is None:
        return None
    size = len(windows.action_names)
    count, mean, squares = 0, np.zeros(size), np.zeros(size)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    for actions in windows.actions():
        low, high = np.minimum(low, actions.min(axis=0)), np.maximum(high, actions.max(axis=0))
        # Combined part by part, each about its own mean (Chan et al. 1983), so that not all are in memory at
        # once.
        own, more = actions.mean(axis=0, dtype=float), len(actions)
        squares += np.square(actions - own).sum(axis=0)
        squares += np.square(own - mean) * count * more / (count + more)
        count += more
        mean += (own - mean) * more / count
    std = np.where(high > low, np.sqrt(squares / count), 0)
    found = (tuple(of.tolist()) for of in (mean, std, low, high))
    return ActionStatistics(windows.action_names, windows.action_units, *found)


def outliers(windows: Windows) -> list[str]:
    """Describe recordings in which an action is far larger than in most; no frame is read.

    There it has another unit or is an error, and yet it determines the range of all actions.
    """
    if windows.action_names is None:
        return []
    peaks = np.stack([_peak(recording) for recording in windows.used])
    usual = np.median(np.abs(peaks), axis=0)
    return [
        f"{windows.action_names[part]} reaches {peaks[row, part]:g} in {windows.used[row].name}, "
        f"{usual[part]:g} in most recordings"
        for row, part in np.argwhere((np.abs(peaks) > _OUTLIER_RATIO * usual) & (usual > 0))
    ]


def _peak(recording: Recording) -> Floats:
    """Return the largest action [A] between two frames, by magnitude of each component."""
    begun = recording.stamps_ns[recording.known]
    actions = recording.actions(begun, begun + round(1e9 / recording.rate_hz))
    peak: Floats = actions[np.abs(actions).argmax(axis=0), np.arange(actions.shape[1])]
    return peak
