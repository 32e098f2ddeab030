"""The options of a command in a YAML file: ``--config FILE``.

A key is the name of an option without the leading dashes, or that of a positional in lower case. The command
line wins over the file: an option there replaces the value in the file, also if that is a list.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jepa_runtime.commands.exit_status import UsageError
from jepa_runtime.util.argument_parser import ArgumentParser

_ABSENT = object()
_EXCLUDED = ("help", "version", "verbose", "quiet", "log_level", "config")


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="read options from a YAML file, by their names without dashes; the command line wins over it",
    )


def config_path(argv: Sequence[str]) -> Path | None:
    """Return the file that ``--config`` names in a command line."""
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    add_config_argument(parser)
    try:
        path: Path | None = parser.parse_known_args(argv)[0].config
    except argparse.ArgumentError:
        # The parser of the command reports the missing name.
        return None
    return path


class ConfigFile:
    """Options in a file, checked against the parser of a command.

    Args:
        path: The YAML file.
        parser: The parser of the command; options that the file has become optional on the command line.

    Raises:
        UsageError: The file cannot be read, or it has a key or a value that the command does not accept.
    """

    def __init__(self, path: Path, parser: argparse.ArgumentParser) -> None:
        self._path = path
        content = _read(path)
        actions = {_key(action): action for action in parser._actions if action.dest not in _EXCLUDED}
        for key in content:
            if key not in actions:
                raise UsageError(
                    f"{path}: unknown key {key!r}: {_suggestion(key, actions)}",
                    code="config_file.unknown_key",
                )
        self._values = {
            actions[key].dest: self._value(key, value, actions[key], parser) for key, value in content.items()
        }
        # Of each option, those that exclude it.
        self._rivals: dict[str, list[argparse.Action]] = {}
        for group in parser._mutually_exclusive_groups:
            chosen = [_key(action) for action in group._group_actions if action.dest in self._values]
            if len(chosen) > 1:
                raise UsageError(
                    f"{path}: {' and '.join(chosen)} exclude each other", code="config_file.conflicting_keys"
                )
            if chosen:
                group.required = False
                self._rivals |= {action.dest: group._group_actions for action in group._group_actions}
        relaxed = {actions[key].dest: actions[key] for key in content}
        relaxed |= {action.dest: action for rivals in self._rivals.values() for action in rivals}
        self._defaults = {name: action.default for name, action in relaxed.items()}
        for action in relaxed.values():
            action.required = False
            # The namespace then shows what is on the command line. The parser converts a default that is
            # text if it belongs to a positional.
            action.default = argparse.SUPPRESS if action.option_strings else _ABSENT
            if not action.option_strings and action.nargs is None:
                action.nargs = "?"

    def complete(self, args: argparse.Namespace) -> None:
        """Add what the command line leaves out to arguments that the parser has parsed."""
        given = {name for name in self._defaults if getattr(args, name, _ABSENT) is not _ABSENT}
        for name in self._defaults.keys() - given:
            is_excluded = any(action.dest in given for action in self._rivals.get(name, ()))
            setattr(
                args,
                name,
                self._defaults[name] if is_excluded else self._values.get(name, self._defaults[name]),
            )

    def _value(self, key: str, value: Any, action: argparse.Action, parser: argparse.ArgumentParser) -> Any:
        """Return the value of an option as the parser would."""
        if isinstance(value, bool) and action.nargs in (0, "?"):
            return action.const if value else action.default
        is_append = isinstance(action, argparse._AppendAction)
        is_list = is_append or action.nargs in ("+", "*") or isinstance(action.nargs, int)
        entries = value if isinstance(value, list) and is_list else [value]
        if action.nargs == 0 or not all(isinstance(entry, str | int | float) for entry in entries):
            expected = (
                "true or false" if action.nargs == 0 else "a value, or a list if the option is repeatable"
            )
            raise UsageError(
                f"{self._path}: {key} must be {expected}, got {value!r}", code="config_file.invalid_value"
            )
        if isinstance(action.nargs, int) and action.nargs not in (0, len(entries)):
            raise UsageError(
                f"{self._path}: {key} must be a list of {action.nargs} values, got {value!r}",
                code="config_file.invalid_value",
            )
        words = [str(entry) for entry in entries]
        try:
            if is_append:
                return [parser._get_values(action, [word]) for word in words]
            return parser._get_values(action, words)
        except argparse.ArgumentError as error:
            raise UsageError(
                f"{self._path}: {key}: {error.message}", code="config_file.invalid_value"
            ) from error


def _read(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}", code="config_file.unreadable"
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a YAML file: {error}", code="config_file.not_yaml") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(
            f"{path}: must contain lines of the form OPTION: VALUE", code="config_file.not_a_mapping"
        )
    return content


def _key(action: argparse.Action) -> str:
    """Return the name of an option in the file: its long form without dashes, or that of a positional."""
    long = [word.removeprefix("--") for word in action.option_strings if word.startswith("--")]
    return long[0] if long else action.dest


def _suggestion(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
