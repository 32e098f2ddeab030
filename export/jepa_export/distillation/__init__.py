"""Distillation: a student learns the representation of a published teacher, then the effects of actions."""
