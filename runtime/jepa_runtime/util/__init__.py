"""Helpers without knowledge of models: files, JSON, statistics, units, compatibility."""
