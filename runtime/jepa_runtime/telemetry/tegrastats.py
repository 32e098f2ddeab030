"""NVIDIA's ``tegrastats``: where a Jetson tells something to this tool only.

Of a line are read: ``EMC_FREQ 24%@2133``, ``GR3D_FREQ 45%@[611,0]``, ``VDD_IN 5000mW/4990mW`` (now/mean); the
rest is told by files too. Since JetPack 4 the unit of power was added, and the clocks of the GPU's clusters
came in brackets.
"""

from __future__ import annotations

import re
import subprocess
import time
from functools import partial
from threading import Event, Thread

from jepa_runtime.telemetry.power import rail_probes
from jepa_runtime.telemetry.probes import Found, Probe
from jepa_runtime.telemetry.sysfs import Files

_PATH = "usr/bin/tegrastats"
_PATIENCE_S = 3.0

_ENGINE = re.compile(r"\b(EMC|GR3D2?)_FREQ ([0-9]{1,3})%(?:@\[?([0-9,]{1,40})\]?)?")
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) +(-?[0-9]{1,9})(?:mW)?/-?[0-9]{1,9}(?:mW)?(?!\S)")
_ENGINES = {"EMC": "emc", "GR3D": "gpu", "GR3D2": "gpu2"}


def parse_tegrastats(line: str) -> dict[str, float]:
    """The values of a line by the names that readings have; what it does not hold is not there.

    Units: ``… load`` in %, ``… frequency`` in MHz, ``… power`` in W (now, not the mean). Rails that are not
    connected are left out.
    """
    values: dict[str, float] = {}
    for engine, load, clocks in _ENGINE.findall(line):
        values[f"{_ENGINES[engine]} load"] = float(load)
        if known := [float(clock) for clock in clocks.split(",") if 0 < len(clock) < 10]:
            values[f"{_ENGINES[engine]} frequency"] = max(known)
    for rail, milliwatts in _RAIL.findall(line):
        if rail != "NC":
            values[f"{rail} power"] = int(milliwatts) / 1e3
    return values


class Tegrastats:
    """A running ``tegrastats``, which has told its first line; :meth:`close` ends it.

    Raises:
        OSError: it is not installed, or cannot be started.
    """

    def __init__(self, files: Files, *, period_s: float) -> None:
        command = [str(files.root / _PATH), "--interval", str(max(1, round(period_s * 1e3)))]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
        )
        self._patience_s = _PATIENCE_S + period_s
        self._told_s = time.monotonic()
        self._first = Event()
        self._values: dict[str, float] = {}
        self._reader = Thread(target=self._follow, name="tegrastats", daemon=True)
        self._reader.start()
        self._first.wait(self._patience_s)

    def probes(self) -> list[Found]:
        """Probes of the rails, the loads of GPU and memory controller, and their frequencies."""
        rails = {
            name.removesuffix(" power"): partial(self._value, name)
            for name in self._values
            if name.endswith(" power")
        }
        engines: list[Found] = [
            Probe(f"{engine} {what}", unit, partial(self._value, f"{engine} {what}"))
            for engine in _ENGINES.values()
            for what, unit in (("load", "%"), ("frequency", "MHz"))
            if f"{engine} {what}" in self._values
        ]
        return rail_probes(rails) + engines

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _value(self, name: str) -> float | None:
        if not self._reader.is_alive():
            raise OSError("tegrastats has ended")
        if time.monotonic() - self._told_s > self._patience_s:
            raise OSError("tegrastats has fallen silent")
        return self._values.get(name)

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._values, self._told_s = parse_tegrastats(line), time.monotonic()
                self._first.set()
        self._first.set()
