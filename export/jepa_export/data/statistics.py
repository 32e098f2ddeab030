"""What the frames and actions of some clips are like: for normalising them, and for a bundle's spec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_export.data.windows import Windows


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


@dataclass(frozen=True)
class Statistics:
    """Of the three channels, as fractions of white, their mean and standard deviation; and of the actions
    (None where there are none); over how many clips.
    """

    clips: int
    frame_mean: tuple[float, ...]
    frame_std: tuple[float, ...]
    actions: ActionStatistics | None


def measure(windows: Windows, *, clips: int = 2000) -> Statistics:
    """Statistics over ``clips`` clips, evenly spaced, or all where there are fewer.

    Raises:
        JepaExportError: a frame cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(clips, len(windows))).astype(int))
    # How often each value occurs in each channel: exact, and the same whatever the order.
    counts = np.zeros((3, 256), np.int64)
    actions = []
    for index in chosen:
        clip = windows[int(index)]
        for channel, count in enumerate(counts):
            count += np.bincount(clip.frames[..., channel].ravel(), minlength=256)
        if clip.actions is not None:
            actions.append(clip.actions)
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * np.square(values - mean[:, None])).sum(axis=1))
    return Statistics(
        len(chosen),
        tuple(mean.tolist()),
        tuple(std.tolist()),
        _of_actions(windows, actions) if actions else None,
    )


def _of_actions(windows: Windows, clips: list[np.ndarray]) -> ActionStatistics:
    assert windows.action_names is not None and windows.action_units is not None
    actions = np.concatenate(clips).astype(float)
    mean, std, low, high = (
        tuple(np.atleast_1d(of).tolist())
        for of in (actions.mean(axis=0), actions.std(axis=0), actions.min(axis=0), actions.max(axis=0))
    )
    return ActionStatistics(windows.action_names, windows.action_units, mean, std, low, high)
