"""Recordings computed again: the same outputs from the same bag, and other futures from a moment in it."""
