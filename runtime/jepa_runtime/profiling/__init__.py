"""Latency profiles: load generation, statistics, comparison, import and export."""
