"""The same episodes for every engine and precision of a bundle, in turns, and for what needs no model."""

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

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.registry import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.control.synchronous_controller import ControlConfig
from jepa_runtime.errors import BundleError, WorldError
from jepa_runtime.model.compiled_graphs import runnable_precisions
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.telemetry.environment import cpu, versions
from jepa_sim.closed_loop.episodes import (
    SEEDS,
    Driver,
    Episode,
    baselines,
    episode_seeds,
    model_policy,
    run_episode,
)
from jepa_sim.closed_loop.scores import Difference, Goals, PlanTime
from jepa_sim.worlds.interface import Image, Task, World

# Called after each episode with the driver's name and whether it got there.
Tick = Callable[[str, bool], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to drive.

    Attributes:
        engines: ``engine:DEVICE`` each.
        precisions: of each engine; None: all that it can run.
        seeds, episodes: so many episodes for each seed.
        planner: settings, brought to what the model can predict (:func:`fitted`).
        threads: of each engine.
        cache_dir: see :class:`~jepa_runtime.backends.base.BackendOptions`.
        baselines: drive them too.
        films: of so many episodes, the first ones, all frames are kept.
        allow_untrained: accept random weights.
    """

    engines: tuple[str, ...] = ("openvino:CPU",)
    precisions: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = SEEDS
    episodes: int = 100
    planner: ControlConfig = field(default_factory=ControlConfig)
    threads: int = 1
    cache_dir: Path | None = None
    baselines: bool = True
    films: int = 0
    allow_untrained: bool = False

    @property
    def options(self) -> BackendOptions:
        """Of each engine."""
        return BackendOptions(threads=self.threads, cache_dir=self.cache_dir)


@dataclass(frozen=True)
class Film:
    """What the camera showed in one episode, and its goal."""

    episode: Episode
    goal: Image
    frames: list[Image]


@dataclass(frozen=True)
class Drive:
    """One driver's episodes, and the films of the first ones."""

    episodes: list[Episode]
    films: list[Film]


@dataclass(frozen=True)
class ClosedLoop:
    """What was driven, and how it went.

    Attributes:
        model: identifier and version.
        sha256: of the bundle's manifest.
        engines: the name of each engine, and its version.
        planner: as it planned.
        machine: processor, versions, and the load average of the last minute before it began.
        drives: by name of the driver: the forms of the model, with the first of which all are compared,
            then what needs no model.
    """

    model: str
    sha256: str
    trained: bool
    task: Task
    engines: dict[str, str]
    plan: Plan
    planner: ControlConfig
    drives: dict[str, Drive]
    machine: dict[str, Any]

    @property
    def goals(self) -> dict[str, Goals]:
        """Goals reached, by driver."""
        return {name: Goals.of(drive.episodes) for name, drive in self.drives.items()}

    @property
    def plan_times(self) -> dict[str, PlanTime]:
        """What decisions took, by driver."""
        return {name: PlanTime.of(drive.episodes) for name, drive in self.drives.items()}

    @property
    def differences(self) -> dict[str, Difference]:
        """Every other driver against the first form, in the same episodes."""
        (_, first), *others = self.drives.items()
        return {name: Difference.of(drive.episodes, first.episodes) for name, drive in others}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        times = self.plan_times
        return {
            "world": self.task.name,
            "stop": "decided by the model's energy; the baselines stop by the true distance",
            "tolerance": {"value": self.task.tolerance, "unit": self.task.unit},
            "max_steps": self.task.max_steps,
            "seeds": list(self.plan.seeds),
            "planner": asdict(self.planner),
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
    """Drive. Every driver has the same episodes, and they take turns at each: what else the machine does
    meets them all.

    Args:
        peers: further drivers by name, compared with the model's.

    Raises:
        WorldError: the model cannot act in this world.
        BundleError: it has nothing for an engine or precision, or is untrained.
        BackendError: an engine cannot run it.
    """
    manifest = bundle.manifest
    misfit = world.task.misfit(manifest)
    if misfit is not None:
        raise WorldError(f"{bundle.path} cannot drive in {world.task.name}: {misfit}")
    planner = fitted(plan.planner, manifest.horizon)
    machine = {"cpu": cpu(), "versions": versions(), "load_average": os.getloadavg()[0]}
    with ExitStack() as opened:
        models = {
            name: opened.enter_context(_open(bundle, plan, engine, precision))
            for name, (engine, precision) in _forms(bundle, plan).items()
        }
        drivers = {name: model_policy(model, planner) for name, model in models.items()}
        drivers.update(peers or {})
        drivers.update(baselines(world) if plan.baselines else {})
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


def fitted(planner: ControlConfig, horizon: int, num_samples: int | None = None) -> ControlConfig:
    """Settings for a model that predicts ``horizon`` steps and, if it is told, no more than ``num_samples``
    candidates at once: what exceeds that is brought down to it."""
    search = planner.search
    samples = search.num_samples if num_samples is None else min(search.num_samples, num_samples)
    search = replace(
        search,
        num_samples=samples,
        topk=min(search.topk, samples),
        keep_elites=min(search.keep_elites, samples - 1),
        horizon=min(search.horizon, horizon),
    )
    return replace(planner, search=search, replan_every=min(planner.replan_every, search.horizon))


@contextmanager
def progress(total: int, console: Console) -> Iterator[Tick]:
    """A bar of ``total`` episodes for each driver, which also counts the goals reached; silent where
    ``console`` is no terminal."""
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


def _forms(bundle: Bundle, plan: Plan) -> dict[str, tuple[str, str]]:
    """Engine and precision by name; fp32 first, where there is one. Precisions alone are names enough for one
    engine."""
    forms: list[tuple[str, str]] = []
    for engine in plan.engines:
        backend = create_backend(engine, plan.options)
        precisions = plan.precisions or runnable_precisions(bundle.manifest, backend.targets)
        backend.close()
        if not precisions:
            raise BundleError(f"{bundle.path}: has nothing that {engine} can run")
        forms += [(engine, precision) for precision in precisions]
    forms.sort(key=lambda form: form[1] != "fp32")
    alone = len(plan.engines) == 1
    return {
        precision if alone else f"{engine} {precision}": (engine, precision) for engine, precision in forms
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
            kept = number < plan.films
            episode = run_episode(
                world, driver, seed=seed, step_s=step_s, watch=frames.append if kept else _look_away
            )
            drives[name].episodes.append(episode)
            if kept:
                drives[name].films.append(Film(episode, world.render_goal(), frames))
            tick(name, episode.outcome == "reached")
    return drives


def _look_away(_frame: Image) -> None:
    """Nothing is kept."""
