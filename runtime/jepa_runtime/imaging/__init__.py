"""Pixel formats and resizing: from what cameras send to what a model takes."""

from jepa_runtime.imaging.conversion import (
    Image,
    check_rgb,
    decode,
    fit,
    image_in,
    image_uri,
    to_jpeg,
    to_png,
    to_rgb,
)

__all__ = ["Image", "check_rgb", "decode", "fit", "image_in", "image_uri", "to_jpeg", "to_png", "to_rgb"]
