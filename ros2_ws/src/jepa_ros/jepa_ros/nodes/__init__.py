"""Node executables, one module each, with ``PARAMETERS``, a node class and ``main``.

The parameters of a node are in a module that is quick to import.

``profiler`` is a command with options instead.
"""
