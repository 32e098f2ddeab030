"""The world model of a robot with a forward camera: 72 tokens, whose relative pose can be read.

:mod:`.networks` has the networks, :mod:`.drives` and :mod:`.library` the robot's experience, :mod:`.clips`,
:mod:`.pairs` and :mod:`.batches` what a step shows of it, :mod:`.outputs` what the networks compute from it,
:mod:`.odometry_losses` and :mod:`.prediction_losses` what is learned, :mod:`.schedule` when, :mod:`.joint`
the stage, :mod:`.training` the run. :mod:`.masked` trains a teacher on clips, and :mod:`.distillation` the
networks from a teacher. ``recipes/TRAINING.md`` explains why.

Losses of a model use images, commands and the robot's odometry. True poses are needed to render images, and
for nothing else. :mod:`.cloning` trains a policy that models are compared with, which may imitate an
:mod:`.expert` that knows true poses.
"""
