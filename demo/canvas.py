"""A page of pictures with captions, as one image: a frame of an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MARGIN, CAPTION = 10, 20
PAPER, INK = (255, 255, 255), (40, 40, 40)

# Left, top, width and height of a picture, below its caption.
Box = tuple[int, int, int, int]


class Canvas:
    """One frame.

    Args:
        size: Width and height in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = Image.new("RGB", size, PAPER)
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(13)

    def caption(self, left: int, top: int, text: str, color: tuple[int, int, int] = INK) -> None:
        """Write a line."""
        self._draw.text((left, MARGIN + top), text, color, self._font)

    def paste(self, picture: Image.Image, caption: str, box: Box) -> None:
        """Add a picture, as large as its box allows, below its caption."""
        left, top, width, height = box
        self.caption(left, top, caption)
        scale = min(width / picture.width, height / picture.height)
        size = (round(picture.width * scale), round(picture.height * scale))
        smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
        self.image.paste(picture.resize(size, smooth), (left, MARGIN + top + CAPTION))


def save(frames: Sequence[Image.Image], target: Path, *, frame_ms: int) -> None:
    """Write frames as an animated WebP file."""
    frames[0].save(
        target, save_all=True, append_images=frames[1:], duration=frame_ms, loop=0, quality=60, method=6
    )
