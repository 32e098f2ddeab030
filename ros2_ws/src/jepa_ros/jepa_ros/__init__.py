"""ROS 2 nodes of jepa-edge: thin adapters between messages and :mod:`jepa_runtime`."""
