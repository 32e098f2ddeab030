"""The gate: decides whether a candidate may become the active model.

1. :mod:`static_checks` compares what the release and its bundle declare with the robot.
2. :mod:`probe` opens and times the bundle in a separate process that may crash.
3. :mod:`shadow_test` runs the candidate next to the active model on the same frames, and compares the
   prediction errors of both (:mod:`sequential_test`).
"""
