"""Closed-loop evaluation of all engines and precisions of a bundle, and of baselines."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from jepa_runtime.backends import DEFAULT_ENGINE, BackendOptions, create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.control import ControllerConfig
from jepa_runtime.errors import BundleError, WorldError
from jepa_runtime.model import WorldModel, runnable_precisions
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_sim.closed_loop.charged_time import ChargedTime, run_charged_episode
from jepa_sim.closed_loop.episodes import (
    SEEDS,
    Driver,
    Episode,
    adapted,
    baselines,
    episode_seeds,
    model_driver,
    run_episode,
)
from jepa_sim.closed_loop.scores import Difference, Goals, PlanTime
from jepa_sim.worlds.interface import Image, Task, World

# Called after each episode with the driver's name and whether it reached the goal.
Tick = Callable[[str, bool], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to evaluate.

    Attributes:
        engines: Engines, each as ``engine:DEVICE``.
        precisions: Precisions of each engine; None: all that it can run.
        seeds: Seeds of the episodes.
        episodes: Episodes for each seed.
        planner: Settings of the controller, reduced to what the model predicts.
        threads: Threads of each engine.
        cache_dir: Engine cache; see :class:`~jepa_runtime.backends.base.BackendOptions`.
        baselines: Evaluate the baselines too.
        films: Number of first episodes whose images are retained.
        allow_untrained: Accept random weights.
        charged: Time that passes in the world while the robot thinks; None: thinking is free.
    """

    engines: tuple[str, ...] = (DEFAULT_ENGINE,)
    precisions: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = SEEDS
    episodes: int = 100
    planner: ControllerConfig = field(default_factory=ControllerConfig)
    threads: int = 1
    cache_dir: Path | None = None
    baselines: bool = True
    films: int = 0
    allow_untrained: bool = False
    charged: ChargedTime | None = None

    @property
    def options(self) -> BackendOptions:
        """Options of each engine."""
        return BackendOptions(threads=self.threads, cache_dir=self.cache_dir)


@dataclass(frozen=True)
class Film:
    """The images of one episode, and its goal."""

    episode: Episode
    goal: Image
    frames: list[Image]


@dataclass(frozen=True)
class Drive:
    """The episodes of one driver, and films of the first ones."""

    episodes: list[Episode]
    films: list[Film]


@dataclass(frozen=True)
class ClosedLoop:
    """Results of a closed-loop evaluation.

    Attributes:
        model: Identifier and version of the model.
        sha256: Hash of the bundle's manifest.
        trained: Whether the weights were trained.
        task: Task of the world.
        engines: Version of each engine, by its name.
        plan: What was evaluated.
        planner: Settings of the controller as used.
        drives: Episodes by driver: the variants of the model, then the baselines. All are compared with the
            first.
        machine: Processor, versions, and the load average of the last minute before the start.
    """

    model: str
    sha256: str
    trained: bool
    task: Task
    engines: dict[str, str]
    plan: Plan
    planner: ControllerConfig
    drives: dict[str, Drive]
    machine: dict[str, Any]

    @property
    def goals(self) -> dict[str, Goals]:
        """Goals reached by each driver."""
        return {name: Goals.of(drive.episodes) for name, drive in self.drives.items()}

    @property
    def plan_times(self) -> dict[str, PlanTime]:
        """Decision times of each driver."""
        return {name: PlanTime.of(drive.episodes) for name, drive in self.drives.items()}

    @property
    def differences(self) -> dict[str, Difference]:
        """Differences between each other driver and the first one, in the same episodes."""
        (_, first), *others = self.drives.items()
        return {name: Difference.of(drive.episodes, first.episodes) for name, drive in others}

    def as_dict(self) -> dict[str, Any]:
        """Return the results as JSON data."""
        times = self.plan_times
        return {
            "world": self.task.name,
            "stop": "decided by the model's energy; the baselines stop by the true distance",
            "tolerance": {"value": self.task.tolerance, "unit": self.task.unit},
            "max_steps": self.task.max_steps,
            "seeds": list(self.plan.seeds),
            "planner": asdict(self.planner),
            "charged_time": None if self.plan.charged is None else self.plan.charged.as_dict(),
            "model": self.model,
            "sha256": self.sha256,
            "trained": self.trained,
            "engines": self.engines,
            "threads": self.plan.threads,
            "machine": self.machine,
            "scores": {
                name: asdict(goals) | {"plan_ms_p50": times[name].p50, "plan_ms_p95": times[name].p95}
                for name, goals in self.goals.items()
            },
            "against": next(iter(self.drives)),
            "differences": {name: asdict(found) for name, found in self.differences.items()},
        }


