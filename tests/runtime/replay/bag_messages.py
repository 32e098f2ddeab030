"""Reads messages of a bag."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory


def messages_of(path: Path) -> dict[str, list[Any]]:
    """Return the messages of each topic, read by an independent decoder."""
    result: dict[str, list[Any]] = defaultdict(list)
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        for _, channel, _, message in reader.iter_decoded_messages():
            result[channel.topic].append(message)
    return result
