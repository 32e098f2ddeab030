"""Bag in, bag out: what a model makes of the inputs in a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jepa_runtime.recording.run_recording import RunRecording
from jepa_runtime.replay.bag_inputs import BagInputs
from jepa_runtime.replay.player import Player
from jepa_runtime.sources.base import Frame


@dataclass(frozen=True)
class Replayed:
    """What was computed.

    Attributes:
        frames, futures, surprises: how many frames there were, and how many of them gave futures and a
            surprise.
        resets: how often the history started anew, by reason.
        refused: inputs that the model could not use, and why the last one.
    """

    frames: int
    futures: int
    surprises: int
    resets: dict[str, int]
    refused: int
    last_refusal: str


def replay(
    inputs: BagInputs,
    player: Player,
    out: Path,
    *,
    half: bool = False,
    copy_inputs: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> Replayed:
    """Process every frame of a bag, in order, and write what the nodes would publish, logged when it was.

    Args:
        out: the bag to write; it appears when it is complete.
        half: keep the latents of futures as float16, as the nodes publish them by default.
        copy_inputs: write what was read from the bag too.
        on_frame: called after each frame; what it raises ends the replay.

    Raises:
        JepaRuntimeError: something could not be read, computed or written; there is no ``out`` then.
    """
    recording = RunRecording(out, player.model, half=half)
    counts, resets = Counter[str](), Counter[str]()
    try:
        for entry in inputs.read():
            if copy_inputs:
                recording.add_message(entry.topic, entry.type_name, entry.raw, entry.log_ns)
            if isinstance(entry.content, Frame):
                recording.add_model(entry.content.stamp_ns, entry.log_ns)
            result = player.feed(entry)
            if result is None:
                continue
            recording.add_result(result, entry.log_ns)
            recording.add_alarms(result, entry.log_ns)
            counts["frames"] += 1
            counts["futures"] += result.futures is not None
            counts["surprises"] += result.surprise is not None
            if result.reset is not None:
                resets[result.reset.value] += 1
            on_frame()
        recording.close()
    except BaseException:
        recording.discard()
        raise
    return Replayed(
        counts["frames"],
        counts["futures"],
        counts["surprises"],
        dict(resets),
        player.refused,
        player.last_refusal,
    )
