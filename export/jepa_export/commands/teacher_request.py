"""The arguments of jepa-export build --teacher."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from jepa_export.commands.build_student import variant_arguments
from jepa_export.teachers.checkpoints import Settings


@dataclass(frozen=True)
class EncoderTime:
    """What the encoder of a teacher reads (``--time``).

    Attributes:
        frames: Frames of a clip; None: a still, or for a causal encoder the frames of the predictor.
        causal: Whether the encoder reads the clip step by step, with a cache.
    """

    frames: int | None = None
    causal: bool = False

    @classmethod
    def parse(cls, text: str) -> EncoderTime:
        """Return the value of the option ``text``.

        Raises:
            ValueError: It is neither ``still`` nor ``clip:N``, ``causal`` nor ``causal:N``.
        """
        if text in ("still", "causal"):
            return cls(causal=text == "causal")
        kind, _, count = text.partition(":")
        if kind not in ("clip", "causal") or not count.isdecimal() or int(count) < 1:
            raise ValueError(f"must be still, clip:N, causal or causal:N, such as clip:8, got {text!r}")
        return cls(int(count), kind == "causal")

    def __str__(self) -> str:
        """Return the value of the option."""
        kind = "causal" if self.causal else "still" if self.frames is None else "clip"
        return kind if self.frames is None else f"{kind}:{self.frames}"


STILL = EncoderTime()


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
        time: What the encoder reads.
        causal_encoder: Checkpoint of a trained causal encoder; None: the encoder of the teacher.
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
    time: EncoderTime = STILL
    causal_encoder: Path | None = None

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
            "--time": None if self.time == STILL else str(self.time),
            "--causal-encoder": self.causal_encoder and shlex.quote(self.causal_encoder.name),
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
