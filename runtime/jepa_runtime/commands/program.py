"""A program of several commands: parsing, help, logging, errors and exit status.

``jepa-runtime`` and ``jepa-export`` are instances of :class:`Program`. Only the module of the requested
command is imported, so that ``--help`` and ``--version`` are fast.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise

from jepa_runtime.commands.config_file import ConfigFile, add_config_argument, config_path
from jepa_runtime.commands.exit_status import UsageError, describe_usage_error, status_of
from jepa_runtime.commands.standard_streams import make_streams_robust
from jepa_runtime.util.argument_parser import ArgumentParser
from jepa_runtime.util.hub_address import HubAddress

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
        has_config: Whether a file can hold its options, see :mod:`~jepa_runtime.commands.config_file`.
    """

    name: str
    summary: str
    module: str
    has_config: bool = False


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
            return status_of(
                self.name, lambda: self._invoke_with_bundles(args), stopped=getattr(args, "stopped", "")
            )
        except UsageError as error:
            parser: argparse.ArgumentParser = args.parser
            parser.error(describe_usage_error(error))

    def _invoke_with_bundles(self, args: argparse.Namespace) -> int:
        """Run the command with the downloaded folder in place of each address of a bundle.

        ``args.downloaded`` lists the addresses.

        Raises:
            BundleError: A bundle cannot be downloaded.
        """
        for name, value in list(vars(args).items()):
            values = value if isinstance(value, list) else [value]
            addresses = [each for each in values if isinstance(each, HubAddress)]
            if not addresses:
                continue
            from jepa_runtime.bundle.hub import HubRepository

            folders = [
                HubRepository.parse(each.text).download() if isinstance(each, HubAddress) else each
                for each in values
            ]
            setattr(args, name, folders if isinstance(value, list) else folders[0])
            args.downloaded += tuple(addresses)
        return self.invoke(args)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse arguments; exits with status 2 and the usage of the command if they are wrong."""
        names = {command.name for group in self.groups.values() for command in group}
        parser = self.parser(only=next((word for word in argv if word in names), ""))
        command, file = _leaf(parser, argv), None
        _check_version_option(command, argv)
        if any(action.dest == "config" for action in command._actions) and (path := config_path(argv)):
            try:
                file = ConfigFile(path, command)
            except UsageError as error:
                command.error(describe_usage_error(error))
        # Options for messages, before or after the command, have no defaults of their own.
        args = argparse.Namespace(verbose=0, quiet=False, log_level=None, downloaded=())
        _, unknown = parser.parse_known_args(argv, args)
        if unknown:
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        if file is not None:
            file.complete(args)
        return args

    def parser(self, *, only: str | None = None) -> argparse.ArgumentParser:
        """Return the parser.

        Args:
            only: The one command whose options are added (default: those of all commands).
        """
        parser = ArgumentParser(
            prog=self.name,
            usage="%(prog)s [-h] [--version] [-v] [-q] [--log-level LEVEL] COMMAND ...",
            description=self.description,
            epilog=self._overview(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._add_message_options(parser)
        subparsers = parser.add_subparsers(
            required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog=self.name
        )
        for command in (command for group in self.groups.values() for command in group):
            if only in (None, command.name):
                import_module(command.module).add_parser(subparsers)
                self._complete(subparsers.choices[command.name], has_config=command.has_config)
            else:
                subparsers.add_parser(command.name)
        return parser

    def _complete(self, parser: argparse.ArgumentParser, *, has_config: bool) -> None:
        """Add the options that all commands share, also to the sub-commands."""
        parser.set_defaults(parser=parser, program=self)
        nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        # A command that is not installed takes any words, see commands/parsers/drive.py.
        if "-" in parser.prefix_chars:
            if has_config and not nested:
                add_config_argument(parser)
            self._add_message_options(parser.add_argument_group("messages"))
        for action in nested:
            for child in action.choices.values():
                self._complete(child, has_config=has_config)

    def _add_message_options(self, parser: argparse._ActionsContainer) -> None:
        absent = argparse.SUPPRESS
        parser.add_argument(
            "-v", "--verbose", action="count", default=absent,
            help="show details and log at level info (-vv: debug)",
        )  # fmt: skip
        parser.add_argument("-q", "--quiet", action="store_true", default=absent, help="log errors only")
        parser.add_argument(
            "--log-level", choices=_LEVELS, default=absent, help="log level (default: warning)"
        )
        parser.add_argument(
            "--version",
            action="version",
            version=f"jepa-edge {self.version}",
            help="show the version and exit",
        )

    def _overview(self) -> str:
        width = max(len(command.name) for group in self.groups.values() for command in group)
        lines: list[str] = []
        for title, commands in self.groups.items():
            lines += [f"{title}:", *(f"  {entry.name:{width}}  {entry.summary}" for entry in commands), ""]
        lines += [f"`{self.name} COMMAND --help` shows the options of a command.", _EXIT_STATUS]
        return "\n".join(lines)


def _leaf(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the command, or of its sub-command, that a command line names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for index, word in enumerate(argv):
                if word in action.choices:
                    return _leaf(action.choices[word], argv[index + 1 :])
    return parser


def _check_version_option(command: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Exit with a usage error if ``--version`` has a value, which that of a bundle would have."""
    for word, following in pairwise([*argv, "-"]):
        option, equals, value = word.partition("=")
        value = value if equals else following
        if option == "--version" and (equals or not value.startswith("-")):
            others = [
                name
                for name in command._option_string_actions
                if name.endswith("-version") and name != option
            ]
            advice = f": use {' or '.join(others)}" if others else ""
            command.error(f"argument --version: takes no value, got {value!r}{advice}")


def _configure_logging(args: argparse.Namespace) -> None:
    chosen = "error" if args.quiet else ("warning", "info", "debug")[min(args.verbose, 2)]
    level = args.log_level or chosen
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s: %(message)s")
