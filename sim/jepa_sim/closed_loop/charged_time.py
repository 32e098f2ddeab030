"""Episodes in which the world goes on while the robot thinks.

The camera takes images at its rate. An image is transported, waits until the robot has decided about the
previous one (a newer image replaces it), and after the time of the decision its command is sent, and takes
effect after the actuation delay. The robot is stopped between decisions as the planner node stops it. A world
that holds actions for multiples of a tick applies a command at the first tick after that, as a motor
controller does.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jepa_runtime.control import BLOCKED_RATIO, ControllerConfig
from jepa_runtime.errors import ProfileError, WorldError
from jepa_runtime.profiling import read_profile
from jepa_sim.closed_loop.episodes import Driver, Episode, FinishesImages, Outcome, Policy
from jepa_sim.worlds.interface import Actions, Image, World

# Period of the watchdog of the planner node.
_WATCH_NS = 50_000_000
# Stages of a profile that are charged separately.
_BEFORE = ("receive", "transport", "wait")


@dataclass(frozen=True, kw_only=True)
class Neighbor:
    """A process that slows the robot's decisions down from time to time.

    Attributes:
        factor: Decisions take this many times longer meanwhile.
        every_s: Time from one start to the next.
        lasts_s: Duration.
    """

    factor: float
    every_s: float = 2.0
    lasts_s: float = 0.5


@dataclass(frozen=True, kw_only=True)
class ChargedTime:
    """The time that passes in the world while the robot perceives, thinks and acts.

    Attributes:
        decisions_s: Durations from which that of each decision is drawn; empty: as measured here.
        transport_s: Time from an image to its arrival. It does not lower the rate of decisions.
        jitter_s: Largest additional time of transport, uniformly distributed.
        dropped: Proportion of images that are lost.
        actuation_s: Time from a command to its effect.
        swap_at_s: Time at which another model becomes active, for which the robot stops and plans from
            scratch; None: never.
        neighbor: A noisy neighbor; None: there is none.

    Raises:
        ValueError: A value is out of range.
    """

    decisions_s: tuple[float, ...] = ()
    transport_s: float = 0.0
    jitter_s: float = 0.0
    dropped: float = 0.0
    actuation_s: float = 0.0
    swap_at_s: float | None = None
    neighbor: Neighbor | None = None

    def __post_init__(self) -> None:
        if min(self.transport_s, self.jitter_s, self.actuation_s, *self.decisions_s, 0.0) < 0:
            raise ValueError("durations must be at least 0")
        if not 0 <= self.dropped < 1:
            raise ValueError(f"dropped must be at least 0 and below 1, got {self.dropped}")

    @property
    def longest_decision_s(self) -> float:
        """The longest given decision, with a noisy neighbor; 0 if they are measured."""
        factor = 1.0 if self.neighbor is None else max(self.neighbor.factor, 1.0)
        return factor * max(self.decisions_s, default=0.0)

    def adapted(self, config: ControllerConfig) -> ControllerConfig:
        """Return the settings for a robot with this latency, as an operator has to set them.

        An image may be as old as it takes to arrive and to decide about it and the one before. Images show
        a motion later by the latency, so the time until its direction counts as blocked grows by that.
        """
        latency_s = self.transport_s + self.jitter_s + self.actuation_s + self.longest_decision_s
        frozen_s = config.frozen_after_s
        return replace(
            config,
            actuation_delay_s=self.actuation_s,
            futures_timeout_s=config.futures_timeout_s + latency_s + self.longest_decision_s,
            frozen_after_s=frozen_s + latency_s / BLOCKED_RATIO if frozen_s else 0.0,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON data; the durations of decisions are summarized."""
        decisions_ms = sorted(1e3 * each for each in self.decisions_s)
        summary = None
        if decisions_ms:
            summary = {
                "samples": len(decisions_ms),
                "p50": float(np.percentile(decisions_ms, 50)),
                "p99": float(np.percentile(decisions_ms, 99)),
            }
        given = {name: value for name, value in asdict(self).items() if name != "decisions_s"}
        return {"decisions_ms": summary, **given}


