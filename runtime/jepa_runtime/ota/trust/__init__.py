"""Verification of repository metadata (The Update Framework)."""
