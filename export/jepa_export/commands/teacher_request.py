"""The arguments of jepa-export build --teacher."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from jepa_export.commands.build_student import variant_arguments


@dataclass(frozen=True, kw_only=True)
class TeacherRequest:
    """The arguments of the command.

    Attributes:
        teacher: Name of the teacher.
        checkpoint: File, folder or name on the Hub; None: random weights.
        depth: Blocks of a teacher with random weights; None: all.
        out: Folder of the bundle.
        frames: Length of the clip; None: the default of the teacher.
        horizon: Predicted steps; None: the default of the teacher.
        seed: Seed of random weights and candidates.
        calibration: Source of frames.
        targets: Targets of the variants.
        only: One variant as TARGET/PRECISION; None: those of ``targets``.
        accept_non_commercial: Whether a license that forbids commercial use is accepted.
    """

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
        """The command that builds the same bundle; a local checkpoint appears by name, without its folder."""
        if self.checkpoint is None:
            weights = f"--untrained --seed {self.seed}" + (f" --depth {self.depth}" if self.depth else "")
        else:
            local = Path(self.checkpoint).expanduser()
            weights = f"--checkpoint {shlex.quote(local.name if local.exists() else self.checkpoint)}"
        accepted = " --accept-non-commercial" if self.accept_non_commercial else ""
        lengths = {"--frames": self.frames, "--horizon": self.horizon}
        lengths_given = "".join(
            f" {option} {length}" for option, length in lengths.items() if length is not None
        )
        return (
            f"jepa-export build --teacher {self.teacher} {weights}{lengths_given} "
            "--calibration "
            f"{shlex.quote(self.calibration)}{variant_arguments(self.targets, self.only)}{accepted}"
        )