def profiled_decisions(path: Path) -> tuple[float, ...]:
    """Return the duration of each frame in a profile, from its arrival to its result, without waiting [s].

    Raises:
        ProfileError: The file is not a profile, or has no samples.
    """
    run = read_profile(path).run
    if not run.latency_ms:
        raise ProfileError(
            f"{path}: has a summary but no samples from which durations could be drawn: measure it with "
            "jepa-runtime profile",
            code="profile.no_samples",
        )
    before = [run.stages_ms[stage] for stage in _BEFORE if stage in run.stages_ms]
    return tuple(
        max(latency_ms - sum(passed), 0.0) / 1e3
        for latency_ms, *passed in zip(run.latency_ms, *before, strict=True)
    )


def npu_estimates(report: dict[str, Any]) -> dict[str, float]:
    """Return how long the graphs take on each NPU platform, by the estimate in a bundle's report [s].

    Each graph counts once, in its fastest precision. A platform without an estimate for each is left out.
    """
    rows = [row for row in report.get("npu", {}).get("graphs", []) if row["graph"] != "step"]
    graphs = {row["graph"] for row in rows}
    found: dict[str, float] = {}
    for platform in dict.fromkeys(row["platform"] for row in rows):
        fastest_ms: dict[str, float] = {}
        for row in rows:
            if row["platform"] == platform and "estimate" in row:
                graph, took_ms = row["graph"], row["estimate"]["total_ms"]
                fastest_ms[graph] = min(took_ms, fastest_ms.get(graph, took_ms))
        if fastest_ms.keys() == graphs:
            found[platform] = sum(fastest_ms.values()) / 1e3
    return found


@runtime_checkable
class TimedPolicy(Protocol):
    """A policy that thinks while time goes on."""

    def see(self, image: Image, stamp_ns: int) -> None:
        """Note that an image is taken. It may arrive later, or never."""
        ...

    def observe(self, image: Image, *, stamp_ns: int) -> None:
        """Think about an image."""
        ...

    def answer(self, now_ns: int) -> Actions | None:
        """Return the action [A] for that image, or None if the goal counts as reached."""
        ...

    def watch(self, now_ns: int) -> bool:
        """Return whether the robot must stop now."""
        ...

    def swap_model(self, now_ns: int) -> None:
        """Continue with another model; the robot is stopped."""
        ...


