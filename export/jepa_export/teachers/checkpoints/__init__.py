"""Published weights: :mod:`files`, their :mod:`layouts`, and how to :mod:`read` a model from them."""

from jepa_export.teachers.checkpoints.read import Teacher, read

__all__ = ["Teacher", "read"]
