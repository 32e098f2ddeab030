"""Published weights: files (:mod:`files`), whose they are and under which names (:mod:`layouts`), and the
model they make (:mod:`read`)."""

from jepa_export.teachers.checkpoints.read import Teacher, read

__all__ = ["Teacher", "read"]
