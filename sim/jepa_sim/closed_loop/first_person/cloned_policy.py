"""A policy of behavior cloning: its graphs in a folder, and what they compute.

``jepa-export train first_person --cloning-frames N`` writes such a folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.backends import DEFAULT_ENGINE, BackendOptions, Session, create_backend
from jepa_sim.worlds.first_person.motion import MAX_SPEED_MPS, MAX_TURN_RADPS, MIN_SPEED_MPS
from jepa_sim.worlds.first_person.paths import Command
from jepa_sim.worlds.first_person.rendering import HEIGHT_PX, WIDTH_PX
from jepa_sim.worlds.interface import Image

ENCODER, HEAD, PROVENANCE = "encoder.xml", "policy.xml", "policy.json"
TOKENS, DIM = 72, 96
# Rows of the graph that compares many latents with one.
_ROWS = 16

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Decision:
    """What the policy decides.

    Attributes:
        command: ``linear.x`` in m/s and ``angular.z`` in rad/s, within the limits of the robot.
        distance_m: Distance to the goal along the path, where a turn of 1 rad counts as 0.5 m.
    """

    command: Command
    distance_m: float


class ClonedPolicy:
    """The policy in a folder, on one thread.

    Args:
        folder: The folder.

    Attributes:
        latent_space: Hash of the encoder's graph.

    Raises:
        BackendError: A graph is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._backend = create_backend(DEFAULT_ENGINE, BackendOptions(threads=1))
        latents = {"latents": (1, TOKENS, DIM), "goal": (1, TOKENS, DIM)}
        head = folder / HEAD
        self._encoder = self._backend.load(folder / ENCODER, {"frame": (1, HEIGHT_PX, WIDTH_PX, 3)})
        self._one = self._backend.load(head, latents)
        self._many = self._backend.load(head, latents | {"latents": (_ROWS, TOKENS, DIM)})
        self.latent_space = hashlib.sha256((folder / ENCODER).with_suffix(".bin").read_bytes()).hexdigest()

    def encode(self, image: Image) -> Floats:
        """Return the latent [TOKENS, DIM] of an image, uint8 [72, 96, 3] RGB."""
        self._encoder.inputs["frame"][0] = image
        latent: Floats = self._encoder.run()["latent"][0].copy()
        return latent

    def decide(self, latent: Floats, goal: Floats) -> Decision:
        """Decide at a latent how to drive to a goal, both [TOKENS, DIM]."""
        speed, turn, distance_m = _run(self._one, latent[None], goal)[0].tolist()
        command = np.clip([speed, turn], (MIN_SPEED_MPS, -MAX_TURN_RADPS), (MAX_SPEED_MPS, MAX_TURN_RADPS))
        return Decision(command, distance_m)

    def distances(self, latents: Floats, goal: Floats) -> Floats:
        """Return the distances in m [N] from latents [N, TOKENS, DIM] to one latent [TOKENS, DIM]."""
        session, size = (self._one, 1) if len(latents) == 1 else (self._many, _ROWS)
        found = np.empty(len(latents), np.float32)
        for start in range(0, len(latents), size):
            rows = latents[start : start + size]
            found[start : start + len(rows)] = _run(session, rows, goal)[: len(rows), 2]
        return found

    def close(self) -> None:
        """Release the graphs."""
        for session in (self._encoder, self._one, self._many):
            session.close()
        self._backend.close()


def _run(session: Session, latents: Floats, goal: Floats) -> Floats:
    session.inputs["latents"][: len(latents)] = latents
    session.inputs["goal"][0] = goal
    decisions: Floats = session.run()["decision"]
    return decisions
