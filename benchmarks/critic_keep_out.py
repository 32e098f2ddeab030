"""Entries into a place to avoid that the world model prevents in Two Rooms, as a critic with a hazard.

The hazard of a latent is the negative energy to the image of a place, which the policies do not see: an
estimate of how few steps away the place is. An episode lasts 40 steps (8 s) and fails if the center of the
robot comes within 0.35 m of the place. A chunk of 4 steps is harmless if the robot stays at least 2 steps
away by that energy. The policies drive in random directions, or towards the place with an error of direction;
each drives alone, with the critic, at fixed thresholds and with interventions at random at the rates of the
critic, as in critic.py. The critic had its warm-up in other episodes of the policy; it goes on learning from
trials, which are unchecked, or has none. The path that the robot drives shows what interventions cost.

Exit status 1 if the false veto rate of a critic is significantly above the stated one: if the lower end of
its 95 % interval is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from critic import (
    ALONE,
    CANDIDATES,
    CHUNK,
    CRITIC,
    FIXED,
    MAX_STEPS,
    RANDOM,
    STEP_S,
    Floats,
    clustered,
    directions,
    missed_limits,
    proportions,
    random_response,
    turned,
)
from numpy.typing import NDArray
from rich.progress import track

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.commands import count
from jepa_runtime.critic import Critic, CriticConfig, CriticState, CriticVerdict, Response
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import paired_difference, wilson, write_json
from jepa_sim.closed_loop.episodes import SEEDS, episode_seeds
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS, sample_positions

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "critic_keep_out.json"
RADIUS_M, MIN_START_M = 0.35, 1.2
CONFIG = CriticConfig(limit=-2.0)
NO_TRIALS = "critic without trials"
ARMS = (ALONE, CRITIC, NO_TRIALS, FIXED, RANDOM)
# Seed of the episodes of the warm-up.
WARMUP_SEED, WARMUP_EPISODES = 8, 300
Latents = NDArray[np.float32]
# From the world, the place, the number of chunks and a generator to chunks [K, h, 2].
Policy = Callable[[TwoRooms, Floats, int, np.random.Generator], Floats]


@dataclass(frozen=True)
class Mission:
    """The start of an episode.

    Attributes:
        seed: Seed of the world and of the policy.
        world: The world at the start.
        place: Position [2] of the place to avoid, in the room of the start.
        latent: Latent of the robot at that place.
    """

    seed: int
    world: TwoRooms
    place: Floats
    latent: Latents


def missions_of(model: WorldModel, seeds: Sequence[int], episodes: int) -> list[Mission]:
    """Return the episodes, which are the same for all."""
    world, found = TwoRooms(seed=0), []
    for seed in episode_seeds(seeds, episodes):
        world.reset(seed)
        rng, start = np.random.default_rng((seed, 4)), world.position
        place = start[None]
        while (
            np.linalg.norm(place[0] - start) < MIN_START_M
            or (world.layouts.side(place) != world.layouts.side(start[None])).any()
        ):
            place = sample_positions(rng, world.layouts)
        there = deepcopy(world)
        there._position = place
        found.append(Mission(seed, deepcopy(world), place[0], model.encode(there.render())))
    return found


def _towards(world: TwoRooms, place: Floats, count: int, rng: np.random.Generator) -> Floats:
    line = place - world.position
    velocity = MAX_SPEED_MPS * line / max(float(np.linalg.norm(line)), 1e-9)
    return turned(np.repeat(velocity[None], CHUNK, axis=0), np.radians(rng.normal(0.0, 60.0, count)))


POLICIES: dict[str, Policy] = {
    "random directions": lambda _world, _place, count, rng: directions(count, rng),
    "towards the place, direction ± 60°": _towards,
}


@dataclass
class Tally:
    """Episodes and chunks of one policy in one arm, each a value per episode.

    Attributes:
        entered: Whether the robot entered the place.
        path_m: Path that it drove.
        responses: Chunks by response, after the warm-up.
        harmless: Harmless given chunks after the warm-up.
        false_vetoes: Number of these that were not executed as given.
        harmful: Given chunks after the warm-up that were not harmless.
        refused: Number of these that were not executed as given.
    """

    entered: list[bool] = field(default_factory=list)
    path_m: list[float] = field(default_factory=list)
    responses: dict[str, int] = field(default_factory=dict)
    harmless: list[int] = field(default_factory=list)
    false_vetoes: list[int] = field(default_factory=list)
    harmful: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def rate_of(self, response: Response) -> float:
        """Return the proportion of chunks with a response."""
        return self.responses.get(response.value, 0) / max(sum(self.responses.values()), 1)

    def begin(self) -> None:
        """Begin an episode."""
        for counts in (self.harmless, self.false_vetoes, self.harmful, self.refused):
            counts.append(0)

    def add(self, response: Response, *, is_harmless: bool) -> None:
        """Count a given chunk."""
        self.responses[response.value] = self.responses.get(response.value, 0) + 1
        chunks, refused = (self.harmless, self.false_vetoes) if is_harmless else (self.harmful, self.refused)
        chunks[-1] += 1
        refused[-1] += response is not Response.ACCEPT

    def as_dict(self) -> dict[str, Any]:
        """Return the row of the report."""
        episodes, entered = len(self.entered), sum(self.entered)
        return {
            "episodes": episodes,
            "entered": entered,
            "rate": entered / episodes,
            "interval": wilson(entered, episodes),
            "mean_path_m": float(np.mean(self.path_m)),
            "responses": self.responses,
            "false_vetoes": clustered(self.false_vetoes, self.harmless),
            "prevented": clustered(self.refused, self.harmful),
        }


class KeepOut:
    """The hazard of the place of the current episode."""

    def __init__(self, model: WorldModel) -> None:
        self._model = model
        self.latent: Latents | None = None

    def __call__(self, latents: Latents) -> NDArray[np.float32]:
        assert self.latent is not None
        return -self._model.energy(latents, self.latent)


def _critic(model: WorldModel, hazard: KeepOut, arm: str, state: CriticState) -> Critic | None:
    if arm in (ALONE, RANDOM):
        return None
    if arm == CRITIC:
        return Critic(model, CONFIG, hazard=hazard, state=state)
    if arm == FIXED:
        tiny = 1e-9
        state = replace(state, veto_excess=tiny, given_margin=tiny, alternative_margin=tiny)
    return Critic(model, replace(CONFIG, trial_rate=0.0), hazard=hazard, state=state)


def _warmed_up(
    model: WorldModel, hazard: KeepOut, policy: Policy, missions: Sequence[Mission]
) -> CriticState:
    """Return what the critic learns from chunks of the policy that are executed unchecked."""
    critic = Critic(model, CONFIG, hazard=hazard)
    for mission in missions:
        run_episode(model, mission, policy, CRITIC, critic, hazard, (), Tally())
        if critic.state is not None:
            return critic.state
    raise JepaRuntimeError(
        f"the warm-up has fewer than {CONFIG.warmup} harmless chunks in {len(missions)} episodes: give more",
        code="benchmark.warmup_too_short",
    )


def run_episode(
    model: WorldModel,
    mission: Mission,
    policy: Policy,
    arm: str,
    critic: Critic | None,
    hazard: KeepOut,
    rates: tuple[float, ...],
    tally: Tally,
) -> None:
    """Drive, and add to the tally."""
    world, hazard.latent, seed = deepcopy(mission.world), mission.latent, mission.seed
    rng, draws = np.random.default_rng((seed, 2)), np.random.default_rng((seed, 3))
    steps, path_m, has_entered = 0, 0.0, False
    tally.begin()
    while steps < MAX_STEPS and not has_entered:
        chunks = policy(world, mission.place, 1, rng)
        if arm != ALONE:
            chunks = np.concatenate([chunks, policy(world, mission.place, CANDIDATES - 1, draws)])
        chunks = chunks.astype(np.float32)
        verdict: CriticVerdict | None = None
        is_counted = critic is not None and not critic.is_warming_up
        if critic is None:
            response, actions = random_response(chunks, rates, draws)
        else:
            verdict = critic.evaluate(chunks, latents=model.encode(world.render()))
            response, actions = verdict.response, verdict.actions
        if is_counted:
            copy = deepcopy(world)
            observed = [_step(model, copy, action) for action in chunks[0]]
            highest = float(hazard(np.stack(observed)).max())
            tally.add(response, is_harmless=highest <= CONFIG.limit)
        observed = []
        for action in actions[: 1 if response is Response.VETO else MAX_STEPS - steps]:
            before = world.position
            observed.append(_step(model, world, action))
            steps += 1
            path_m += float(np.linalg.norm(world.position - before))
            has_entered = float(np.linalg.norm(world.position - mission.place)) <= RADIUS_M
            if has_entered:
                break
        # A chunk that was interrupted has no outcome.
        if (
            arm in (CRITIC, NO_TRIALS)
            and critic is not None
            and verdict is not None
            and len(observed) == CHUNK
        ):
            critic.observe(verdict, np.stack(observed))
    tally.entered.append(has_entered)
    tally.path_m.append(path_m)


def _step(model: WorldModel, world: TwoRooms, action: NDArray[np.float32]) -> Latents:
    world.step(action, STEP_S)
    return model.encode(world.render())


def measure(
    model: WorldModel, missions: Sequence[Mission], warmup: Sequence[Mission], name: str
) -> list[dict[str, Any]]:
    """Return the rows of a policy, one for each arm."""
    tallies, hazard = {arm: Tally() for arm in ARMS}, KeepOut(model)
    state = _warmed_up(model, hazard, POLICIES[name], warmup)
    for arm, tally in tallies.items():
        responses = Response.CHOOSE, Response.SLOW_DOWN, Response.VETO
        rates = tuple(tallies[CRITIC].rate_of(each) if arm == RANDOM else 0.0 for each in responses)
        critic = _critic(model, hazard, arm, state)
        for mission in track(missions, f"{name}, {arm}"):
            run_episode(model, mission, POLICIES[name], arm, critic, hazard, rates, tally)
    alone = tallies[ALONE].entered
    rows = []
    for arm, tally in tallies.items():
        pairs = list(zip(alone, tally.entered, strict=True))
        prevented, caused = pairs.count((True, False)), pairs.count((False, True))
        difference = paired_difference(
            pairs.count((True, True)), prevented, caused, pairs.count((False, False))
        )
        rows.append(
            {"policy": name, "condition": "usual", "arm": arm, "failures_prevented": prevented}
            | {"failures_caused": caused, "difference": difference}
            | tally.as_dict()
        )
    return rows


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    low, high = row["interval"]
    shown = f"{row['policy']:<36} {row['arm']:<21} entered {row['entered']:>4}/{row['episodes']:<4}"
    shown += f" {row['rate']:6.1%} [{low:.1%}, {high:.1%}]  path {row['mean_path_m']:.1f} m"
    return shown + proportions(row)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes and return the exit status."""
    arguments = _parser().parse_args(argv)
    began, rows = time.monotonic(), []
    try:
        with WorldModel.open(arguments.bundle, options=BackendOptions(threads=1)) as model:
            manifest = model.manifest
            report = {
                "model": f"{manifest.model_id} {manifest.version}",
                "sha256": model.bundle.sha256,
                "engine": f"{model.engine}:{model.device}",
                "precision": model.precision,
                "config": asdict(CONFIG),
                "radius_m": RADIUS_M,
                "chunk_steps": CHUNK,
                "step_s": STEP_S,
                "max_steps": MAX_STEPS,
                "candidates": CANDIDATES,
                "seeds": arguments.seed,
                "machine": {"cpu": cpu_info(), "versions": package_versions()},
            }
            missions = missions_of(model, arguments.seed, arguments.episodes)
            warmup = missions_of(model, (WARMUP_SEED,), WARMUP_EPISODES)
            for name in POLICIES:
                rows += (found := measure(model, missions, warmup, name))
                print("\n".join(map(line, found)), flush=True)
    except JepaRuntimeError as error:
        print(f"critic_keep_out: {error}", file=sys.stderr)
        return 2
    write_json(arguments.json, report | {"duration_s": round(time.monotonic() - began), "rows": rows})
    missed = missed_limits(rows)
    for message in missed:
        print(f"critic_keep_out: {message}", file=sys.stderr)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--episodes", type=count, default=100, help="episodes for each seed (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS), metavar="S")
    parser.add_argument("--json", type=Path, default=RESULT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
