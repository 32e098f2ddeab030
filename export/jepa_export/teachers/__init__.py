"""Published JEPAs in torch, numerically equal to their authors' code, to learn from and to compare with.

:mod:`family` names them, :mod:`checkpoints` reads their published weights."""
