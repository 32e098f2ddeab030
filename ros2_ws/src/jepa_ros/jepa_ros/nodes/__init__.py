"""Node executables, one module each, with ``PARAMETERS``, a node class and ``main``.

``profiler`` is a command with options instead.
"""
