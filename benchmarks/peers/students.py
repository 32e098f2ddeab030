"""Bundles of students with random weights: speed at real size needs no training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jepa_runtime.errors import JepaRuntimeError

OUT = Path(__file__).resolve().parents[2] / "out"


def vit_s(only: str | None = None) -> Path:
    """Return the folder of the ViT-S-class bundle in out/, built if it is missing; ``only``: its only
    variant.

    Raises:
        JepaRuntimeError: It could not be built.
    """
    return student(
        "_".join(["vit_s", *(only or "").split("/")[1:]]), "vit_s", *(["--only", only] if only else [])
    )


def student(folder_name: str, name: str, *options: str) -> Path:
    """Return the folder of the bundle of student ``name`` in out/, built with these options if it is missing.

    Raises:
        JepaRuntimeError: It could not be built.
    """
    folder = OUT / folder_name
    if not folder.exists():
        command = "import sys; from jepa_export.cli import main; sys.exit(main())"
        options = ("build", "--student", name, "--untrained", "--output", str(folder), *options)
        if subprocess.run([sys.executable, "-c", command, *options], check=False).returncode:
            raise JepaRuntimeError(
                f"{folder} could not be built (jepa-export {' '.join(options)}): give a --bundle"
            )
    return folder
