"""Latency on the running graph, seen from outside: a camera, the world model and the profiler, a process
each."""
