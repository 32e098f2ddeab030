"""Creation of a source from its specification on the command line."""

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
    "two_rooms[?seed=N&layout=random|fixed], first_person_tour[?seed=N], a video file, "
    "a folder of PNG or JPEG images, /dev/videoN or N (a camera), BAG.mcap or a rosbag2 folder "
    "[?topic=/name&action=/cmd_vel:linear.x,angular.z&state=/pose;/gripper&max_age_s=0.5&odometry=/odom]"
)


def open_source(spec: str, *, rate_hz: float | None = None) -> Source:
    """Open the source that ``spec`` names.

    Args:
        spec: ``two_rooms``, ``first_person_tour``, a video file, a folder of images, ``/dev/videoN`` or a
            number, an ``.mcap`` file or a rosbag2 folder; options follow a question mark
            (``two_rooms?seed=3``, ``bag.mcap?topic=/camera/image_raw&action=/cmd_vel:linear.x,angular.z``).
        rate_hz: The rate of sources that can choose it (camera, image folder, simulated worlds).

    Raises:
        SourceError: The source does not exist, or cannot be read.
    """
    if rate_hz is not None and not rate_hz > 0:
        raise SourceError(f"the rate must be positive, got {rate_hz:g} Hz", code="source.option_invalid")
    name, options = split_spec(spec)
    if not name:
        raise SourceError(f"no source is given: give one of: {_FORMS}", code="source.not_found")
    if name == "two_rooms":
        return _two_rooms(options, rate_hz)
    if name == "first_person_tour":
        return _first_person_tour(options, rate_hz)
    if is_camera(name):
        from jepa_runtime.sources.camera import CameraSource

        check_options(name, options, allowed=())
        return CameraSource(name, rate_hz=rate_hz)
    path = Path(name)
    if not path.exists():
        raise SourceError(
            f"{name}: no such file or folder; a source is one of: {_FORMS}", code="source.not_found"
        )
    if path.suffix in _BAG_SUFFIXES or (path / "metadata.yaml").exists():
        return open_bag(path, options)
    check_options(name, options, allowed=())
    if path.is_dir():
        from jepa_runtime.sources.image_folder import ImageFolderSource

        return ImageFolderSource(path, rate_hz=rate_hz)
    from jepa_runtime.sources.video import VideoSource

    return VideoSource(path)


def is_camera(name: str) -> bool:
    """Return whether ``name`` is that of a camera."""
    return re.fullmatch(r"\d+|/dev/video\d+", name) is not None


def open_bag(path: Path, options: Mapping[str, str]) -> BagSource:
    """Open a recorded bag with the options ``topic``, ``action``, ``state``, ``max_age_s`` and ``odometry``.

    Raises:
        SourceError: An option is unknown or invalid, or the bag cannot be read.
    """
    from jepa_runtime.sources.bag import BagSource
    from jepa_runtime.sources.commands import MAX_AGE_S, MAX_DURATION_S

    check_options(str(path), options, allowed=("topic", "action", "state", "max_age_s", "odometry"))
    try:
        max_age_s = float(options.get("max_age_s", MAX_AGE_S))
    except ValueError:
        raise SourceError(
            f"{path}: max_age_s must be a number, got {options['max_age_s']!r}", code="source.option_invalid"
        ) from None
    if not 0 < max_age_s <= MAX_DURATION_S:
        raise SourceError(
            f"{path}: max_age_s must be above 0 and at most {MAX_DURATION_S:g}, got {max_age_s:g}",
            code="source.option_invalid",
        )
    return BagSource(
        path,
        topic=options.get("topic"),
        action=options.get("action"),
        state=options.get("state"),
        max_age_s=max_age_s,
        odometry=options.get("odometry"),
    )


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split a specification at the question mark into the name and the options.

    Raises:
        SourceError: The options are not of the form key=value[&key=value].
    """
    # A file may have a question mark in its name.
    if "?" not in spec or Path(spec).exists():
        return spec, {}
    name, _, query = spec.partition("?")
    try:
        return name, dict(parse_qsl(query, strict_parsing=True))
    except ValueError:
        raise SourceError(
            f"{spec}: write options as key=value[&key=value] after the question mark",
            code="source.option_invalid",
        ) from None


def check_options(name: str, options: Mapping[str, str], *, allowed: tuple[str, ...]) -> None:
    """Check that a source supports all its options.

    Raises:
        SourceError: An option is not ``allowed``.
    """
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        known = ", ".join(allowed) or "none"
        raise SourceError(
            f"{name}: unknown option {', '.join(unknown)}; options of this source: {known}",
            code="source.option_invalid",
        )


def _two_rooms(options: dict[str, str], rate_hz: float | None) -> Source:
    check_options("two_rooms", options, allowed=("seed", "layout"))
    layout = options.get("layout", "random")
    if layout not in ("random", "fixed"):
        raise SourceError(
            f"two_rooms: layout must be random or fixed, got {layout!r}", code="source.option_invalid"
        )
    source: Source = import_simulation("two_rooms_source").TwoRoomsSource(
        seed=_seed("two_rooms", options), layout=layout, rate_hz=rate_hz
    )
    return source


def _first_person_tour(options: dict[str, str], rate_hz: float | None) -> Source:
    check_options("first_person_tour", options, allowed=("seed",))
    source: Source = import_simulation("first_person_tour_source").FirstPersonTourSource(
        seed=_seed("first_person_tour", options), rate_hz=rate_hz
    )
    return source


def _seed(name: str, options: Mapping[str, str]) -> int:
    seed = options.get("seed", "0")
    if not seed.isdecimal():
        raise SourceError(f"{name}: seed must be an integer >= 0, got {seed!r}", code="source.option_invalid")
    return int(seed)
