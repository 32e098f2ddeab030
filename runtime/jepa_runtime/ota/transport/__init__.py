"""How release files reach the robot: HTTP, folders, limits, deltas."""
