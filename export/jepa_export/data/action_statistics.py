"""What the actions of some clips are like: for a bundle's limits, and for bringing them to one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_export.data.clip_windows import Windows
from jepa_export.data.recording import Recording
from jepa_runtime.sources.commands import Floats

# Between a unit and the next: degrees are 57 times radians.
_FAR = 30


@dataclass(frozen=True)
class ActionStatistics:
    """Of the A components of an action, in their units: mean, standard deviation (0 where it never changes),
    and the least and largest seen.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def still(self) -> list[str]:
        """The names of those that never change."""
        return [name for name, low, high in zip(self.names, self.low, self.high, strict=True) if low == high]


def measure(windows: Windows) -> ActionStatistics | None:
    """Statistics over all clips: what is rare in the data is part of its range too. No frame is read. None
    where there are no actions.
    """
    if windows.action_names is None or windows.action_units is None:
        return None
    size = len(windows.action_names)
    count, mean, squares = 0, np.zeros(size), np.zeros(size)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    for actions in windows.actions():
        low, high = np.minimum(low, actions.min(axis=0)), np.maximum(high, actions.max(axis=0))
        # Part by part, each about its own mean (Chan et al. 1983): they need not lie in memory at once.
        own, more = actions.mean(axis=0, dtype=float), len(actions)
        squares += np.square(actions - own).sum(axis=0)
        squares += np.square(own - mean) * count * more / (count + more)
        count += more
        mean += (own - mean) * more / count
    std = np.where(high > low, np.sqrt(squares / count), 0)
    found = (tuple(of.tolist()) for of in (mean, std, low, high))
    return ActionStatistics(windows.action_names, windows.action_units, *found)


def outliers(windows: Windows) -> list[str]:
    """Recordings in which an action is far larger than in most, in words: it has another unit there, or is an
    error, and yet the range of all actions follows from it. No frame is read."""
    if windows.action_names is None:
        return []
    peaks = np.stack([_peak(recording) for recording in windows.used])
    usual = np.median(np.abs(peaks), axis=0)
    return [
        f"{windows.action_names[part]} reaches {peaks[row, part]:g} in {windows.used[row].name}, "
        f"{usual[part]:g} in most recordings"
        for row, part in np.argwhere((np.abs(peaks) > _FAR * usual) & (usual > 0))
    ]


def _peak(recording: Recording) -> Floats:
    """The largest [A] of what was executed from one frame to the next."""
    begun = recording.stamps_ns[recording.known]
    actions = recording.actions(begun, begun + round(1e9 / recording.rate_hz))
    peak: Floats = actions[np.abs(actions).argmax(axis=0), np.arange(actions.shape[1])]
    return peak
