"""Where frames come from: cameras, video files, image folders, recorded bags, simulated worlds."""

from jepa_runtime.sources.base import Frame, Source
from jepa_runtime.sources.open import open_source

__all__ = ["Frame", "Source", "open_source"]
