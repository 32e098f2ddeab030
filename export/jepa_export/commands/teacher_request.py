"""The arguments of jepa-export build --teacher."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from jepa_export.commands.build_student import variant_arguments
from jepa_export.teachers.checkpoints import Settings


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
        clip_frames: Frames that the encoder reads at once (``--time clip:N``); None: a still.
        seed: Seed of random weights and candidates.
        calibration: Source of frames.
        targets: Targets of the variants.
        only: One variant as TARGET/PRECISION; None: those of ``targets``.
        accept_non_commercial: Whether a license that forbids commercial use is accepted.
        settings: Settings that the weights do not show.
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
    settings: Settings
    clip_frames: int | None = None

    @property
    def command(self) -> str:
        """The command that builds the same bundle; local files appear by name, without their folder."""
        if self.checkpoint is None:
            weights = f"--untrained --seed {self.seed}" + (f" --depth {self.depth}" if self.depth else "")
        else:
            local = Path(self.checkpoint).expanduser()
            weights = f"--checkpoint {shlex.quote(local.name if local.exists() else self.checkpoint)}"
        accepted = " --accept-non-commercial" if self.accept_non_commercial else ""
        given = self.settings
        optional = {
            "--frames": self.frames,
            "--horizon": self.horizon,
            "--time": self.clip_frames and f"clip:{self.clip_frames}",
            "--training-config": given.training_config and shlex.quote(given.training_config.name),
            "--heads": given.heads,
            "--predictor-heads": given.predictor_heads,
            "--resolution": given.frame_size and f"{given.frame_size[0]}x{given.frame_size[1]}",
            "--max-frames": given.frames,
        }
        options = "".join(f" {option} {value}" for option, value in optional.items() if value is not None)
        return (
            f"jepa-export build --teacher {self.teacher} {weights}{options} "
            "--calibration "
            f"{shlex.quote(self.calibration)}{variant_arguments(self.targets, self.only)}{accepted}"
        )
