"""Record ROS 2 messages into MCAP files that rosbag2 and Foxglove can read, without ROS.

Example::

    from jepa_runtime.recording import McapRecorder
    from jepa_runtime.ros_messages import build

    with McapRecorder("run.mcap") as recorder:
        forward = {"linear": {"x": 0.2, "y": 0.0, "z": 0.0}, "angular": {"x": 0.0, "y": 0.0, "z": 0.0}}
        recorder.write_message("/cmd_vel", build("geometry_msgs/msg/Twist", forward), stamp_ns=0)
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.recording import messages
    from jepa_runtime.recording.black_box import BlackBox, Topics
    from jepa_runtime.recording.candidate_proposals import CandidateProposals
    from jepa_runtime.recording.mcap_writer import McapRecorder, check_outputs, check_separate
    from jepa_runtime.recording.run_recording import RunRecording
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "": ["messages"],
            "black_box": ["BlackBox", "Topics"],
            "candidate_proposals": ["CandidateProposals"],
            "mcap_writer": ["McapRecorder", "check_outputs", "check_separate"],
            "run_recording": ["RunRecording"],
        },
    )

__all__ = [
    "BlackBox",
    "CandidateProposals",
    "McapRecorder",
    "RunRecording",
    "Topics",
    "check_outputs",
    "check_separate",
    "messages",
]
