"""Replay: the outputs of a model for the inputs of a recording."""

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
    """Statistics of a replay.

    Attributes:
        frames: Number of frames.
        futures: Number of frames with futures.
        surprises: Number of frames with a surprise.
        resets: Number of resets of the history, by reason.
        rejected: Number of inputs that the model could not use.
        last_rejection: Why the last one was rejected.
    """

    frames: int
    futures: int
    surprises: int
    resets: dict[str, int]
    rejected: int
    last_rejection: str


def replay_bag(
    inputs: BagInputs,
    player: Player,
    out: Path,
    *,
    half: bool = False,
    copy_inputs: bool = False,
    on_frame: Callable[[], None] = lambda: None,
) -> Replayed:
    """Process every frame of a bag in order and write the outputs with the log times of the inputs.

    Args:
        inputs: The inputs.
        player: The model.
        out: Bag to write; it appears when it is complete.
        half: Write the latents of futures as float16, as the nodes publish them by default.
        copy_inputs: Write the inputs too.
        on_frame: Called after each frame; an exception ends the replay.

    Raises:
        JepaRuntimeError: Reading, computing or writing failed; ``out`` is not created.
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
        player.rejected,
        player.last_rejection,
    )
