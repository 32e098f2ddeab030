"""OpenVINO: CPUs, Intel GPUs and Intel NPUs."""
