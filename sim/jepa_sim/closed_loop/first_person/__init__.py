"""Closed-loop evaluation in first-person rooms: the levels, with any driver, and floors to compare with."""
