"""Sources of frames: cameras, video files, image folders, recorded bags, simulated worlds.

Example::

    from jepa_runtime.sources import open_source

    source = open_source("images", rate_hz=10)
    for frame in source.frames():
        print(frame.stamp_ns, frame.image.shape)
    source.close()
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.sources.base import Frame, PassiveSource, Source, check_state_names, view_name
    from jepa_runtime.sources.commands import Commands, Floats, Stamps
    from jepa_runtime.sources.factory import check_options, is_camera, open_bag, open_source, split_spec
    from jepa_runtime.sources.image_folder import IMAGE_SUFFIXES
    from jepa_runtime.sources.message_fields import (
        UNKNOWN_UNIT,
        MessageFields,
        action_mismatch,
        state_mismatch,
    )
    from jepa_runtime.sources.states import States
    from jepa_runtime.sources.video_container import truncation_reason
    from jepa_runtime.sources.video_timing import timed_frames
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "base": ["Frame", "PassiveSource", "Source", "check_state_names", "view_name"],
            "commands": ["Commands", "Floats", "Stamps"],
            "factory": ["check_options", "is_camera", "open_bag", "open_source", "split_spec"],
            "image_folder": ["IMAGE_SUFFIXES"],
            "message_fields": ["UNKNOWN_UNIT", "MessageFields", "action_mismatch", "state_mismatch"],
            "states": ["States"],
            "video_container": ["truncation_reason"],
            "video_timing": ["timed_frames"],
        },
    )

__all__ = [
    "IMAGE_SUFFIXES",
    "UNKNOWN_UNIT",
    "Commands",
    "Floats",
    "Frame",
    "MessageFields",
    "PassiveSource",
    "Source",
    "Stamps",
    "States",
    "action_mismatch",
    "check_options",
    "check_state_names",
    "is_camera",
    "open_bag",
    "open_source",
    "split_spec",
    "state_mismatch",
    "timed_frames",
    "truncation_reason",
    "view_name",
]
