"""Teach and repeat over ROS 2: the actions of the route node."""
