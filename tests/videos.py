"""Video files for tests: encoded by ffmpeg, and real ones from Debian packages."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

PATTERN = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=2")
"""Input options of ffmpeg: 50 frames at 25 Hz."""
UNEVEN = ("-vf", "setpts='if(lt(N,20),N/25,if(lt(N,35),4+N/5,10+N/2))/TB'", "-fps_mode", "vfr")
"""Output options for the times of :data:`UNEVEN_S`."""
UNEVEN_S = [n / 25 if n < 20 else 4 + n / 5 if n < 35 else 10 + n / 2 for n in range(50)]


def ffmpeg(path: Path, *options: str) -> Path:
    """Encode a video with the command ``ffmpeg``, or skip the test if it is not installed."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("ffmpeg, which encodes the clip, is not installed (Debian package ffmpeg)")
    command = [program, "-v", "error", "-threads", "1", *options, str(path)]
    result = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if "Unknown encoder" in result.stderr:
        pytest.skip(f"this ffmpeg lacks an encoder: {result.stderr.splitlines()[0]}")
    assert result.returncode == 0, result.stderr
    return path


def packaged(package: str, name: str, folder: Path) -> Path:
    """Return the file ``name`` of a Debian package, in ``folder`` if it is compressed, or skip the test."""
    if shutil.which("dpkg") is not None:
        listed = subprocess.run(["dpkg", "-L", package], check=False, capture_output=True, text=True).stdout
        for path in map(Path, listed.splitlines()):
            if path.name == name and path.is_file():
                return path
            if path.name == f"{name}.gz" and path.is_file():
                (folder / name).write_bytes(gzip.decompress(path.read_bytes()))
                return folder / name
    pytest.skip(f"{name} is not installed (Debian package {package})")
