"""The real-time path: frames in, futures out, on one inference thread."""
