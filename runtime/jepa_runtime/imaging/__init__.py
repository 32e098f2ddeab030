"""Image conversion: from the pixel formats of cameras to the input of a model.

Example::

    import numpy as np
    from jepa_runtime.imaging import resize_into, to_rgb

    rgb = to_rgb(bytes(640 * 480 * 2), "yuv422_yuy2", width=640, height=480)
    resized = np.empty((64, 64, 3), np.uint8)
    resize_into(rgb, resized)
"""

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
