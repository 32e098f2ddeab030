"""Robots to update: their folders, their offers, and their simulated environment."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from jepa_runtime.bundle import MANIFEST_NAME, Bundle, seal
from jepa_runtime.errors import FetchError, MachineBusyError, ReleaseRejectedError, UnlistedTargetError
from jepa_runtime.ota import robot
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.health.serving_interface import Health
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.release import (
    Budgets,
    Release,
    Robot,
    check_compatible,
    manifest_fields,
    pointer_path,
    release_path,
)
from jepa_runtime.ota.robot import UpdateCallbacks, UpdateComponents, UpdateOptions
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport.fetch import Progress
from jepa_runtime.ota.trust.metadata import Floors

CHANNEL, MODEL, HARDWARE = "stable", "toy", "bench"
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def settings(**fields: Any) -> Config:
    """Return the config of a robot whose repository is elsewhere."""
    return Config(
        **{
            "repository": "/nowhere",
            "channel": CHANNEL,
            "model_id": MODEL,
            "device_id": "robot-1",
            "hardware_ids": (HARDWARE,),
            "keep_slots": 0,
        }
        | fields
    )


def variant(toy: Path, folder: Path, version: str) -> Bundle:
    """Build the toy bundle under another version, with one different file."""
    shutil.copytree(toy, folder)
    (folder / "report.json").write_text(json.dumps({"version": version}), encoding="utf-8")
    manifest = Bundle.open(toy).manifest.model_dump(mode="json")
    return seal(folder, manifest | {"version": version})


def release_of(bundle: Bundle, seq: int, **fields: Any) -> Release:
    """Return the pointer to a bundle in a channel."""
    manifest = bundle.manifest
    return Release.model_validate(
        {
            "schema_version": 1,
            "model_id": manifest.model_id,
            "version": manifest.version,
            "release_seq": seq,
            "folder": f"models/{CHANNEL}/{manifest.model_id}/{manifest.version}",
            "manifest_sha256": bundle.sha256,
            "runtime_abi": (1, 1),
            "hardware_ids": ("any",),
            **manifest_fields(manifest),
            "budgets": Budgets(),
            "rollout": {"percent": 100.0, "salt": "s"},
        }
        | fields
    )


def release(seq: int = 2, manifest_sha256: str = "1" * 64) -> Release:
    """Return the pointer to a bundle that nothing opens."""
    return Release.model_validate(
        {
            "schema_version": 1,
            "model_id": "toy",
            "version": f"{seq}.0.0",
            "release_seq": seq,
            "folder": "models/stable/toy/2",
            "manifest_sha256": manifest_sha256,
            "runtime_abi": (1, 1),
            "hardware_ids": ("any",),
            "interface": "a" * 64,
            "variants": ("openvino/int8",),
            "golden_sha256": "b" * 64,
            "budgets": {},
            "rollout": {"percent": 100.0, "salt": "s"},
        }
    )


def factory(root: Path, bundle: Bundle | None, **fields: Any) -> Path:
    """Set up a robot with the active model ``bundle``, or without a model."""
    path = None if bundle is None else bundle.path
    provision(root, settings(**fields), b"trusted by nobody", bundle=path, now=lambda: NOW)
    return root


class Repository:
    """A :class:`~jepa_runtime.ota.trust.repository_trust.RepositoryTrust` without signatures.

    Attributes:
        files: Contents by path.
        fetched: The paths of requested large files.
        num_requests: Number of refreshes.
        seen: The result of a refresh.
        error: Raised by every call, if there is one.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.num_requests = 0
        self.seen = Floors({"timestamp": 1}, NOW)
        self.floors: Floors | None = None
        self.error: Exception | None = None

    def publish(self, bundle: Bundle, seq: int, **fields: Any) -> Release:
        release = release_of(bundle, seq, **fields)
        for record in bundle.manifest.files:
            self.files[f"{release.folder}/{record.path}"] = (bundle.path / record.path).read_bytes()
        self.files[release.manifest_target] = (bundle.path / MANIFEST_NAME).read_bytes()
        self.point(release)
        return release

    def point(self, release: Release) -> None:
        """Make a release the latest."""
        for path in (pointer_path(CHANNEL, MODEL), release_path(CHANNEL, MODEL, release.version)):
            self.files[path] = release.model_dump_json().encode()

    def refresh(self, floors: Floors) -> Floors:
        self.floors = floors
        self.num_requests += 1
        if self.error is not None:
            raise self.error
        return replace(self.seen, release_seqs=floors.release_seqs)

    def read(self, path: str, max_bytes: int) -> bytes:
        if self.error is not None:
            raise self.error
        if path not in self.files:
            raise UnlistedTargetError(f"{path}: not listed")
        return self.files[path]

    def download(self, path: str, part: Path, progress: Progress | None = None) -> None:
        self.fetched.append(path)
        content = self.read(path, 0)
        part.write_bytes(content)
        if progress is not None:
            progress(len(content), len(content))


