"""Image conversion: from the pixel formats of cameras to the input of a model."""

from jepa_runtime.imaging.conversion import (
    Image,
    ImageLike,
    check_rgb,
    data_uri,
    decode,
    image_from_message,
    resize_into,
    to_jpeg,
    to_png,
    to_rgb,
)

__all__ = [
    "Image",
    "ImageLike",
    "check_rgb",
    "data_uri",
    "decode",
    "image_from_message",
    "resize_into",
    "to_jpeg",
    "to_png",
    "to_rgb",
]
