"""An atlas for a bundle: which frames of a source are worth remembering, and the bundle with them in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jepa_export.bundling.staging import check_target, staged
from jepa_export.errors import JepaExportError
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.sources.base import Frame
from jepa_runtime.sources.factory import open_source
from jepa_runtime.visualization.atlas import ATLAS_NAME, Atlas, spread, thumbnail

_MOST_BYTES = 1 << 31


@dataclass(frozen=True)
class Made:
    """What an atlas is worth.

    Of ``read`` frames of a source ``kept`` are remembered; no frame is further than ``radius`` from one of
    them, half of them no further than ``usual``; ``explained`` of all movement lies in the plane of its map;
    its file has ``bytes`` bytes.
    """

    read: int
    kept: int
    radius: float
    usual: float
    explained: float
    bytes: int


def add_atlas(
    bundle: Bundle,
    source: str,
    out: Path,
    *,
    frames: int,
    read: int,
    px: int,
    most_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write to ``out`` a copy of ``bundle`` that remembers ``frames`` of the first ``read`` ones of
    ``source``.

    Chosen are those that lie furthest apart (farthest-point sampling). An atlas that was there is replaced.

    Args:
        px: the longer side of their images.
        most_bytes: a larger atlas is refused.

    Raises:
        JepaExportError: ``out`` is something else, lies in the bundle or cannot be written, the source has
            too few frames, or the atlas is too large.
        JepaRuntimeError: the source or the bundle cannot be read, or the model not run.
    """
    check_target(out)
    if bundle.path.resolve() in out.resolve().parents:
        raise JepaExportError(f"{out}: lies in {bundle.path}, which is copied: name a folder elsewhere")
    latent_bytes = 2 * bundle.manifest.io.latent.tokens * bundle.manifest.io.latent.dim
    read = min(read, _MOST_BYTES // latent_bytes)
    if frames * latent_bytes > most_bytes:
        raise JepaExportError(
            f"{frames} latents of {latent_bytes / 1e6:.2f} MB are more than {most_bytes / 1e6:g} MB: at most "
            f"{most_bytes // latent_bytes} frames fit (--frames), or allow more (--max-mb)"
        )
    latents, images, stamps_ns = [], [], []
    with WorldModel.open(bundle, allow_untrained=True) as model:
        for frame in _frames(source, read):
            latents.append(model.encode(frame.image).astype(np.float16))
            images.append(thumbnail(frame.image, px))
            stamps_ns.append(frame.stamp_ns)
            progress(len(latents), read)
    if len(latents) < 2:
        raise JepaExportError(f"{source}: {len(latents)} frames are too few for an atlas")
    known = np.stack(latents)
    chosen, radius = spread(known, frames)
    period_ns = max(1.0, float(np.median(np.diff(stamps_ns))))
    lag = max(1, round(bundle.manifest.horizon * bundle.manifest.io.step_s * 1e9 / period_ns))
    atlas = Atlas.of(known, chosen, [images[index] for index in chosen], lag)
    content = atlas.to_bytes()
    if len(content) > most_bytes:
        raise JepaExportError(
            f"the atlas takes {len(content) / 1e6:.1f} MB, {most_bytes / 1e6:g} are allowed: fewer frames "
            "(--frames), smaller images (--px), or allow more (--max-mb)"
        )
    with staged(out) as staging:
        shutil.copytree(bundle.path, staging, dirs_exist_ok=True)
        (staging / ATLAS_NAME).write_bytes(content)
        seal(staging, bundle.manifest)
    _, away = atlas.nearest(known)
    return Made(
        read=len(known),
        kept=len(chosen),
        radius=radius,
        usual=float(np.median(away)),
        explained=float(atlas.embedding.explained.sum()),
        bytes=len(content),
    )


def _frames(source: str, read: int) -> Iterator[Frame]:
    opened = open_source(source)
    try:
        for frame, _ in zip(opened.frames(), range(read), strict=False):
            yield frame
    finally:
        opened.close()
