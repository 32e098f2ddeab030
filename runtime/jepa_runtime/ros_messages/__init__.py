"""ROS 2 message definitions, available without ROS."""
