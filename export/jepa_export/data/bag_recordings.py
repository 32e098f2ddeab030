"""Recorded ROS 2 bags: the images of one topic, and the commands of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from jepa_export.data.file_hash import file_hash
from jepa_runtime.sources import Commands, Frame, open_bag


class BagOrigin:
    """A bag, read by :class:`jepa_runtime.sources.bag.BagSource`.

    Args:
        path: The bag.
        options: ``topic``, ``action`` and ``max_age_s`` of the source.
    """

    def __init__(self, path: Path, options: Mapping[str, str]) -> None:
        self.name, self._path, self._options = str(path), path, dict(options)

    def identity(self) -> str:
        return file_hash(self._path)

    def frames_key(self) -> str:
        return f"{file_hash(self._path)} {self._options.get('topic', '')}"

    def commands(self) -> Commands | None:
        with closing(open_bag(self._path, self._options)) as source:
            return source.commands

    def frames(self) -> Iterator[Frame]:
        topic = {key: value for key, value in self._options.items() if key == "topic"}
        with closing(open_bag(self._path, topic)) as source:
            yield from source.frames()
