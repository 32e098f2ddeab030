"""The two-token world model: a scene token, a robot token and a temporal-distance energy.

:mod:`.networks` has the networks, :mod:`.training` the stages in their order, :mod:`.train_command` what
``jepa-export train`` does with them; ``recipes/TRAINING.md`` explains why.
"""
