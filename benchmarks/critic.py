"""Failures in Two Rooms that the world model prevents as a critic of other policies.

Policies of several qualities propose chunks of 4 steps (0.8 s) to drive through the door to the goal of an
image: an expert that knows the true state, the expert with noise, with chunks in random directions, with a
constant error of direction, without knowledge of the wall, and behavior cloning of the expert from latents. A
policy stops by the true distance; an episode fails if that takes longer than 40 steps (8 s). Each policy
drives alone, with the critic (8 samples of the policy are the candidates), with the critic and one candidate,
with the same decisions at fixed thresholds (the predicted energy has to fall by as much as the limit, no
calibration), and with interventions at random at the rates of the critic. After a veto the robot stands for
one step and asks again. Two policies also drive a robot that moves at 60 degrees to its commands, which they
know and the model does not.

The critic begins each row with a warm-up and goes on learning over all episodes; they all count. Each given
chunk is also executed in a copy of the world, which shows whether it is harmless: by the energy after it, and
by the true remaining path.

Exit status 1 if the false veto rate of the critic after its warm-up is significantly above the stated one in
a row: if the lower end of its 95 % interval is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.commands import count
from jepa_runtime.critic import Critic, CriticConfig, CriticState, Response
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import RESAMPLES, paired_difference, wilson, write_json
from jepa_sim.closed_loop.episodes import SEEDS, episode_seeds
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "critic.json"
STEP_S, CHUNK, MAX_STEPS, CANDIDATES = 0.2, 4, 40, 8
# A chunk is harmless if it brings the robot closer to the goal by at least one step of the model's energy.
CONFIG = CriticConfig(limit=-1.0)
# Distance from the center of the wall at which the door is entered and left, and from its axis.
DOOR_CLEARANCE_M, DOOR_AXIS_M = 0.35, 0.2
# Seeds of the demonstrations for behavior cloning; the episodes have larger ones.
DEMONSTRATIONS_SEED = 500_000_000
ALONE, CRITIC, SINGLE, FIXED, RANDOM = "alone", "critic", "critic, one candidate", "fixed threshold", "random"
ARMS = (ALONE, CRITIC, SINGLE, FIXED, RANDOM)
USUAL, TURNED = "usual", "turned by 60°"
TURNS = {USUAL: 0.0, TURNED: np.pi / 3}

Floats = NDArray[np.float64]
# From the world, the latents of image and goal, the number of chunks and a generator to chunks [K, h, 2].
Policy = Callable[[TwoRooms, Floats, Floats, int, np.random.Generator], Floats]


class Rooms(TwoRooms):
    """Two Rooms with a robot that moves at an angle to its commands."""

    turn_rad = 0.0

    def step(self, velocity: NDArray[np.floating], dt_s: float) -> None:
        super().step(turned(np.asarray(velocity, float)[None], np.array([self.turn_rad]))[0, 0], dt_s)


def path_m(world: TwoRooms) -> float:
    """Return the length of the true remaining path, by the center of the door if it lies between."""
    if (world.layouts.side(world.position[None]) == world.layouts.side(world.goal[None])).all():
        return world.distance()
    axis = int(world.layouts.axis[0])
    door = np.empty(2)
    door[axis], door[1 - axis] = world.layouts.wall[0], world.layouts.door[0]
    return float(np.linalg.norm(world.position - door) + np.linalg.norm(door - world.goal))


def _expert_velocity(world: TwoRooms, position: Floats) -> Floats:
    """Return the velocity [2] of the expert, which enters and leaves the door along its axis."""
    layouts, target = world.layouts, world.goal
    axis, wall, door = int(layouts.axis[0]), layouts.wall[0], layouts.door[0]
    goal_side = 1.0 if target[axis] > wall else -1.0
    ahead = (position[axis] - wall) * goal_side
    if ahead < DOOR_CLEARANCE_M - 0.05 and (ahead < 0 or abs(position[1 - axis] - door) < DOOR_AXIS_M):
        aligned = abs(position[1 - axis] - door) < DOOR_AXIS_M
        target = np.empty(2)
        target[axis] = wall + goal_side * DOOR_CLEARANCE_M * (1 if aligned else -1)
        target[1 - axis] = door
    return _limited((target - position) / STEP_S)


def _chunk(world: TwoRooms, velocity_of: Callable[[TwoRooms, Floats], Floats]) -> Floats:
    """Return the velocities [h, 2] of the next steps, without contact with walls."""
    position, chunk = world.position, []
    for _ in range(CHUNK):
        chunk.append(velocity_of(world, position))
        position = position + chunk[-1] * STEP_S
    return np.array(chunk)


def _expert_chunk(world: TwoRooms) -> Floats:
    return _chunk(world, _expert_velocity)


def _straight_chunk(world: TwoRooms) -> Floats:
    return _chunk(world, lambda world, position: _limited((world.goal - position) / STEP_S))


def _limited(velocity: Floats) -> Floats:
    return velocity * min(1.0, MAX_SPEED_MPS / max(float(np.linalg.norm(velocity)), 1e-9))


def turned(chunk: Floats, angles: Floats) -> Floats:
    """Return a chunk [h, 2] turned by each of the angles [K]."""
    cos, sin = np.cos(angles), np.sin(angles)
    turns = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    turned: Floats = np.einsum("kij,hj->khi", turns, chunk)
    return turned


def directions(count: int, rng: np.random.Generator) -> Floats:
    angles = rng.uniform(-np.pi, np.pi, count)
    return turned(np.repeat([[MAX_SPEED_MPS, 0.0]], CHUNK, axis=0), angles)


def _faulty(world: TwoRooms, _now: Floats, _goal: Floats, count: int, rng: np.random.Generator) -> Floats:
    wrong = rng.random(count) < 0.5
    right = np.repeat(_expert_chunk(world)[None], count, axis=0)
    return np.where(wrong[:, None, None], directions(count, rng), right)


class Cloning:
    """Behavior cloning: ridge regression of the expert's chunk on random features of two latents.

    Samples are the predicted chunk plus the errors of random demonstrations that were not used for it.
    """

    features, ridge = 1024, 1e-2

    def __init__(self, model: WorldModel, episodes: int) -> None:
        inputs, chunks = _demonstrations(model, episodes)
        rng = np.random.default_rng(0)
        self._mean, self._std = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
        self._weights = rng.standard_normal((inputs.shape[1], self.features)) / np.sqrt(inputs.shape[1])
        self._offsets = rng.uniform(-1, 1, self.features)
        used = len(inputs) * 4 // 5
        lifted, targets = self._lifted(inputs), chunks.reshape(len(chunks), -1)
        gram = lifted[:used].T @ lifted[:used] + self.ridge * used * np.eye(lifted.shape[1])
        self._linear = np.linalg.solve(gram, lifted[:used].T @ targets[:used])
        self._errors = targets[used:] - lifted[used:] @ self._linear

    def __call__(
        self, _world: TwoRooms, now: Floats, goal: Floats, count: int, rng: np.random.Generator
    ) -> Floats:
        predicted = self._lifted(np.concatenate([now.ravel(), goal.ravel()])[None]) @ self._linear
        chunks = predicted + self._errors[rng.integers(len(self._errors), size=count)]
        return np.clip(chunks.reshape(count, CHUNK, 2), -MAX_SPEED_MPS, MAX_SPEED_MPS)

    def _lifted(self, inputs: Floats) -> Floats:
        scaled = (inputs - self._mean) / self._std
        hidden = np.maximum(scaled @ self._weights + self._offsets, 0.0)
        return np.concatenate([hidden, scaled, np.ones((len(inputs), 1))], axis=1)


def _demonstrations(model: WorldModel, episodes: int) -> tuple[Floats, Floats]:
    """Return latents of image and goal [n, 2 T D] and chunks [n, h, 2] of the expert, with disturbances."""
    world, inputs, chunks = TwoRooms(seed=0), [], []
    for seed in range(DEMONSTRATIONS_SEED, DEMONSTRATIONS_SEED + episodes):
        world.reset(seed)
        rng = np.random.default_rng(seed)
        goal = model.encode(world.render_goal())
        for _ in range(MAX_STEPS):
            if world.reached():
                break
            inputs.append(np.concatenate([model.encode(world.render()).ravel(), goal.ravel()]))
            chunks.append(_expert_chunk(world))
            world.step(chunks[-1][0] + rng.normal(0.0, 0.4, 2), STEP_S)
    return np.array(inputs, np.float64), np.array(chunks)


def _noisy(chunk_of: Callable[[TwoRooms], Floats], mean: float, std: float) -> Policy:
    """Return the policy whose chunks are turned by a random angle in degrees."""

    def chunks(world: TwoRooms, _now: Floats, _goal: Floats, count: int, rng: np.random.Generator) -> Floats:
        return turned(chunk_of(world), np.radians(rng.normal(mean, std, count)))

    return chunks


CLONING = "behavior cloning"
KNOWING: dict[str, Policy] = {
    "expert": _noisy(_expert_chunk, 0.0, 0.0),
    "expert, direction ± 60°": _noisy(_expert_chunk, 0.0, 60.0),
    "expert, every second chunk random": _faulty,
    "expert, turned by 50° ± 30°": _noisy(_expert_chunk, 50.0, 30.0),
    "straight to the goal, direction ± 60°": _noisy(_straight_chunk, 0.0, 60.0),
}
POLICIES = (*KNOWING, CLONING)
# Policies that also drive the turned robot.
ALSO_TURNED = ("expert", "expert, every second chunk random")


@dataclass
class Tally:
    """Episodes and chunks of one policy in one arm.

    Attributes:
        reached: Of each episode, whether the goal was reached.
        checked: Of each episode, whether it began after the warm-up.
        steps: Steps of each episode.
        responses: Number of chunks by response, after the warm-up.
        harmless: Number of harmless given chunks of each episode after the warm-up, by the energy after them.
        false_vetoes: Number of these that were not executed as given, of each episode.
        harmful: Number of given chunks after the warm-up that were not harmless.
        prevented: Number of these that were not executed as given.
        truly_harmless: Number of given chunks after the warm-up that shorten the true path by at least the
            limit.
        true_false_vetoes: Number of these that were not executed as given.
        within: Number of executed chunks whose score was within the stated bound, by given or alternative.
        bounded: Number of executed chunks with a stated bound.
        evaluate_ms: Duration of each verdict.
    """

    reached: list[bool] = field(default_factory=list)
    checked: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    responses: Counter[str] = field(default_factory=Counter)
    harmless: list[int] = field(default_factory=list)
    false_vetoes: list[int] = field(default_factory=list)
    harmful: int = 0
    prevented: int = 0
    truly_harmless: int = 0
    true_false_vetoes: int = 0
    within: Counter[str] = field(default_factory=Counter)
    bounded: Counter[str] = field(default_factory=Counter)
    evaluate_ms: list[float] = field(default_factory=list)

    def rate_of(self, response: Response) -> float:
        """Return the proportion of chunks with a response."""
        return self.responses[response.value] / max(sum(self.responses.values()), 1)

    def as_dict(self) -> dict[str, Any]:
        """Return the row of the report."""
        reached, episodes = sum(self.reached), len(self.reached)
        after = sum(one for one, checked in zip(self.reached, self.checked, strict=True) if checked)
        row: dict[str, Any] = {
            "episodes": episodes,
            "reached": reached,
            "rate": reached / episodes,
            "interval": wilson(reached, episodes),
            "reached_after_warmup": _proportion(after, sum(self.checked)),
            "mean_steps": float(np.mean(self.steps)),
            "responses": dict(self.responses),
            "false_vetoes": clustered(self.false_vetoes, self.harmless),
            "true_false_vetoes": _proportion(self.true_false_vetoes, self.truly_harmless),
            "prevented": _proportion(self.prevented, self.harmful),
            "coverage": {name: _proportion(self.within[name], self.bounded[name]) for name in self.bounded},
        }
        if self.evaluate_ms:
            p50, p99 = np.percentile(self.evaluate_ms, [50, 99])
            row["evaluate_ms"] = {"p50": float(p50), "p99": float(p99), "n": len(self.evaluate_ms)}
        return row


def _proportion(part: int, whole: int) -> dict[str, Any] | None:
    return {"of": whole, "rate": part / whole, "interval": wilson(part, whole)} if whole else None


def clustered(parts: Sequence[int], wholes: Sequence[int]) -> dict[str, Any] | None:
    """Return the proportion of all episodes together, with a 95 % bootstrap interval over episodes.

    A policy may propose a vetoed chunk again, so that the chunks of an episode are not independent.
    """
    part, whole = np.array(parts), np.array(wholes)
    if not whole.sum():
        return None
    drawn = np.random.default_rng(0).integers(len(part), size=(RESAMPLES, len(part)))
    rates = part[drawn].sum(axis=1) / np.maximum(whole[drawn].sum(axis=1), 1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return {
        "of": int(whole.sum()), "rate": float(part.sum() / whole.sum()), "interval": (float(low), float(high))
    }  # fmt: skip


@dataclass
class Arm:
    """How the chunks of a policy are checked.

    Attributes:
        name: One of :data:`ARMS`.
        critic: The critic; None: nothing is checked.
        candidates: Number of candidates.
        rates: Of random interventions: choose, slow down, veto.
        is_learning: Whether the critic learns.
    """

    name: str
    critic: Critic | None = None
    candidates: int = 1
    rates: tuple[float, ...] = (0.0, 0.0, 0.0)
    is_learning: bool = False
    tally: Tally = field(default_factory=Tally)


def _arm(name: str, model: WorldModel) -> Arm:
    if name == FIXED:
        tiny = 1e-9
        settings = CONFIG.limit, CONFIG.false_veto_rate, CONFIG.coverage
        state = CriticState(tiny, tiny, tiny, *settings, model.latent_space, model.energy_space)
        critic = Critic(model, CriticConfig(limit=CONFIG.limit, trial_rate=0.0), state=state)
        return Arm(name, critic, CANDIDATES)
    if name == RANDOM:
        return Arm(name, candidates=CANDIDATES)
    if name == ALONE:
        return Arm(name)
    return Arm(name, Critic(model, CONFIG), CANDIDATES if name == CRITIC else 1, is_learning=True)


def run_episode(model: WorldModel, world: Rooms, goal: Floats, policy: Policy, arm: Arm, seed: int) -> None:
    """Drive in ``world``, and add to the tally of the arm."""
    rng, draws = np.random.default_rng((seed, 2)), np.random.default_rng((seed, 3))
    tally, critic, steps = arm.tally, arm.critic, 0
    if critic is not None:
        critic.set_goal(goal.astype(np.float32))
    tally.harmless.append(0)
    tally.false_vetoes.append(0)
    tally.checked.append(critic is None or not critic.is_warming_up)
    while steps < MAX_STEPS and not world.reached():
        now = model.encode(world.render())
        # The given chunk is drawn as without the critic.
        chunks = policy(world, now.astype(np.float64), goal, 1, rng)
        if arm.candidates > 1:
            others = policy(world, now.astype(np.float64), goal, arm.candidates - 1, draws)
            chunks = np.concatenate([chunks, others])
        chunks = np.concatenate([turned(each, np.array([-world.turn_rad])) for each in chunks])
        chunks = chunks.astype(np.float32)
        is_counted = arm.name not in (ALONE, RANDOM) and (critic is None or not critic.is_warming_up)
        verdict = None
        if critic is None:
            response, actions = random_response(chunks, arm.rates, draws)
        else:
            began = time.perf_counter()
            verdict = critic.evaluate(chunks, latents=now)
            tally.evaluate_ms.append((time.perf_counter() - began) * 1e3)
            response, actions = verdict.response, verdict.actions
        if is_counted:
            _count(model, world, goal, now, chunks[0], response, tally)
        if response is Response.VETO:
            actions = actions[:1]
        done = 0
        for action in actions[: MAX_STEPS - steps]:
            world.step(action, STEP_S)
            done += 1
            if world.reached():
                break
        steps += done
        # A chunk that was interrupted has no outcome.
        if arm.is_learning and critic is not None and verdict is not None and done == CHUNK:
            outcome = critic.observe(verdict, model.encode(world.render()))
            if outcome is not None and outcome.is_within_bound is not None:
                kind = "given" if response is Response.ACCEPT else "alternative"
                tally.bounded[kind] += 1
                tally.within[kind] += outcome.is_within_bound
    tally.reached.append(world.reached())
    tally.steps.append(steps)


def random_response(
    chunks: NDArray[np.float32], rates: tuple[float, ...], rng: np.random.Generator
) -> tuple[Response, NDArray[np.float32]]:
    """Return an intervention at random: another candidate, half the speed, or rest."""
    draw, other = rng.random(), int(rng.integers(1, max(len(chunks), 2)))
    choose, slow_down, veto = np.cumsum(rates)
    if draw < choose:
        return Response.CHOOSE, chunks[other]
    if draw < slow_down:
        return Response.SLOW_DOWN, chunks[0] / 2
    if draw < veto:
        return Response.VETO, np.zeros_like(chunks[0])
    return Response.ACCEPT, chunks[0]


def _count(
    model: WorldModel,
    world: Rooms,
    goal: Floats,
    now: NDArray[np.float32],
    given: NDArray[np.float32],
    response: Response,
    tally: Tally,
) -> None:
    """Count the given chunk by what it leads to in a copy of the world."""
    trial, target = deepcopy(world), goal.astype(np.float32)
    for action in given:
        trial.step(action, STEP_S)
    change = float(model.energy(model.encode(trial.render()), target)) - float(model.energy(now, target))
    is_refused = response is not Response.ACCEPT
    tally.responses[response.value] += 1
    if change <= CONFIG.limit:
        tally.harmless[-1] += 1
        tally.false_vetoes[-1] += is_refused
    else:
        tally.harmful += 1
        tally.prevented += is_refused
    if path_m(trial) - path_m(world) <= CONFIG.limit * MAX_SPEED_MPS * STEP_S:
        tally.truly_harmless += 1
        tally.true_false_vetoes += is_refused


def measure(
    model: WorldModel, missions: Sequence[Mission], name: str, policy: Policy, condition: str
) -> list[dict[str, Any]]:
    """Return the rows of a policy, one for each arm; random interventions, at the critic's rates, last."""
    arms = {arm: _arm(arm, model) for arm in (ARMS if condition == USUAL else (ALONE, CRITIC, FIXED))}
    for arm in arms.values():
        if arm.name == RANDOM:
            responses = Response.CHOOSE, Response.SLOW_DOWN, Response.VETO
            arm.rates = tuple(map(arms[CRITIC].tally.rate_of, responses))
        for mission in track(missions, f"{name}, {condition}, {arm.name}"):
            world = deepcopy(mission.world)
            world.turn_rad = TURNS[condition]
            run_episode(model, world, mission.goal, policy, arm, mission.seed)
    alone = arms[ALONE].tally.reached
    rows = []
    for arm in arms.values():
        pairs = Counter(zip(arm.tally.reached, alone, strict=True))
        prevented, caused = pairs[True, False], pairs[False, True]
        rows.append(
            {"policy": name, "condition": condition, "arm": arm.name}
            | {"failures_prevented": prevented, "failures_caused": caused}
            | {"difference": paired_difference(pairs[True, True], prevented, caused, pairs[False, False])}
            | arm.tally.as_dict()
        )
    return rows


