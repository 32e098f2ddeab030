"""Building bundles from networks, and adding variants and an atlas to existing bundles.

:mod:`~jepa_export.bundling.builder` is the one place that writes a bundle. A recipe (``student_bundle``,
``teacher_bundle``, ``lewm_bundle``, ``predictor_bundle``, ``two_rooms_bundle``) decides which graphs go in
and on what they are calibrated; ``add_variants`` and ``add_atlas`` extend a finished bundle.
"""
