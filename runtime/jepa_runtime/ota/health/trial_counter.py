"""Counts attempts to open a model, in the process that opens it.

A model that takes the machine down while it is opened, or soon after, leaves no process that could count: the
serving process starts first at each boot. Therefore an attempt is stored before the model is opened. It is
removed when the model has served for :data:`STABLE_S`, when it cannot be opened for an ordinary reason, and
when its process ends normally. No other process is needed.

A candidate is no longer opened after :data:`MAX_ATTEMPTS` attempts, until it was rolled back and an update
tries it again. The active, last known good model is no longer opened after attempts in :data:`MAX_BOOTS`
consecutive boots; several in one boot count once, because other processes can report a crashed process (see
operator_alarms.py). The previous model is served instead, if there is one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Timer

from jepa_runtime.errors import BackendError, StorageError
from jepa_runtime.ota import state
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.util import atomic_files

# The only folder of the robot that the serving process writes to.
FOLDER = "serving"
MAX_ATTEMPTS, MAX_BOOTS = 3, 5
# Longer than the updating process takes to start, which then counts attempts as well.
STABLE_S = 120.0
_SUFFIX, _MAX_BYTES = ".attempts", 1 << 12
_LOG = logging.getLogger(__name__)


class TrialCounter:
    """The attempts to open models of one robot: one file for each model in the folder ``serving``."""

    def __init__(self, store: SlotStore) -> None:
        self._store = store
        self._lock = Lock()
        self._timer: Timer | None = None
        self._sha256 = ""

    @contextmanager
    def opening(self, sha256: str) -> Iterator[None]:
        """Count an attempt to open a model, which the block opens.

        Raises:
            BackendError: There were too many attempts already.
            StorageError: The attempt of a candidate cannot be stored, so it must not be opened. The last
                known good model is opened all the same: a full or read-only disk must not stop the robot.
        """
        if why := self.exhausted(sha256):
            raise BackendError(why, code="serving.too_many_attempts")
        self.close()
        boots, boot = _load(self._path(sha256)), boot_id()
        is_good = self._store.good() == sha256
        try:
            if not (is_good and boot in boots):
                self._save(sha256, [*boots, boot])
        except StorageError as error:
            if not is_good:
                raise
            _LOG.warning("opening the active model without counting the attempt: %s", error)
        self._sha256 = sha256
        try:
            yield
        except Exception:
            self.close()
            raise
        with self._lock:
            self._timer = Timer(STABLE_S, self._forget, (sha256,))
            self._timer.daemon = True
            self._timer.start()

    def exhausted(self, sha256: str) -> str:
        """Return why a model is no longer opened, or an empty string."""
        boots = _load(self._path(sha256))
        different = len(set(boots))
        if self._store.good() == sha256:
            if different < MAX_BOOTS:
                return ""
            how = f"was opened in {different} consecutive boots"
            remedy = f", or remove {self._path(sha256)} to open this model again"
        else:
            if len(boots) < MAX_ATTEMPTS:
                return ""
            how, remedy = f"was opened {len(boots)} times in {different} boots", ""
        return (
            f"{self._store.folder(sha256)}: {how}, and each time its process or the machine stopped before "
            f"it had served for {STABLE_S:g} s: publish another release{remedy}"
        )

    def substitute_for(self, sha256: str) -> str:
        """Return the model to open instead of ``sha256``.

        This is ``sha256`` itself, unless it is the last known good model and is no longer opened, a previous
        model exists, and the robot is not pinned.
        """
        if sha256 != self._store.good() or not self.exhausted(sha256):
            return sha256
        with suppress(StorageError):
            stored = state.load(self._store.root / state.NAME)
            earlier = stored.previous
            if earlier is not None and not stored.pinned and self._store.complete(earlier.manifest_sha256):
                return earlier.manifest_sha256
        return sha256

    def close(self) -> None:
        """Cancel the attempt in progress, which does not count against the model."""
        with self._lock:
            sha256, self._sha256 = self._sha256, ""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if sha256:
            with suppress(StorageError):
                if before := _load(self._path(sha256))[:-1]:
                    self._save(sha256, before)
                else:
                    atomic_files.remove_quietly(self._path(sha256))

    def retain(self, sha256: str | None) -> None:
        """Forget the attempts of every other model."""
        for path in (self._store.root / FOLDER).glob(f"*{_SUFFIX}"):
            if path != self._path(sha256 or ""):
                atomic_files.remove_quietly(path)

    def _forget(self, sha256: str) -> None:
        """Forget the attempts of a model that has served for long enough."""
        with self._lock:
            if self._sha256 == sha256:
                self._sha256 = ""
        atomic_files.remove_quietly(self._path(sha256))

    def _path(self, sha256: str) -> Path:
        return self._store.root / FOLDER / f"{sha256}{_SUFFIX}"

    def _save(self, sha256: str, boots: list[str]) -> None:
        path = self._path(sha256)
        atomic_files.make_folder(path.parent)
        for left in path.parent.glob(f".*{_SUFFIX}.*.tmp"):
            atomic_files.remove_quietly(left)
        atomic_files.write(path, json.dumps(boots).encode() + b"\n")


def boot_id() -> str:
    """Return the kernel's id of the current boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _load(path: Path) -> list[str]:
    """Return the boots in which a model was opened, one per attempt; empty if the record is unreadable."""
    try:
        found = json.loads(atomic_files.read_small(path, _MAX_BYTES))
        if not isinstance(found, list):
            raise ValueError("not a list of boots")
        return [str(boot) for boot in found]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        _LOG.warning("%s: cannot be read, attempts are counted from 0: %s", path, error)
    return []
