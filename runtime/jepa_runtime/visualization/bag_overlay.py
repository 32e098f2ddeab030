"""Copy a bag and add images of latents and predictions, for viewers that only show images."""

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
from jepa_runtime.visualization.topic_images import draw_images

TRAIL_S = 10.0
_NS = 1_000_000_000


def add_pictures(bag: Path, run: Run, atlas: Atlas, target: Path, *, rate_hz: float) -> None:
    """Copy ``bag`` (MCAP) unchanged to ``target``, and add images of ``run``, which was read from it.

    The images and topics are those of the node ``pictures``: ``pictures/latent/image``,
    ``pictures/futures/image`` and ``pictures/map/image``, logged at the time of the futures that they show.

    Args:
        bag: The bag to copy.
        run: The content of the bag.
        atlas: The frames that latents are shown as.
        target: The file to write.
        rate_hz: Maximum rate of the images.

    Raises:
        RecordingError: The bag is not an MCAP file or already has images, or the copy cannot be written.
        SourceError: The bag is malformed.
    """
    if bag.suffix != ".mcap":
        raise RecordingError(
            f"{bag} is not an MCAP file: images can only be added to MCAP files (convert it with `ros2 bag "
            "convert`)",
            code="recording.not_mcap",
        )
    if target.resolve() == bag.resolve():
        raise RecordingError(
            f"{target} is the bag itself: choose another name for the copy", code="recording.output_is_input"
        )
    futures, due_ns = f"{run.prefix}/futures", 0
    try:
        with (
            recording_errors(target),
            BagFile(bag) as decoder,
            bag.open("rb") as file,
            McapCopy(target) as copy,
        ):
            pictures = f"{run.namespace}/pictures/"
            connections = decoder.connections_on({futures})
            if any(topic.startswith(pictures) for topic in decoder.topics(messages.COMPRESSED_IMAGE)):
                raise RecordingError(
                    f"{bag} already has images on topics below {pictures}: use the bag without them",
                    code="recording.images_exist",
                )
            for schema, channel, message in make_reader(file).iter_messages():
                if schema is None:
                    raise RecordingError(
                        f"{bag}: topic {channel.topic} has no type definition: record it again",
                        code="recording.schema_missing",
                    )
                copy.copy(schema, channel, message)
                if channel.topic != futures or message.log_time < due_ns:
                    continue
                due_ns = message.log_time + round(_NS / rate_hz)
                decoded = decoder.deserialize(connections[0], message.data, message.sequence)
                predictions = Predictions.from_message(decoded)
                trail = trail_of(run, predictions.stamp_ns)
                for name, image in draw_images(trail, predictions, atlas, TRAIL_S).items():
                    fields = messages.compressed_image(image, predictions.stamp_ns, "")
                    added = build(messages.COMPRESSED_IMAGE, fields)
                    copy.add(f"{pictures}{name}/image", added, message.log_time)
    except JepaRuntimeError:
        raise
    except Exception as error:
        raise SourceError(f"{bag} is malformed: {error}", code="source.bag_damaged") from error


def trail_of(run: Run, stamp_ns: int) -> Any:
    """Return the latents [n, T, D] of the last :data:`TRAIL_S` seconds until ``stamp_ns``, at least one."""
    end = max(1, int(np.searchsorted(run.stamps_ns, stamp_ns, side="right")))
    start = int(np.searchsorted(run.stamps_ns, stamp_ns - round(TRAIL_S * _NS)))
    return run.latents[min(start, end - 1) : end]
