"""Subcommands of ``jepa-runtime``, one a module with ``add_parser(subparsers)`` and ``run(args) -> int``."""
