"""Training, conversion and packing of jepa-edge models; needs torch. The robot does without."""
