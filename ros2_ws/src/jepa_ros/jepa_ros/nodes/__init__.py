"""One module per executable. Nodes have ``PARAMETERS``, their class and ``main``; ``profiler`` is a command
with options."""
