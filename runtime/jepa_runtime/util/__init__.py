"""Helpers that know nothing of models: files, JSON, statistics, units, compatibility."""
