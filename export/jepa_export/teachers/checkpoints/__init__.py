"""Weights in files: :mod:`files`, their :mod:`layouts`, and how to :mod:`read` a model from them.

:mod:`architecture` derives the configuration of a model of any size from its weights and :mod:`settings`.
"""

from jepa_export.teachers.checkpoints.read import Teacher, inspect, read
from jepa_export.teachers.checkpoints.settings import Settings

__all__ = ["Settings", "Teacher", "inspect", "read"]
