"""Release files on the robot's disk: slots, partial downloads, file ownership."""
