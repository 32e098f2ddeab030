"""Measuring: statistics of samples, what was measured on, and a report that a customer can be shown."""
