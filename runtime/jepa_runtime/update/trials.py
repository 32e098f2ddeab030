"""Attempts to serve a candidate, counted by the process that opens it.

A candidate that takes the machine down while it is opened, or soon after, leaves no process that could count:
the serving process starts first at each boot. So an attempt is on the disk before the candidate is opened. It
is removed again when the candidate has served for :data:`STABLE_S`, when it cannot be opened for an ordinary
reason, and when its process ends as it was asked to. After :data:`MOST_ATTEMPTS` the candidate is not opened
any more, until it was rolled back and an update tries it again. No other process is needed for that.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Timer

from jepa_runtime.errors import BackendError, StorageError
from jepa_runtime.update import durable
from jepa_runtime.update.store import Store

# The serving process writes into this folder of the robot, and into no other.
FOLDER = "serving"
MOST_ATTEMPTS = 3
# Longer than the updating process takes to start, which counts attempts as well from then on.
STABLE_S = 120.0
_NAME, _MAX_BYTES = f"{FOLDER}/attempts.json", 1 << 12
_LOG = logging.getLogger(__name__)


class Trials:
    """The attempts to serve the candidate of one robot: the slot that ``current`` names while ``good`` names
    another, or none."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.root / _NAME
        self._lock = Lock()
        self._timer: Timer | None = None
        self._sha256 = ""

    @contextmanager
    def opening(self, sha256: str) -> Iterator[None]:
        """Count an attempt, if the slot is a candidate, and open it in the block.

        Raises:
            BackendError: there were :data:`MOST_ATTEMPTS` attempts already.
            StorageError: the attempt cannot be recorded, so the candidate must not be opened.
        """
        self.close()
        if self._store.good() == sha256:
            yield
            return
        if why := self.exhausted(sha256):
            raise BackendError(why)
        self._save(sha256, [*_load(self._path, sha256), boot_id()])
        self._sha256 = sha256
        try:
            yield
        except Exception:
            self.close()
            raise
        with self._lock:
            self._timer = Timer(STABLE_S, self.forget)
            self._timer.daemon = True
            self._timer.start()

    def exhausted(self, sha256: str) -> str:
        """Why a candidate is not to be opened any more; empty: it may be."""
        boots = _load(self._path, sha256)
        if len(boots) < MOST_ATTEMPTS:
            return ""
        return (
            f"{self._store.folder(sha256)}: was opened {len(boots)} times, in {len(set(boots))} boots, and "
            f"each time its process or the machine stopped before it had served for {STABLE_S:g} s: publish "
            "another release"
        )

    def close(self) -> None:
        """End the attempt in progress, which is no fault of the candidate."""
        with self._lock:
            sha256, self._sha256 = self._sha256, ""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if sha256:
            with suppress(StorageError):
                self._save(sha256, _load(self._path, sha256)[:-1])

    def forget(self) -> None:
        """Forget all attempts: the candidate has served for long enough, or was committed to."""
        with self._lock:
            self._sha256 = ""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _save(self, sha256: str, boots: list[str]) -> None:
        durable.make_folder(self._path.parent)
        for left in self._path.parent.glob(f".{self._path.name}.*.tmp"):
            durable.give_up(left)
        content = {"manifest_sha256": sha256, "boots": boots}
        durable.write(self._path, json.dumps(content).encode() + b"\n")


def boot_id() -> str:
    """The kernel's name for the run of the machine since its last start."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _load(path: Path, sha256: str) -> list[str]:
    """The boots in which a candidate was opened, one for each attempt; none where the record cannot be read,
    which replaces it."""
    try:
        found = json.loads(durable.read_small(path, _MAX_BYTES))
        if found["manifest_sha256"] == sha256:
            return [str(boot) for boot in found["boots"]]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, LookupError) as error:
        _LOG.warning("%s: cannot be read, attempts are counted from 0: %s", path, error)
    return []