class Gate:
    """A gate that rejects configured versions.

    Attributes:
        bad: Versions to reject, and the part of the gate (check, probe, shadow).
        calls: The executed parts.
        comparisons: The number of earlier comparisons, for each comparison.
        probed: The budgets and the active model of each probe.
        busy: Whether the machine is too busy for a probe to decide.
    """

    def __init__(self, bad: Mapping[str, str] | None = None) -> None:
        self.bad = dict(bad or {})
        self.calls: list[str] = []
        self.comparisons: list[int] = []
        self.probed: list[tuple[Budgets, Path | None]] = []
        self.busy = False

    def check_release(self, release: Release, robot: Robot) -> None:
        check_compatible(release, robot)

    def check(self, bundle: Bundle, release: Release, robot: object) -> None:
        self._judge("check", bundle.path)

    def probe(self, folder: Path, budgets: Budgets, active: Path | None) -> dict[str, Any]:
        self.probed.append((budgets, active))
        self._judge("probe", folder)
        if self.busy and budgets.latency_p99_ms is not None:
            raise MachineBusyError("p99 is 105.9 ms: undecided")
        return {"latency_p99_ms": 1.0}

    def shadow(
        self, current: Path, candidate: Path, max_error_ratio: float, *, comparisons: int
    ) -> dict[str, Any] | None:
        self.comparisons.append(comparisons)
        self._judge("shadow", candidate)
        return None

    def _judge(self, part: str, folder: Path) -> None:
        self.calls.append(part)
        version = Bundle.open(folder).manifest.version
        if self.bad.get(version) == part:
            raise ReleaseRejectedError(f"{version} does not pass {part}")


class Serving:
    """A serving process; a version in ``bad`` fails in service."""

    def __init__(self, bad: tuple[str, ...] = ()) -> None:
        self.bad = bad
        self.serves: Bundle | None = None
        self.swaps: list[str] = []
        self.may_switch = True

    def swap(self, folder: Path) -> None:
        self.serves = Bundle.open(folder)
        self.swaps.append(self.serves.manifest.version)

    def health(self) -> Health:
        if self.serves is None:
            return Health(serves="0" * 64, may_switch=self.may_switch)
        failure = "it computes NaN" if self.serves.manifest.version in self.bad else ""
        return Health(serves=self.serves.sha256, failure=failure, may_switch=self.may_switch)


class Clock:
    """A clock that advances during sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float, /) -> None:
        self.seconds += seconds

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)


def client_arguments(
    *,
    options: UpdateOptions | None = None,
    callbacks: UpdateCallbacks | None = None,
    components: UpdateComponents | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return the arguments of ``open_client``, with ``fields`` assigned to their group."""
    groups: dict[str, Any] = {
        "options": options or UpdateOptions(),
        "callbacks": callbacks or UpdateCallbacks(),
        "components": components or UpdateComponents(),
    }
    arguments = dict(fields)
    for group, values in groups.items():
        names = vars(values).keys() & fields.keys()
        groups[group] = replace(values, **{name: arguments.pop(name) for name in names})
    return groups | arguments


class Site:
    """A robot, its repository, and a clock."""

    def __init__(self, root: Path, bundle: Bundle | None, **fields: Any) -> None:
        self.root = factory(root, bundle, **fields)
        self.repository, self.gate, self.clock = Repository(), Gate(), Clock()
        self.serving: Serving | None = None
        self.reports: list[str] = []

    def opened(self, **arguments: Any) -> Any:
        return robot.open_client(
            self.root,
            **client_arguments(
                **{
                    "repository": self.repository,
                    "gate": self.gate,
                    "serving": self.serving,
                    "on_end": lambda state: self.reports.append(state.result),
                    "now": self.clock.now,
                    "clock": self.clock,
                }
                | arguments
            ),
        )

    def update(self, **arguments: Any) -> State:
        with self.opened(**arguments) as client:
            return client.update()

    @property
    def version(self) -> str:
        """Return the active model after opening it."""
        return Bundle.open(self.root / "current").manifest.version

    @property
    def good(self) -> str:
        return Bundle.open(self.root / "good").manifest.version

    @property
    def slots(self) -> int:
        return len(SlotStore(self.root).present())


class Died(BaseException):
    """The process is killed."""


def dies_in(phase: Phase) -> Callable[[State, str], None]:
    """Return a callback that kills the process as soon as an update is in ``phase``."""

    def tell(state: State, _: str) -> None:
        if state.phase is phase:
            raise Died

    return tell


def unreachable() -> FetchError:
    return FetchError("https://updates.example: cannot be reached: try again")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
