"""The command ``jepa-runtime``."""

from __future__ import annotations

from collections.abc import Sequence

import jepa_runtime
from jepa_runtime.commands.program import Command, Program

_COMMANDS = "jepa_runtime.commands.parsers"

PROGRAM = Program(
    name="jepa-runtime",
    description="Run JEPA world models on a robot: latent state and predicted futures in real time.",
    version=jepa_runtime.__version__,
    groups={
        "Run a model": [
            Command("run", "run a model on a source in real time", f"{_COMMANDS}.run", has_config=True),
            Command(
                "record",
                "run a model and record inputs and outputs to a bag",
                f"{_COMMANDS}.record",
                has_config=True,
            ),
            Command(
                "drive",
                "evaluate a model in closed loop in a simulated world",
                f"{_COMMANDS}.drive",
                has_config=True,
            ),
            Command(
                "teach",
                "record a route that a robot can repeat",
                f"{_COMMANDS}.teach",
                has_config=True,
            ),
            Command(
                "repeat",
                "repeat a taught route in a simulated world",
                f"{_COMMANDS}.repeat",
                has_config=True,
            ),
            Command("view", "show a run in Rerun, recorded or live", f"{_COMMANDS}.view"),
        ],
        "Analyze recordings": [
            Command(
                "replay",
                "recompute the outputs of a recording, bit for bit",
                f"{_COMMANDS}.replay",
                has_config=True,
            ),
            Command(
                "whatif",
                "predict other actions from a moment in a recording",
                f"{_COMMANDS}.whatif",
                has_config=True,
            ),
            Command("report", "write a report of a recorded run", f"{_COMMANDS}.report"),
        ],
        "Measure performance": [
            Command("profile", "measure latency on this machine", f"{_COMMANDS}.profile", has_config=True),
            Command("compare", "compare latency profiles", f"{_COMMANDS}.compare"),
        ],
        "Manage bundles": [
            Command("info", "show the contents of a bundle", f"{_COMMANDS}.info"),
            Command("verify", "verify a bundle and its outputs on this machine", f"{_COMMANDS}.verify"),
            Command(
                "calibrate",
                "learn error bounds and alarms from recordings",
                f"{_COMMANDS}.calibrate",
                has_config=True,
            ),
            Command(
                "build-engine", "build the engines of a bundle on this device", f"{_COMMANDS}.build_engine"
            ),
        ],
        "Maintain a robot": [
            Command("doctor", "check the machine for real-time inference", f"{_COMMANDS}.doctor"),
            Command("configs", "install or remove the system files of a robot", f"{_COMMANDS}.configs"),
            Command("update", "update the model of a robot over the air", f"{_COMMANDS}.update"),
        ],
        "Use a shell": [
            Command("completion", "print a completion script for bash or zsh", f"{_COMMANDS}.completion"),
        ],
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Its arguments (default: those of the process).

    Returns:
        The exit status, see :mod:`~jepa_runtime.commands.exit_status`.
    """
    return PROGRAM.main(argv)
