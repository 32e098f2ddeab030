"""Recording: ROS 2 messages in MCAP files, readable by rosbag2 and Foxglove, written without ROS."""

from jepa_runtime.recording.mcap import McapRecorder, refuse_to_replace

__all__ = ["McapRecorder", "refuse_to_replace"]
