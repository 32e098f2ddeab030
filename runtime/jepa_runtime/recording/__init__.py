"""Record ROS 2 messages into MCAP files that rosbag2 and Foxglove can read, without ROS."""

from jepa_runtime.recording.mcap_writer import McapRecorder, check_outputs, check_separate

__all__ = ["McapRecorder", "check_outputs", "check_separate"]
