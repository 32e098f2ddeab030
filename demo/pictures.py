"""Draw futures.png from a recording of the demo: camera images, predictions and what then happened.

Equivalent to ``jepa-runtime report demo.mcap --png futures.png``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.reports import draw_run
from jepa_runtime.visualization import read_run


def draw(recording: Path, target: Path) -> str:
    """Draw ``target`` from ``recording``; return why it failed, or an empty string."""
    try:
        draw_run(read_run(recording), target)
    except JepaRuntimeError as error:
        return f"(not drawn: {error})"
    return ""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recording", type=Path, help="recording of the demo (demo.mcap)")
    parser.add_argument("target", type=Path, help="output file (PNG)")
    arguments = parser.parse_args()
    note = draw(arguments.recording, arguments.target)
    print(note or arguments.target)
    return int(bool(note))


if __name__ == "__main__":
    sys.exit(main())