class Reflex:
    """A policy without a model as a :class:`TimedPolicy`: its decisions are about the time of the image."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._decided: dict[int, Actions | None] = {}
        self._stamp_ns = 0

    def see(self, image: Image, stamp_ns: int) -> None:
        """Decide when the image is taken."""
        self._decided[stamp_ns] = self._policy(image)

    def observe(self, image: Image, *, stamp_ns: int) -> None:
        self._stamp_ns = stamp_ns

    def answer(self, now_ns: int) -> Actions | None:
        return self._decided[self._stamp_ns]

    def watch(self, now_ns: int) -> bool:
        return False

    def swap_model(self, now_ns: int) -> None:
        pass


def run_charged_episode(
    world: World,
    driver: Driver,
    charged: ChargedTime,
    *,
    seed: int,
    step_s: float,
    watch: Callable[[Image], None] = lambda _: None,
) -> Episode:
    """Drive until the policy stops or the steps that the task allows are over.

    Args:
        world: The world.
        driver: The driver.
        charged: The time that is charged.
        seed: Seed of the world, the driver and the time.
        step_s: Duration of a model step.
        watch: Called with each image that the policy processes.

    Raises:
        WorldError: Actions of the world are no rates: they cannot be held for any number of ticks.
    """
    task = world.task
    if task.tick_s is not None and not task.has_rates:
        raise WorldError(
            f"{task.name}: holds actions that are no rates for multiples of {task.tick_s:g} s, so that time "
            "cannot be charged: use a world whose actions are rates (units that end in /s)",
            code="sim.discrete_time",
        )
    world.reset(seed)
    begun = driver.begin(world, seed)
    policy = begun if isinstance(begun, TimedPolicy) else Reflex(begun)
    run = _Run(world, policy, charged, seed, round(step_s * 1e9 / driver.images_per_step), watch)
    run.until(round(world.task.max_steps * step_s * 1e9))
    return Episode(seed, run.outcome, run.now_ns / 1e9 / step_s, world.distance(), tuple(run.plan_ms))


class _Run:
    """Events of one episode, in order of time."""

    def __init__(
        self,
        world: World,
        policy: TimedPolicy,
        charged: ChargedTime,
        seed: int,
        period_ns: int,
        watch: Callable[[Image], None],
    ) -> None:
        self.outcome: Outcome = "timeout"
        self.now_ns = 0
        self.plan_ms: list[float] = []
        self._world, self._policy, self._charged, self._watch = world, policy, charged, watch
        self._period_ns = period_ns
        # The world draws from the seed alone, random actions from (seed, 1).
        self._rng = np.random.default_rng((seed, 2))
        # The world stands at the last tick.
        self._tick_ns = round((world.task.tick_s or 1e-9) * 1e9)
        self._world_ns = 0
        self._action: Actions = np.zeros(len(world.task.action_names))
        self._events: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = count()
        self._waiting: tuple[Image, int] | None = None
        self._is_thinking = False
        self._arrival_ns = 0
        self._at(0, self._capture)
        self._at(_WATCH_NS, self._check)
        if charged.swap_at_s is not None:
            self._at(round(charged.swap_at_s * 1e9), self._swap)

    def until(self, end_ns: int) -> None:
        """Run the events until the episode ends."""
        while self.outcome == "timeout":
            when_ns, _, happen, arguments = heapq.heappop(self._events)
            self._advance(min(when_ns, end_ns))
            if when_ns >= end_ns:
                return
            happen(*arguments)

    def _advance(self, now_ns: int) -> None:
        self.now_ns = now_ns
        passed_ns = now_ns - now_ns % self._tick_ns - self._world_ns
        if passed_ns:
            self._world.step(self._action, passed_ns / 1e9)
            self._world_ns += passed_ns

    def _at(self, when_ns: int, happen: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (when_ns, next(self._numbers), happen, arguments))

    def _capture(self) -> None:
        self._at(self.now_ns + self._period_ns, self._capture)
        if self._rng.random() < self._charged.dropped:
            return
        image = self._world.render()
        self._policy.see(image, self.now_ns)
        transport_s = self._charged.transport_s + self._rng.uniform(0, self._charged.jitter_s)
        # Transport keeps the order of images.
        self._arrival_ns = max(self._arrival_ns, self.now_ns + round(transport_s * 1e9))
        self._at(self._arrival_ns, self._arrive, image, self.now_ns)

    def _arrive(self, image: Image, stamp_ns: int) -> None:
        self._waiting = image, stamp_ns
        self._think()

    def _think(self) -> None:
        if self._is_thinking or self._waiting is None:
            return
        (image, stamp_ns), self._waiting, self._is_thinking = self._waiting, None, True
        self._watch(image)
        began = time.perf_counter()
        self._policy.observe(image, stamp_ns=stamp_ns)
        took_s = time.perf_counter() - began
        self._at(self.now_ns + round(self._charge(took_s) * 1e9), self._answer, took_s)

    def _answer(self, took_s: float) -> None:
        began = time.perf_counter()
        action = self._policy.answer(self.now_ns)
        answered_s = time.perf_counter() - began
        self.plan_ms.append((took_s + answered_s) * 1e3)
        if isinstance(self._policy, FinishesImages):
            self._policy.finish_image()
        self._is_thinking = False
        sent_s = self._charged.actuation_s + (0.0 if self._charged.decisions_s else answered_s)
        self._at(self._tick_from(self.now_ns + round(sent_s * 1e9)), self._take_effect, action)
        self._think()

    def _take_effect(self, action: Actions | None) -> None:
        if action is not None:
            self._action = action
            return
        self.outcome = "reached" if self._world.distance() <= self._world.task.tolerance else "wrong_place"

    def _check(self) -> None:
        self._at(self.now_ns + _WATCH_NS, self._check)
        if self._policy.watch(self.now_ns):
            self._stop()

    def _swap(self) -> None:
        self._policy.swap_model(self.now_ns)
        self._stop()

    def _stop(self) -> None:
        effect_ns = self.now_ns + round(self._charged.actuation_s * 1e9)
        self._at(self._tick_from(effect_ns), self._take_effect, np.zeros_like(self._action))

    def _tick_from(self, when_ns: int) -> int:
        """Return the first tick that is not before ``when_ns``."""
        return when_ns + -when_ns % self._tick_ns

    def _charge(self, measured_s: float) -> float:
        charged, neighbor = self._charged, self._charged.neighbor
        duration_s = float(self._rng.choice(charged.decisions_s)) if charged.decisions_s else measured_s
        if neighbor is not None and self.now_ns / 1e9 % neighbor.every_s < neighbor.lasts_s:
            duration_s *= neighbor.factor
        return duration_s
