"""Where the compiled kernels are. Their name holds the hash of their source: what was compiled from another
one is not found, rather than launched with arguments that it does not understand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jepa_runtime.errors import BackendError

PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE, Path("/var/lib/jepa-edge/kernels"))


def source() -> bytes:
    """The CUDA source of the kernels, ``preprocess.cu``."""
    return (PACKAGE / "preprocess.cu").read_bytes()


def fatbin_name() -> str:
    """The name of the file that ``python -m jepa_export.targets.kernels`` makes of this source."""
    return f"preprocess-{hashlib.sha256(source()).hexdigest()[:16]}.fatbin"


def find_fatbin(folders: Sequence[Path] = FOLDERS) -> Path:
    """The compiled kernels: the first of ``folders`` that has them.

    Raises:
        BackendError: none has; the message says how they are made. Images can still be prepared on the CPU.
    """
    name = fatbin_name()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise BackendError(
        f"{name} is in none of {', '.join(map(str, folders))}: compile it with this machine's CUDA, "
        f"python -m jepa_export.targets.kernels {folders[-1]}"
    )
