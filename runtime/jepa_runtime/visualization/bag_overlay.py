"""A copy of a bag with pictures in it, for viewers that show images but know nothing of latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mcap.reader import make_reader

from jepa_runtime.errors import JepaRuntimeError, RecordingError, SourceError
from jepa_runtime.recording import messages
from jepa_runtime.recording.mcap_copy import McapCopy
from jepa_runtime.recording.mcap_writer import recording_errors
from jepa_runtime.ros_messages.definitions import build
from jepa_runtime.sources.bag_file import BagFile
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.predictions import Predictions
from jepa_runtime.visualization.run_data import Run
from jepa_runtime.visualization.topic_images import paint

TRAIL_S = 10.0
_NS = 1_000_000_000


def add_pictures(bag: Path, run: Run, atlas: Atlas, target: Path, *, rate_hz: float) -> None:
    """Copy ``bag`` (MCAP) to ``target`` as it is, and add pictures of ``run``, which was read from it.

    They are those of the node ``pictures``, on its topics: ``pictures/latent/image``,
    ``pictures/futures/image`` and ``pictures/map/image``, each beside the futures that it shows, at most
    ``rate_hz`` a second.

    Raises:
        RecordingError: it is no MCAP file, has pictures already, or the copy cannot be written.
        SourceError: the bag is damaged.
    """
    if bag.suffix != ".mcap":
        raise RecordingError(f"{bag}: only MCAP files can be copied with pictures")
    if target.resolve() == bag.resolve():
        raise RecordingError(f"{target}: is the bag itself: choose another name for the copy")
    futures, due_ns = f"{run.prefix}/futures", 0
    try:
        with (
            recording_errors(target),
            BagFile(bag) as decoder,
            bag.open("rb") as file,
            McapCopy(target) as copy,
        ):
            pictures = f"{run.namespace}/pictures/"
            connections = decoder.on({futures})
            if any(topic.startswith(pictures) for topic in decoder.topics(messages.COMPRESSED_IMAGE)):
                raise RecordingError(f"{bag}: has pictures already, on topics of {pictures}")
            for schema, channel, message in make_reader(file).iter_messages():
                if schema is None:
                    raise RecordingError(f"{bag}: topic {channel.topic} says nothing of its type")
                copy.copy(schema, channel, message)
                if channel.topic != futures or message.log_time < due_ns:
                    continue
                due_ns = message.log_time + round(_NS / rate_hz)
                told = decoder.deserialize(connections[0], message.data, message.sequence)
                foreseen = Predictions.of_message(told)
                trail = trail_of(run, foreseen.stamp_ns)
                for name, image in paint(trail, foreseen, atlas, TRAIL_S).items():
                    fields = messages.compressed_image(image, foreseen.stamp_ns, "")
                    shown = build(messages.COMPRESSED_IMAGE, fields)
                    copy.add(f"{pictures}{name}/image", shown, message.log_time)
    except JepaRuntimeError:
        raise
    except Exception as error:
        raise SourceError(f"{bag}: the bag is damaged: {error}") from error


def trail_of(run: Run, stamp_ns: int) -> Any:
    """The latents [n, T, D] of the last seconds until ``stamp_ns``, at least one."""
    end = max(1, int(np.searchsorted(run.stamps_ns, stamp_ns, side="right")))
    start = int(np.searchsorted(run.stamps_ns, stamp_ns - round(TRAIL_S * _NS)))
    return run.latents[min(start, end - 1) : end]
