"""Distillation: a student learns what a published teacher sees, then how actions change it."""
