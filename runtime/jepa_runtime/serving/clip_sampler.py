"""The clips of a model that reads several images at once (``manifest.io.clip``), sampled from a camera.

Images are sampled every ``step_s / frames_per_step`` seconds by their stamps; of those around a sampling time
the one is taken that a camera with regular images brings nearest to it. After every ``frames_per_step``
samples a step is complete, and once the last ``frames`` samples are there, they form a clip. All other images
cost nothing. A causal encoder, which reads each step once, also gets the steps before the first clip.

Rules:
    1. The first image is a sample. Sampling times follow the camera: each deviation shifts the following
       times by an eighth of it.
    2. If no image comes within half an interval of a sampling time, or the camera is another one, the next
       image begins a new sequence, and there is no clip until it is long enough.
    3. The same holds for a stamp that goes backwards, and :attr:`Clip.clock_jumps` counts it.
    4. An image with the stamp of the previous one is ignored.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from jepa_runtime.bundle import Manifest
from jepa_runtime.imaging import Image
from jepa_runtime.sources.base import Frame

_CORRECTION = 8


@dataclass(frozen=True)
class Clip:
    """The images of a step.

    Attributes:
        images: Oldest first; the last is that of the frame with which the step is complete.
        clock_jumps: Number of stamps that went backwards so far.
        step: Number of the step. A new sequence begins at a number that is further from the previous one than
            a clip is long.
        is_complete: Whether all images of the clip are there. An incomplete one, which only models with a
            causal encoder get, has no latent: it fills the cache.
    """

    images: tuple[Image, ...]
    clock_jumps: int = 0
    step: int = 0
    is_complete: bool = True


class ClipSampler:
    """Samples one stream; used by one thread at a time.

    Args:
        manifest: Manifest of a model. Of one that reads single images, every image is a clip.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._clip = manifest.io.clip
        self._interval_ns = round(manifest.io.frame_interval_s * 1e9)
        self._images: deque[Image] = deque(maxlen=manifest.io.encoder_frames)
        self._samples = self._clock_jumps = self._step = 0
        self._previous_ns: int | None = None
        self._due_ns = 0
        self._source: tuple[str, tuple[int, ...]] | None = None

    @property
    def obstacle(self) -> str:
        """The reason why there is no clip yet; empty: there is one."""
        count, needed = len(self._images), self._images.maxlen
        if self._clip is None or count == needed:
            return ""
        return (
            f"no latent yet: a clip of this model needs {needed} images, {self._interval_ns / 1e9:g} s "
            f"apart, and {count} are there"
        )

    def add(self, frame: Frame) -> Clip | None:
        """Add the newest frame; return the clip if it completes a step."""
        if self._clip is None:
            return Clip((frame.image,))
        stamp_ns, previous_ns = frame.stamp_ns, self._previous_ns
        if stamp_ns == previous_ns:
            return None
        source, self._previous_ns = (frame.frame_id, frame.image.shape), stamp_ns
        backwards = previous_ns is not None and stamp_ns < previous_ns
        self._clock_jumps += backwards
        too_late = stamp_ns > self._due_ns + self._interval_ns // 2
        if previous_ns is None or backwards or too_late or source != self._source:
            self._begin(stamp_ns)
        elif self._due_ns - stamp_ns > min(stamp_ns - previous_ns, self._interval_ns) // 2:
            return None
        self._source = source
        self._images.append(frame.image)
        self._samples += 1
        self._due_ns += self._interval_ns + (stamp_ns - self._due_ns) // _CORRECTION
        if self._samples % self._clip.frames_per_step:
            return None
        self._step += 1
        is_complete = len(self._images) == self._clip.frames
        if not is_complete and not self._clip.cached_steps:
            return None
        return Clip(tuple(self._images), self._clock_jumps, self._step, is_complete)

    def _begin(self, stamp_ns: int) -> None:
        """Begin a new sequence."""
        self._images.clear()
        self._samples, self._due_ns = 0, stamp_ns
        self._step += self._images.maxlen or 0
