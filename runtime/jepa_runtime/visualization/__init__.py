"""Visualize a model's latents and predictions: atlas of frames, map of futures, topics and live viewers."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.visualization.atlas import ATLAS_NAME, Atlas, sample_farthest_points, thumbnail
    from jepa_runtime.visualization.growing_atlas import GrowingAtlas
    from jepa_runtime.visualization.predictions import Predictions, check_finite, stamp_of
    from jepa_runtime.visualization.run_data import read_run
    from jepa_runtime.visualization.topic_images import draw_images
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "atlas": ["ATLAS_NAME", "Atlas", "sample_farthest_points", "thumbnail"],
            "growing_atlas": ["GrowingAtlas"],
            "predictions": ["Predictions", "check_finite", "stamp_of"],
            "run_data": ["read_run"],
            "topic_images": ["draw_images"],
        },
    )

__all__ = [
    "ATLAS_NAME",
    "Atlas",
    "GrowingAtlas",
    "Predictions",
    "check_finite",
    "draw_images",
    "read_run",
    "sample_farthest_points",
    "stamp_of",
    "thumbnail",
]
