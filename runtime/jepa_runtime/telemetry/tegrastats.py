"""Probes that read NVIDIA's ``tegrastats``, for quantities that a Jetson does not expose in files.

The parsed fields are ``EMC_FREQ 24%@2133``, ``GR3D_FREQ 45%@[611,0]`` and ``VDD_IN 5000mW/4990mW`` (current
and mean); all others are in files, too. JetPack 4 has no unit of power and no brackets around the clocks of
the GPU clusters.
"""

from __future__ import annotations

import re
import subprocess
import time
from functools import partial
from threading import Event, Thread

from jepa_runtime.telemetry.power import rail_probes
from jepa_runtime.telemetry.probes import Probe, ProbeOrReading
from jepa_runtime.telemetry.sysfs import Files

_PATH = "usr/bin/tegrastats"
_TIMEOUT_S = 3.0

_ENGINE = re.compile(r"\b(EMC|GR3D2?)_FREQ ([0-9]{1,3})%(?:@\[?([0-9,]{1,40})\]?)?")
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) +(-?[0-9]{1,9})(?:mW)?/-?[0-9]{1,9}(?:mW)?(?!\S)")
_ENGINES = {"EMC": "emc", "GR3D": "gpu", "GR3D2": "gpu2"}


def parse_tegrastats(line: str) -> dict[str, float]:
    """Return the values of a line by name of the reading; fields that the line lacks are omitted.

    Units: ``… load`` in %, ``… frequency`` in MHz, ``… power`` in W (current, not mean). Rails that are not
    connected are omitted.
    """
    values: dict[str, float] = {}
    for engine, load, clocks in _ENGINE.findall(line):
        values[f"{_ENGINES[engine]} load"] = float(load)
        if valid := [float(clock) for clock in clocks.split(",") if 0 < len(clock) < 10]:
            values[f"{_ENGINES[engine]} frequency"] = max(valid)
    for rail, milliwatts in _RAIL.findall(line):
        if rail != "NC":
            values[f"{rail} power"] = int(milliwatts) / 1e3
    return values


class Tegrastats:
    """A running ``tegrastats`` process; construction waits for its first line.

    Raises:
        OSError: The tool is not installed, or cannot be started.
    """

    def __init__(self, files: Files, *, period_s: float) -> None:
        command = [str(files.root / _PATH), "--interval", str(max(1, round(period_s * 1e3)))]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
        self._timeout_s = _TIMEOUT_S + period_s
        self._updated_s = time.monotonic()
        self._first = Event()
        self._values: dict[str, float] = {}
        self._reader = Thread(target=self._follow, name="tegrastats", daemon=True)
        self._reader.start()
        self._first.wait(self._timeout_s)

    def probes(self) -> list[ProbeOrReading]:
        """Return probes of the rails, and of load and frequency of GPU and memory controller."""
        rails = {
            name.removesuffix(" power"): partial(self._value, name)
            for name in self._values
            if name.endswith(" power")
        }
        engines: list[ProbeOrReading] = [
            Probe(f"{engine} {what}", unit, partial(self._value, f"{engine} {what}"))
            for engine in _ENGINES.values()
            for what, unit in (("load", "%"), ("frequency", "MHz"))
            if f"{engine} {what}" in self._values
        ]
        return rail_probes(rails) + engines

    def close(self) -> None:
        """Terminate the process and wait for it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _value(self, name: str) -> float | None:
        if not self._reader.is_alive():
            raise OSError("tegrastats has exited")
        if time.monotonic() - self._updated_s > self._timeout_s:
            raise OSError(f"tegrastats has printed nothing for {self._timeout_s:g} s")
        return self._values.get(name)

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._values, self._updated_s = parse_tegrastats(line), time.monotonic()
                self._first.set()
        self._first.set()
