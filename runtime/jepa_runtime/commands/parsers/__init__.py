"""The options of the commands, one module per command with ``add_parser(subparsers)``.

A module imports little, so that the help of a command is fast. What a command does is
in the module of the same name in :mod:`jepa_runtime.commands`, imported when it runs.
"""
