"""From predicted futures to safe commands. No ROS, no clock: the caller passes the time in."""
