"""Building bundles from networks, and adding variants and an atlas to existing bundles.

:mod:`~jepa_export.bundling.builder` is the one place that writes a bundle. Its callers (``student_bundle``,
``teacher_bundle``, ``lewm_bundle``, ``predictor_bundle``, and recipes of other packages) decide which graphs
go in and on what they are calibrated; ``add_variants`` and ``add_atlas`` extend a finished bundle.
"""
