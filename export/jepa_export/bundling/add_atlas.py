"""Add an atlas to a bundle: reference frames of a source, so that latents can be shown as images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jepa_export.bundling.staging import check_output, check_outside, copy_files, staged
from jepa_export.errors import JepaExportError
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.model import WorldModel
from jepa_runtime.serving import ClipSampler
from jepa_runtime.sources import Frame, open_source
from jepa_runtime.visualization import ATLAS_NAME, Atlas, sample_farthest_points, thumbnail

_MAX_BYTES = 1 << 31


@dataclass(frozen=True)
class AtlasSummary:
    """How well an atlas covers the frames it was selected from.

    Attributes:
        num_read: Frames that were read.
        num_frames: Frames in the atlas.
        max_distance: Largest distance in latent space from a frame to the nearest frame of the atlas.
        median_distance: Median of these distances.
        explained_variance: Proportion of the latents' variance in the plane of the map.
        bytes: Size of the file.
    """

    num_read: int
    num_frames: int
    max_distance: float
    median_distance: float
    explained_variance: float
    bytes: int


def add_atlas(
    bundle: Bundle,
    source: str,
    out: Path,
    *,
    frames: int,
    read: int,
    px: int,
    max_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AtlasSummary:
    """Write to ``out`` a copy of ``bundle`` with an atlas, which replaces an existing one.

    The frames of the atlas are chosen by farthest-point sampling in latent space.

    Args:
        bundle: Bundle to copy.
        source: Source of the frames.
        out: Folder of the new bundle.
        frames: Number of frames in the atlas.
        read: Number of frames of ``source`` to choose from.
        px: Longer side of the stored images.
        max_bytes: Size limit of the atlas.
        progress: Called with the number of frames encoded, and of all.

    Raises:
        JepaExportError: ``out`` is not a bundle, lies in ``bundle`` or cannot be written; the source has too
            few frames; or the atlas is too large.
        JepaRuntimeError: The source or the bundle cannot be read, or the model cannot run.
    """
    check_output(out)
    check_outside(out, bundle)
    latent_bytes = 2 * bundle.manifest.io.latent.tokens * bundle.manifest.io.latent.dim
    read = min(read, _MAX_BYTES // latent_bytes)
    if frames * latent_bytes > max_bytes:
        raise JepaExportError(
            f"{frames} latents of {latent_bytes / 1e6:.2f} MB exceed {max_bytes / 1e6:g} MB: at most "
            f"{max_bytes // latent_bytes} frames fit (--frames), or allow more (--max-mb)",
            code="export.atlas_too_large",
        )
    latents, images, stamps_ns = [], [], []
    sampler = ClipSampler(bundle.manifest)
    with WorldModel.open(bundle, allow_untrained=True) as model:
        cache = model.create_cache()
        for frame in _frames(source, read):
            clip = sampler.add(frame)
            if clip is None:
                continue
            latent = model.encode_clip(clip.images, cache, clip.step)
            if not clip.is_complete:
                continue
            latents.append(latent.astype(np.float16))
            images.append(thumbnail(frame.image, px))
            stamps_ns.append(frame.stamp_ns)
            progress(len(latents), read)
    if len(latents) < 2:
        raise JepaExportError(
            f"{source}: has {len(latents)} frames, an atlas needs at least 2", code="export.too_few_frames"
        )
    known = np.stack(latents)
    chosen, max_distance = sample_farthest_points(known, frames)
    period_ns = max(1.0, float(np.median(np.diff(stamps_ns))))
    lag = max(1, round(bundle.manifest.horizon * bundle.manifest.io.step_s * 1e9 / period_ns))
    atlas = Atlas.build(known, chosen, [images[index] for index in chosen], lag)
    content = atlas.to_bytes()
    if len(content) > max_bytes:
        raise JepaExportError(
            f"the atlas has {len(content) / 1e6:.1f} MB, more than the {max_bytes / 1e6:g} MB allowed: use "
            "fewer frames (--frames) or smaller images (--px), or allow more (--max-mb)",
            code="export.atlas_too_large",
        )
    with staged(out) as staging:
        copy_files(bundle, staging)
        (staging / ATLAS_NAME).write_bytes(content)
        seal(staging, bundle.manifest)
    _, distances = atlas.nearest(known)
    return AtlasSummary(
        num_read=len(known),
        num_frames=len(chosen),
        max_distance=max_distance,
        median_distance=float(np.median(distances)),
        explained_variance=float(atlas.embedding.explained.sum()),
        bytes=len(content),
    )


def _frames(source: str, read: int) -> Iterator[Frame]:
    opened = open_source(source)
    try:
        for frame, _ in zip(opened.frames(), range(read), strict=False):
            yield frame
    finally:
        opened.close()
