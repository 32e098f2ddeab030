"""A report of episodes that is written on the way, so that an interrupted run continues where it was."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.util import atomic_files

_SAVE_EVERY_S = 10.0

# Values of each episode by group (a level, a latency) and driver, one episode after the other.
Drives = dict[str, dict[str, list[list[Any]]]]
Summary = Callable[[str, str, Sequence[Any]], dict[str, Any]]


class ResumableReport:
    """The report, which is also what a run continues from.

    Args:
        path: Its file.
        fields: What it has in addition to the results; ``settings`` identify the run.
        columns: Names of the values of an episode; one is ``outcome``.
        summarize: Returns the row of a group, a driver and its episodes.

    Attributes:
        fields: The same as the argument; may be changed.
        earlier: The report that it continues; empty: there is none.
        drives: The episodes so far.

    Raises:
        JepaRuntimeError: The file belongs to other settings.
    """

    def __init__(
        self, path: Path, fields: dict[str, Any], columns: Sequence[str], summarize: Summary
    ) -> None:
        self.fields = fields
        self._path, self._columns, self._summarize = path, columns, summarize
        self._saved_s = time.monotonic()
        self.earlier: dict[str, Any] = {}
        self.drives: Drives = {}
        if not path.exists():
            return
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier.get("settings") != fields["settings"]:
            raise JepaRuntimeError(
                f"{path}: is the report of another bundle, world or seed: remove it, or choose another file "
                "with --json",
                code="benchmark.other_settings",
            )
        self.earlier, self.drives = earlier, earlier["drives"]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        rows = [
            self._summarize(group, driver, episodes)
            | {"outcomes": dict(Counter(each.outcome for each in episodes).most_common())}
            for group, results in self.drives.items()
            for driver, found in results.items()
            if (episodes := [self._named(each) for each in found])
        ]
        return self.fields | {"rows": rows, "columns": list(self._columns), "drives": self.drives}

    def save(self, *, now: bool = False) -> None:
        """Write the report, unless it was written a moment ago."""
        if now or time.monotonic() - self._saved_s > _SAVE_EVERY_S:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic_files.write(self._path, (json.dumps(self.as_dict()) + "\n").encode())
            self._saved_s = time.monotonic()

    def _named(self, values: Sequence[Any]) -> Any:
        return SimpleNamespace(**dict(zip(self._columns, values, strict=True)))