@dataclass(frozen=True)
class Mission:
    """The start of an episode.

    Attributes:
        seed: Seed of the world and of the policy.
        world: The world at the start.
        goal: Latent of the goal image.
    """

    seed: int
    world: Rooms
    goal: Floats


def missions_of(model: WorldModel, seeds: Sequence[int], episodes: int) -> list[Mission]:
    """Return the episodes, which are the same for all."""
    world, found = Rooms(seed=0), []
    for seed in episode_seeds(seeds, episodes):
        world.reset(seed)
        goal = model.encode(world.render_goal()).astype(np.float64)
        found.append(Mission(seed, deepcopy(world), goal))
    return found


def missed_limits(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of critics whose false veto rate is above the stated one."""
    missed = []
    for row in rows:
        found = row["false_vetoes"]
        if not row["arm"].startswith(CRITIC) or found is None:
            continue
        if found["interval"][0] > CONFIG.false_veto_rate:
            missed.append(
                f"{row['policy']}, {row['condition']}, {row['arm']}: {found['rate']:.1%} of {found['of']} "
                f"harmless chunks were not executed as given, stated {CONFIG.false_veto_rate:.1%}"
            )
    return missed


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    low, high = row["interval"]
    shown = f"{row['policy']:<38} {row['condition']:<13} {row['arm']:<22}"
    shown += f" {row['reached']:>4}/{row['episodes']:<4} {row['rate']:6.1%} [{low:.1%}, {high:.1%}]"
    return shown + proportions(row)


def proportions(row: dict[str, Any]) -> str:
    """Return the proportions of chunks of a row as the end of its line."""
    shown = ""
    for label, name in (("false vetoes", "false_vetoes"), ("harmful chunks replaced", "prevented")):
        if (found := row[name]) is not None:
            shown += f"  {label} {found['rate']:.1%} of {found['of']}"
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the episodes and return the exit status."""
    arguments = _parser().parse_args(argv)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    try:
        with WorldModel.open(arguments.bundle, options=BackendOptions(threads=1)) as model:
            manifest = model.manifest
            report = {
                "model": f"{manifest.model_id} {manifest.version}",
                "sha256": model.bundle.sha256,
                "engine": f"{model.engine}:{model.device}",
                "precision": model.precision,
                "config": asdict(CONFIG),
                "chunk_steps": CHUNK,
                "step_s": STEP_S,
                "max_steps": MAX_STEPS,
                "candidates": CANDIDATES,
                "seeds": arguments.seed,
                "demonstrations": arguments.demonstrations,
                "machine": {"cpu": cpu_info(), "versions": package_versions()},
            }
            missions = missions_of(model, arguments.seed, arguments.episodes)
            for name in arguments.policy:
                policy = KNOWING.get(name) or Cloning(model, arguments.demonstrations)
                for condition in (USUAL, TURNED) if name in ALSO_TURNED else (USUAL,):
                    rows += (found := measure(model, missions, name, policy, condition))
                    print("\n".join(map(line, found)), flush=True)
                    # After each policy, so that an interrupted run has the rows that are complete.
                    duration_s = round(time.monotonic() - began)
                    write_json(arguments.json, report | {"duration_s": duration_s, "rows": rows})
    except JepaRuntimeError as error:
        print(f"critic: {error}", file=sys.stderr)
        return 2
    missed = missed_limits(rows)
    for message in missed:
        print(f"critic: {message}", file=sys.stderr)
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
    parser.add_argument(
        "--demonstrations",
        type=count,
        default=600,
        help="episodes from which behavior cloning learns (default: %(default)s)",
    )
    parser.add_argument(
        "--policy", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME", help="policies"
    )
    parser.add_argument("--json", type=Path, default=RESULT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
