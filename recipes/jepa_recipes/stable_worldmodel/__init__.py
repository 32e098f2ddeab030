"""World models for environments of stable-worldmodel, trained on recordings of the package's policies.

:mod:`.recordings` records and reads them. :mod:`.two_room` is a world for the two-token model;
:mod:`.reacher_networks` and :mod:`.reacher` are the model of an arm that torques move.
"""