def closed_loop(
    bundle: Bundle,
    world: World,
    plan: Plan,
    *,
    peers: Mapping[str, Driver] | None = None,
    tick: Tick = lambda _name, _reached: None,
) -> ClosedLoop:
    """Run the evaluation.

    All drivers have the same episodes and take turns at each, so that other load on the machine affects all.

    Args:
        bundle: The bundle.
        world: The world.
        plan: What to evaluate.
        peers: Further drivers by name.
        tick: Called after each episode.

    Raises:
        WorldError: The model cannot act in this world.
        BundleError: It has no graphs for an engine or precision, or is untrained.
        BackendError: An engine cannot run it.
    """
    manifest = bundle.manifest
    mismatch = world.task.mismatch(manifest)
    if mismatch is not None:
        raise WorldError(
            f"{bundle.path} cannot drive in {world.task.name}: {mismatch}", code="sim.model_mismatch"
        )
    planner = adapted(plan.planner, manifest, world.task)
    if plan.charged is not None:
        planner = plan.charged.adapted(planner)
    machine = {"cpu": cpu_info(), "versions": package_versions(), "load_average": os.getloadavg()[0]}
    with ExitStack() as opened:
        models = {
            name: opened.enter_context(_open(bundle, plan, engine, precision))
            for name, (engine, precision) in _variants(bundle, plan).items()
        }
        drivers = {name: model_driver(model, planner, world.task) for name, model in models.items()}
        drivers.update(peers or {})
        drivers.update(baselines(world) if plan.baselines else {})
        if plan.charged is not None:
            # One camera for all.
            drivers = {
                name: replace(driver, images_per_step=planner.images_per_step)
                for name, driver in drivers.items()
            }
        drives = _drive_all(world, drivers, plan, manifest.io.step_s, tick)
        engines = {f"{model.engine}:{model.device}": model.engine_version for model in models.values()}
    return ClosedLoop(
        model=f"{manifest.model_id} {manifest.version}",
        sha256=bundle.sha256,
        trained=manifest.trained,
        task=world.task,
        engines=engines,
        plan=plan,
        planner=planner,
        drives=drives,
        machine=machine,
    )


@contextmanager
def progress(total: int, console: Console) -> Iterator[Tick]:
    """Show a progress bar for each driver, with its goals reached.

    Args:
        total: Episodes of each driver.
        console: Where to show it; nothing is shown if this is not a terminal.
    """
    with Progress(
        TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[reached]} reached"), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as shown:  # fmt: skip
        tasks: dict[str, TaskID] = {}
        reached: Counter[str] = Counter()

        def tick(name: str, success: bool) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=total, reached=0)
            reached[name] += success
            shown.update(tasks[name], advance=1, reached=reached[name])

        yield tick


def _variants(bundle: Bundle, plan: Plan) -> dict[str, tuple[str, str]]:
    """Return engine and precision by name, fp32 first. With one engine the name is the precision."""
    variants: list[tuple[str, str]] = []
    for engine in plan.engines:
        backend = create_backend(engine, plan.options)
        precisions = plan.precisions or runnable_precisions(bundle.manifest, backend.targets)
        backend.close()
        if not precisions:
            raise BundleError(
                f"{bundle.path}: no graphs that {engine} can run", code="bundle.no_graphs_for_engine"
            )
        variants += [(engine, precision) for precision in precisions]
    variants.sort(key=lambda variant: variant[1] != "fp32")
    is_single = len(plan.engines) == 1
    return {
        precision if is_single else f"{engine} {precision}": (engine, precision)
        for engine, precision in variants
    }


def _open(bundle: Bundle, plan: Plan, engine: str, precision: str) -> WorldModel:
    return WorldModel.open(
        bundle,
        engine=engine,
        precision=precision,
        num_samples=plan.planner.search.num_samples,
        options=plan.options,
        allow_untrained=plan.allow_untrained,
    )


def _drive_all(
    world: World, drivers: Mapping[str, Driver], plan: Plan, step_s: float, tick: Tick
) -> dict[str, Drive]:
    drives = {name: Drive([], []) for name in drivers}
    for number, seed in enumerate(episode_seeds(plan.seeds, plan.episodes)):
        for name, driver in drivers.items():
            frames: list[Image] = []
            is_filmed = number < plan.films
            watch = frames.append if is_filmed else _discard
            if plan.charged is None:
                episode = run_episode(world, driver, seed=seed, step_s=step_s, watch=watch)
            else:
                episode = run_charged_episode(
                    world, driver, plan.charged, seed=seed, step_s=step_s, watch=watch
                )
            drives[name].episodes.append(episode)
            if is_filmed:
                drives[name].films.append(Film(episode, world.render_goal(), frames))
            tick(name, episode.outcome == "reached")
    return drives


def _discard(_frame: Image) -> None:
    pass
