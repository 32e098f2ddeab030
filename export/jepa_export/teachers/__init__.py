"""Published JEPAs in torch, numerically equal to their authors' code, as teachers and references.

:mod:`family` lists them, :mod:`checkpoints` reads their published weights.
"""
