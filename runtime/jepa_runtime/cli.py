"""The command ``jepa-runtime``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import jepa_runtime
from jepa_runtime.commands import (
    build_engine,
    calibrate,
    compare,
    configs,
    doctor,
    drive,
    info,
    profile,
    record,
    replay,
    report,
    run,
    update,
    verify,
    view,
    whatif,
)
from jepa_runtime.commands.exit_status import status_of
from jepa_runtime.commands.standard_streams import make_streams_robust
from jepa_runtime.errors import JepaRuntimeError

_COMMANDS = (
    run,
    record,
    replay,
    whatif,
    report,
    view,
    profile,
    compare,
    verify,
    drive,
    info,
    calibrate,
    doctor,
    build_engine,
    update,
    configs,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: its arguments; those of the process if left out.

    Returns:
        The exit status, see :func:`~jepa_runtime.commands.exit_status.status_of`.
    """
    make_streams_robust()
    args = _parser().parse_args(argv)
    return status_of("jepa-runtime", lambda: int(args.run(args)), errors=(JepaRuntimeError,))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jepa-runtime",
        description="Runs a model bundle: latent state and predicted futures in real time.",
    )
    parser.add_argument("--version", action="version", version=f"jepa-edge {jepa_runtime.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser
