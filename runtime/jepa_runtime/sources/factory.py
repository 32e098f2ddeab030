"""From what a user types to a source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from jepa_runtime.errors import SourceError
from jepa_runtime.sources.base import Source
from jepa_runtime.util.simulation import import_simulation

if TYPE_CHECKING:
    from jepa_runtime.sources.bag import BagSource

_BAG_SUFFIXES = {".mcap", ".db3"}
_FORMS = (
    "two_rooms[?seed=N&layout=random|fixed], a video file, a folder of PNG or JPEG images, "
    "/dev/videoN or N (a camera), BAG.mcap or a rosbag2 folder "
    "[?topic=/name&action=/cmd_vel:linear.x,angular.z&max_age_s=0.5]"
)


def open_source(spec: str, *, rate_hz: float | None = None) -> Source:
    """Open the source that ``spec`` names.

    Args:
        spec: ``two_rooms``, a video file, a folder of images, ``/dev/videoN`` or a number, an ``.mcap`` file
            or rosbag2 folder; options follow a question mark (``two_rooms?seed=3``,
            ``bag.mcap?topic=/camera/image_raw&action=/cmd_vel:linear.x,angular.z``).
        rate_hz: asked of sources that can choose their rate (camera, image folder, two_rooms).

    Raises:
        SourceError: there is no such source, or it cannot be read.
    """
    if rate_hz is not None and not rate_hz > 0:
        raise SourceError(f"the rate must be positive, got {rate_hz:g} Hz")
    name, options = split_spec(spec)
    if not name:
        raise SourceError(f"no source is named: it is one of: {_FORMS}")
    if name == "two_rooms":
        return _two_rooms(options, rate_hz)
    if is_camera(name):
        from jepa_runtime.sources.camera import CameraSource

        refuse_options(name, options, allowed=())
        return CameraSource(name, rate_hz=rate_hz)
    path = Path(name)
    if not path.exists():
        raise SourceError(f"{name}: no such file or folder; a source is one of: {_FORMS}")
    if path.suffix in _BAG_SUFFIXES or (path / "metadata.yaml").exists():
        return open_bag(path, options)
    refuse_options(name, options, allowed=())
    if path.is_dir():
        from jepa_runtime.sources.image_folder import ImageFolderSource

        return ImageFolderSource(path, rate_hz=rate_hz)
    from jepa_runtime.sources.video import VideoSource

    return VideoSource(path)


def is_camera(name: str) -> bool:
    """Whether this is the name of a camera."""
    return re.fullmatch(r"\d+|/dev/video\d+", name) is not None


def open_bag(path: Path, options: Mapping[str, str]) -> BagSource:
    """Open a recorded bag with the options ``topic``, ``action`` and ``max_age_s``.

    Raises:
        SourceError: another option, or the bag cannot be read so.
    """
    from jepa_runtime.sources.bag import BagSource
    from jepa_runtime.sources.commands import MAX_AGE_S

    refuse_options(str(path), options, allowed=("topic", "action", "max_age_s"))
    try:
        max_age_s = float(options.get("max_age_s", MAX_AGE_S))
    except ValueError:
        raise SourceError(f"{path}: max_age_s must be a number, got {options['max_age_s']!r}") from None
    return BagSource(path, topic=options.get("topic"), action=options.get("action"), max_age_s=max_age_s)


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """What stands before the question mark, and the options after it.

    Raises:
        SourceError: the options do not read key=value[&key=value].
    """
    # A file may have a question mark in its name.
    if "?" not in spec or Path(spec).exists():
        return spec, {}
    name, _, query = spec.partition("?")
    try:
        return name, dict(parse_qsl(query, strict_parsing=True))
    except ValueError:
        raise SourceError(f"{spec}: what follows the question mark must read key=value[&key=value]") from None


def refuse_options(name: str, options: Mapping[str, str], *, allowed: tuple[str, ...]) -> None:
    """Refuse what this kind of source does not know.

    Raises:
        SourceError: an option is not ``allowed``.
    """
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        known = ", ".join(allowed) or "none"
        raise SourceError(f"{name}: unknown option {', '.join(unknown)}; this kind of source knows: {known}")


def _two_rooms(options: dict[str, str], rate_hz: float | None) -> Source:

    refuse_options("two_rooms", options, allowed=("seed", "layout"))
    seed, layout = options.get("seed", "0"), options.get("layout", "random")
    if not seed.isdecimal():
        raise SourceError(f"two_rooms: seed must be a whole number >= 0, got {seed!r}")
    if layout not in ("random", "fixed"):
        raise SourceError(f"two_rooms: layout must be random or fixed, got {layout!r}")
    source: Source = import_simulation("two_rooms_source").TwoRoomsSource(
        seed=int(seed), layout=layout, rate_hz=rate_hz
    )
    return source
