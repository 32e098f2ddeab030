"""How the shipped models were trained.

A recipe, such as :mod:`.two_rooms`, is a sub-command of ``jepa-export train``
(:mod:`jepa_export.training.recipes`). It applies the stages of a model, such as :mod:`.two_token`, to a world
of :mod:`.training_worlds`.
"""

# Imported first: it keeps OpenVINO, which modules below import, from sending telemetry.
import jepa_runtime as jepa_runtime
