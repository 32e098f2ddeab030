"""A program of several commands: parsing, help, logging, errors and exit status.

``jepa-runtime`` and ``jepa-export`` are instances of :class:`Program`. Only the module of the requested
command is imported, so that ``--help`` and ``--version`` are fast.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from jepa_runtime.commands.exit_status import UsageError, status_of
from jepa_runtime.commands.standard_streams import make_streams_robust

_LEVELS = ("debug", "info", "warning", "error")
_EXIT_STATUS = (
    "Exit status: 0 success, 1 error, 2 usage error. Some commands also return 3 (negative result),\n"
    "4 (inconclusive) or 5 (alarm), see their help."
)


@dataclass(frozen=True)
class Command:
    """A command of a program.

    Attributes:
        name: The word that the user types.
        summary: One line for the help of the program.
        module: The module that has ``add_parser(subparsers)``, which adds the command's parser and sets
            its default ``run``: a function from the parsed arguments to the exit status. It imports little;
            ``run`` imports the rest.
    """

    name: str
    summary: str
    module: str


@dataclass(frozen=True)
class Program:
    """A command-line program.

    Attributes:
        name: What the user types.
        description: One line for its help.
        version: The version of the package.
        groups: The commands by the heading under which the help lists them.
        invoke: Runs the command of parsed arguments. The arguments may have an attribute ``stopped``: the
            line printed after Ctrl-C.
    """

    name: str
    description: str
    version: str
    groups: Mapping[str, Sequence[Command]]
    invoke: Callable[[argparse.Namespace], int] = lambda args: int(args.run(args))

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run a command.

        Args:
            argv: Its arguments (default: those of the process).

        Returns:
            The exit status, see :mod:`~jepa_runtime.commands.exit_status`.
        """
        make_streams_robust()
        args = self.parse(sys.argv[1:] if argv is None else argv)
        _configure_logging(args)
        try:
            return status_of(self.name, lambda: self.invoke(args), stopped=getattr(args, "stopped", ""))
        except UsageError as error:
            parser: argparse.ArgumentParser = args.parser
            parser.error(str(error))

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse arguments; exits with status 2 and the usage of the command if they are wrong."""
        # The program itself has only --help and --version before the command.
        selected = next((word for word in argv if not word.startswith("-")), "")
        args, unknown = self.parser(only=selected).parse_known_args(argv)
        if unknown:
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return args

    def parser(self, *, only: str | None = None) -> argparse.ArgumentParser:
        """Return the parser.

        Args:
            only: The one command whose options are added (default: those of all commands).
        """
        parser = argparse.ArgumentParser(
            prog=self.name,
            usage="%(prog)s [-h] [--version] COMMAND ...",
            description=self.description,
            epilog=self._overview(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--version", action="version", version=f"jepa-edge {self.version}")
        subparsers = parser.add_subparsers(
            required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog=self.name
        )
        for command in (command for group in self.groups.values() for command in group):
            if only in (None, command.name):
                import_module(command.module).add_parser(subparsers)
                for leaf in _leaves(subparsers.choices[command.name]):
                    _add_common_options(leaf)
            else:
                subparsers.add_parser(command.name)
        return parser

    def _overview(self) -> str:
        width = max(len(command.name) for group in self.groups.values() for command in group)
        lines: list[str] = []
        for title, commands in self.groups.items():
            lines += [f"{title}:", *(f"  {entry.name:{width}}  {entry.summary}" for entry in commands), ""]
        lines += [f"`{self.name} COMMAND --help` shows the options of a command.", _EXIT_STATUS]
        return "\n".join(lines)


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers below ``parser`` that have no sub-commands, or ``parser`` itself."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        for child in action.choices.values():
            yield from _leaves(child)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(parser=parser)
    # A command that is not installed takes any words, see commands/drive.py.
    if "-" not in parser.prefix_chars:
        return
    group = parser.add_argument_group("messages")
    group.add_argument(
        "-v", "--verbose", action="count", default=0, help="show details and log at level info (-vv: debug)"
    )
    group.add_argument("-q", "--quiet", action="store_true", help="log errors only")
    group.add_argument("--log-level", choices=_LEVELS, help="log level (default: warning)")


def _configure_logging(args: argparse.Namespace) -> None:
    verbose, quiet = getattr(args, "verbose", 0), getattr(args, "quiet", False)
    chosen = "error" if quiet else ("warning", "info", "debug")[min(verbose, 2)]
    level = getattr(args, "log_level", None) or chosen
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
