"""Recording: ROS 2 messages in MCAP files, readable by rosbag2 and Foxglove, written without ROS."""

from jepa_runtime.recording.mcap_writer import McapRecorder, check_apart, check_outputs

__all__ = ["McapRecorder", "check_apart", "check_outputs"]
