"""Attempts to open a model, counted by the process that opens it.

A model that takes the machine down while it is opened, or soon after, leaves no process that could count:
the serving process starts first at each boot. So an attempt is on the disk before the model is opened. It
is removed again when the model has served for :data:`STABLE_S`, when it cannot be opened for an ordinary
reason, and when its process ends as it was asked to. No other process is needed for that.

A candidate is not opened any more after :data:`MOST_ATTEMPTS` attempts, until it was rolled back and an
update tries it again. The active model, the last known good one, is not opened any more after attempts in
:data:`MOST_BOOTS` boots in a row; several in one boot count once, since a process that crashes leaves others
to report it (see alarms.py). The model that was good before it serves instead or, where there is none, none
does.
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

# The serving process writes into this folder of the robot, and into no other.
FOLDER = "serving"
MOST_ATTEMPTS, MOST_BOOTS = 3, 5
# Longer than the updating process takes to start, which counts attempts as well from then on.
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
        """Count an attempt to open a model, and open it in the block.

        Raises:
            BackendError: there were too many attempts already.
            StorageError: the attempt cannot be recorded, so a candidate must not be opened. The active model
                is: a disk that is full or read-only must not take the robot out of service.
        """
        if why := self.exhausted(sha256):
            raise BackendError(why)
        self.close()
        boots, boot = _load(self._path(sha256)), boot_id()
        is_good = self._store.good() == sha256
        try:
            if not (is_good and boot in boots):
                self._save(sha256, [*boots, boot])
        except StorageError as error:
            if not is_good:
                raise
            _LOG.warning("the active model is opened, and the attempt is not counted: %s", error)
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
        """Return why a model is not to be opened any more; empty: it may be."""
        boots = _load(self._path(sha256))
        different = len(set(boots))
        if self._store.good() == sha256:
            if different < MOST_BOOTS:
                return ""
            how = f"was opened in {different} boots in a row"
            cure = f", or remove {self._path(sha256)} to open this one again"
        else:
            if len(boots) < MOST_ATTEMPTS:
                return ""
            how, cure = f"was opened {len(boots)} times, in {different} boots", ""
        return (
            f"{self._store.folder(sha256)}: {how}, and each time its process or the machine stopped before "
            f"it had served for {STABLE_S:g} s: publish another release{cure}"
        )

    def instead_of(self, sha256: str) -> str:
        """Return the model to open where ``sha256`` is wanted: that one or, if it is the last known good
        model and not to be opened any more, the one that was good before it, if there is one and the robot is
        not pinned."""
        if sha256 != self._store.good() or not self.exhausted(sha256):
            return sha256
        with suppress(StorageError):
            stored = state.load(self._store.root / state.NAME)
            earlier = stored.previous
            if earlier is not None and not stored.pinned and self._store.complete(earlier.manifest_sha256):
                return earlier.manifest_sha256
        return sha256

    def close(self) -> None:
        """End the attempt in progress, which is no fault of the model."""
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
        """Forget the attempts to open any other model than this one."""
        for path in (self._store.root / FOLDER).glob(f"*{_SUFFIX}"):
            if path != self._path(sha256 or ""):
                atomic_files.remove_quietly(path)

    def _forget(self, sha256: str) -> None:
        """This model has served for long enough."""
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
    """The kernel's name for the run of the machine since its last start."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def _load(path: Path) -> list[str]:
    """The boots in which a model was opened, one for each attempt that counts; none where the record cannot
    be read, which replaces it."""
    try:
        found = json.loads(atomic_files.read_small(path, _MAX_BYTES))
        if not isinstance(found, list):
            raise ValueError("no list of boots")
        return [str(boot) for boot in found]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        _LOG.warning("%s: cannot be read, attempts are counted from 0: %s", path, error)
    return []
