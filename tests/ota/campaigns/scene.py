"""A robot in the middle of its life, a signed repository that offers it something, and what has to hold
whatever happens meanwhile.

===========  ==========================================================================================
update       2.0.0 serves, 3.0.0 is offered: from slots, by a delta and by download, over the gate and the
             switch, to the removal of 1.0.0
way back     3.0.0 has been switched to, and fails in service
rolled back   2.0.0 serves, and somebody wants 1.0.0 again
===========  ==========================================================================================

All is real but the engine: the repository and its signatures, the client, the disk. The server that a model
is switched to lives and dies with the process of the update, and starts from the link ``current``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from jepa_export.release import publish
from jepa_export.release.keys import KeyRing
from jepa_export.release.roles import Policy, init
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.ota import audit_log, config, robot, state
from jepa_runtime.ota.client import Client
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.storage import partial_file
from jepa_runtime.ota.storage.slots import SlotStore
from jepa_runtime.ota.transport import fetch
from jepa_runtime.ota.transport.repository_sources import Limits
from tests.ota import robots

VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
# A disk that does not dominate the run time; None: the default folder for temporary files.
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
_RUNS = 3


@dataclass(frozen=True)
class Story:
    """Describe an update of a robot.

    Attributes:
        bad: Versions that fail in service.
        serves: Versions of which one is active at any moment.
        ends: The version that is active at the end.
    """

    name: str
    bad: tuple[str, ...]
    serves: tuple[str, ...]
    ends: str

    def act(self, client: Client) -> State:
        """Run the story, or continue it after an interruption."""
        if self.name != "rolled back":
            return client.update()
        if client.state.phase is not Phase.IDLE:
            client.update()
        active = client.state.current
        if active is not None and active.version != self.ends:
            return client.rollback("somebody wants it")
        return client.state


STORIES = (
    Story("update", (), ("2.0.0", "3.0.0"), "3.0.0"),
    Story("way back", ("3.0.0",), ("2.0.0", "3.0.0"), "2.0.0"),
    Story("rolled back", (), ("1.0.0", "2.0.0"), "1.0.0"),
)


class Broken(AssertionError):
    """An invariant is violated."""


class Stage:
    """Prepare and play stories.

    Args:
        home: An empty folder, for the repository and for robots in their initial states.
        toy: A bundle from which releases are built.
    """

    def __init__(self, home: Path, toy: Path) -> None:
        self.home = home
        bundles = [_release(toy, home / version, version) for version in VERSIONS]
        keys, folder = KeyRing(home / "keys"), home / "repository"
        repository = init(
            folder, keys, channels=[robots.CHANNEL], policy=Policy(), externals={}, now=lambda: robots.NOW
        )
        terms = publish.Terms(channel=robots.CHANNEL)
        for bundle in bundles[:2]:
            publish.publish(repository, bundle, terms)
        earlier = Path(shutil.copytree(folder, home / "earlier"))
        offered = publish.publish(repository, bundles[2], terms)
        if not offered.deltas:
            raise Broken("3.0.0 is to come with a delta")
        self.candidate = offered.manifest_sha256
        self._trusted = (folder / "metadata" / "1.root.json").read_bytes()
        self._begin(folder, earlier, bundles[0])

    def put(self, story: Story, root: Path) -> None:
        """Return a robot in the initial state of the story."""
        shutil.copytree(self._beginning(story.name), root, symlinks=True)

    def play(
        self,
        story: Story,
        root: Path,
        *,
        on_state: Callable[[State], object] = robot.no_op,
        retry_rejected: bool = False,
    ) -> State:
        """Run the story; ``on_state`` receives each stored state."""
        clock, serving = robots.Clock(), robots.Serving(story.bad)
        clock.sleep(3600)
        serving.swap(root / "current")
        # A file of 100 kB takes the same path as one of many MB.
        with (
            patch.object(partial_file, "SYNC_BYTES", 1 << 15),
            patch.object(fetch, "_CHUNK_BYTES", 1 << 14),
            patch.object(robot, "SOFTWARE_DATE", robots.NOW),
            robot.open_client(
                root,
                **robots.client_arguments(
                    gate=robots.Gate(),
                    serving=serving,
                    on_state=lambda state, _: on_state(state),
                    now=clock.now,
                    clock=clock,
                    retry_rejected=retry_rejected,
                ),
            ) as client,
        ):
            return story.act(client)

    def check(self, story: Story, root: Path) -> None:
        """Check the invariants: a complete model of the story is active, and no file is truncated.

        Raises:
            Broken: An invariant is violated.
        """
        store = SlotStore(root)
        try:
            for name, slot in (("current", store.current()), ("good", store.good())):
                if slot is None or not store.complete(slot):
                    raise Broken(f"{name} leads to no complete slot")
                version = Bundle.open(root / name).manifest.version
                if version not in story.serves:
                    raise Broken(f"{name} leads to {version}")
            for slot in store.present():
                if Bundle.open(store.folder(slot)).sha256 != slot:
                    raise Broken(f"slot {slot[:12]} holds another release")
            state.load(root / robot.STATE)
            config.load(root / robot.CONFIG)
            list(audit_log.AuditLog(root / robot.AUDIT, robot.utc_now).entries())
        except JepaRuntimeError as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        if (root / robot.TRUSTED_ROOT).read_bytes() != self._trusted:
            raise Broken("the trusted root has changed")

    def end(self, story: Story, root: Path) -> None:
        """Restart the robot, and check that the story ends as expected without leftovers.

        Raises:
            Broken: It does not.
        """
        for _ in range(_RUNS):
            try:
                state = self.play(story, root, retry_rejected=True)
            except JepaRuntimeError as error:
                raise Broken(f"after the fault: {type(error).__name__}: {error}") from error
            self.check(story, root)
            if state.phase is not Phase.IDLE:
                raise Broken(f"after the fault: it ended in {state.phase}")
            version = Bundle.open(root / "current").manifest.version
            active = {installed.version for installed in (state.current, state.good) if installed}
            if active != {version}:
                raise Broken(f"after the fault: {version} serves, the state says {active}")
            if version == story.ends:
                break
        else:
            raise Broken(f"after the fault: {version} serves, not {story.ends}: {state.reason}")
        rests = [
            str(path.relative_to(root))
            for folder in (root, root / "staging", root / "trash", *(root / "slots").iterdir())
            for path in folder.iterdir()
            if folder.name in ("staging", "trash") or path.name.endswith(".tmp")
        ]
        if rests:
            raise Broken(f"after the fault: {', '.join(sorted(rests)[:5])} are left over")

    def _beginning(self, story: str) -> Path:
        return self.home / "robots" / story

    def _begin(self, later: Path, earlier: Path, first: Bundle) -> None:
        limits = Limits(free_bytes=0)
        update, find_rollback, taken_back = STORIES
        root = self._beginning(taken_back.name)
        provision(
            root,
            robots.settings(repository=str(earlier), fetch=limits),
            self._trusted,
            bundle=first.path,
            now=lambda: robots.NOW,
        )
        self.play(update, root)
        self.put(taken_back, self._beginning(update.name))
        root = self._beginning(update.name)
        config.save(root / robot.CONFIG, robots.settings(repository=str(later), fetch=limits))

        class Cut(BaseException):
            pass

        def cut(state: State) -> None:
            if state.phase is Phase.SWITCH:
                raise Cut

        root = self._beginning(find_rollback.name)
        self.put(update, root)
        try:
            self.play(update, root, on_state=cut)
        except Cut:
            return
        raise Broken("3.0.0 was never switched to")


def remove(root: Path) -> None:
    """Remove a robot, whose slots are read-only."""
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)
    shutil.rmtree(root)


def _release(toy: Path, folder: Path, version: str) -> Bundle:
    """Return the bundle with some changed weights, which a delta encodes well, and a new file."""
    shutil.copytree(toy, folder)
    chance = random.Random(version)
    large, small = sorted(folder.rglob("*.bin"), key=lambda path: path.stat().st_size, reverse=True)[:2]
    weights = bytearray(large.read_bytes())
    for place in chance.sample(range(len(weights)), 16):
        weights[place] ^= 1
    large.write_bytes(weights)
    small.write_bytes(chance.randbytes(small.stat().st_size))
    (folder / "report.json").write_text(json.dumps({"version": version}))
    return seal(folder, Bundle.open(toy).manifest.model_copy(update={"version": version}))
