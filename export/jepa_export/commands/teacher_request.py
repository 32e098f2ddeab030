"""What jepa-export build --teacher is asked for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from jepa_export.commands.build import forms


@dataclass(frozen=True, kw_only=True)
class TeacherRequest:
    """What the command line asked for. ``checkpoint`` None: random weights, ``depth`` blocks of them (None:
    all); ``frames`` is the length of the clip; None: as usual for the teacher."""

    teacher: str
    checkpoint: str | None
    depth: int | None
    out: Path
    frames: int | None
    horizon: int | None
    seed: int
    calibration: str
    targets: tuple[str, ...]
    only: str | None
    accept_non_commercial: bool

    @property
    def command(self) -> str:
        """The command that makes the same bundle; of a checkpoint on this machine the name alone."""
        if self.checkpoint is None:
            weights = f"--untrained --seed {self.seed}" + (f" --depth {self.depth}" if self.depth else "")
        else:
            local = Path(self.checkpoint).expanduser()
            weights = f"--checkpoint {shlex.quote(local.name if local.exists() else self.checkpoint)}"
        accepted = " --accept-non-commercial" if self.accept_non_commercial else ""
        lengths = {"--frames": self.frames, "--horizon": self.horizon}
        told = "".join(f" {option} {length}" for option, length in lengths.items() if length is not None)
        return (
            f"jepa-export build --teacher {self.teacher} {weights}{told} "
            f"--calibration {shlex.quote(self.calibration)}{forms(self.targets, self.only)}{accepted}"
        )
