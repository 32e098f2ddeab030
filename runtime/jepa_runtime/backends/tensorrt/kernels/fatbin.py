"""The location of the compiled kernels.

Their file name contains the hash of their source, so that a kernel compiled from another source is not found,
rather than launched with the wrong arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jepa_runtime.errors import BackendError

PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE, Path("/var/lib/jepa-edge/kernels"))
"""Where compiled kernels are looked for, in this order."""


def source() -> bytes:
    """Return the CUDA source of the kernels, ``preprocess.cu``."""
    return (PACKAGE / "preprocess.cu").read_bytes()


def fatbin_name() -> str:
    """Return the file name that ``python -m jepa_export.targets.kernels`` compiles this source to."""
    return f"preprocess-{hashlib.sha256(source()).hexdigest()[:16]}.fatbin"


def find_fatbin(folders: Sequence[Path] = FOLDERS) -> Path:
    """Find the compiled kernels in the first of ``folders`` that contains them.

    Raises:
        BackendError: No folder contains them; the message has the command that compiles them. Images can
            still be resized on the CPU.
    """
    name = fatbin_name()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise BackendError(
        f"{name} is in none of {', '.join(map(str, folders))}: compile it with this machine's CUDA: "
        f"python -m jepa_export.targets.kernels {folders[-1]}",
        code="backend.kernel_not_found",
    )
