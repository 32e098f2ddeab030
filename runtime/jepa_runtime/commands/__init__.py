"""Commands of ``jepa-runtime``, and what other programs need to have commands of the same kind.

Each command is a module with ``run(args) -> int``. The module of the same name in :mod:`parsers` adds its
options by ``add_parser(subparsers)``, and imports the command when it runs. A :class:`Program` lists the
commands.
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.commands.arguments import (
        add_bundle_argument,
        add_cache_argument,
        add_json_argument,
        add_untrained_argument,
        binary_output,
        bundle_location,
        count,
        frame_size,
        message_console,
        open_console,
        positive,
        progress_on,
        rate,
        read_image,
        text_output,
    )
    from jepa_runtime.commands.exit_status import ExitStatus, UsageError
    from jepa_runtime.commands.program import Command, Program
    from jepa_runtime.commands.signals import interrupted_by_signals
    from jepa_runtime.commands.standard_streams import make_streams_robust
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "arguments": [
                "add_bundle_argument",
                "add_cache_argument",
                "add_json_argument",
                "add_untrained_argument",
                "binary_output",
                "bundle_location",
                "count",
                "frame_size",
                "message_console",
                "open_console",
                "positive",
                "progress_on",
                "rate",
                "read_image",
                "text_output",
            ],
            "exit_status": ["ExitStatus", "UsageError"],
            "program": ["Command", "Program"],
            "signals": ["interrupted_by_signals"],
            "standard_streams": ["make_streams_robust"],
        },
    )

__all__ = [
    "Command",
    "ExitStatus",
    "Program",
    "UsageError",
    "add_bundle_argument",
    "add_cache_argument",
    "add_json_argument",
    "add_untrained_argument",
    "binary_output",
    "bundle_location",
    "count",
    "frame_size",
    "interrupted_by_signals",
    "make_streams_robust",
    "message_console",
    "open_console",
    "positive",
    "progress_on",
    "rate",
    "read_image",
    "text_output",
]
