"""The complete evaluation of a bundle: each variant that this machine can run, on the same clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jepa_export.bundling.task_progress import Begin, ignore_progress
from jepa_export.bundling.teacher_retention import read_teacher_retention
from jepa_export.data.provenance_marks import trained_on
from jepa_export.errors import JepaExportError
from jepa_export.evaluation.clips import Clips, golden_clips, with_golden_states
from jepa_export.evaluation.comparison import compare, compare_predictions
from jepa_export.evaluation.compute_cost import multiply_adds
from jepa_export.evaluation.recorded_clips import recorded_clips
from jepa_export.evaluation.reference_outputs import Outputs, Reference, ServedModel, compute, golden_outputs
from jepa_export.evaluation.results import Cost, Evaluation, Variant
from jepa_export.evaluation.surprise_separation import separate
from jepa_export.evaluation.two_rooms_clips import draw, drives
from jepa_runtime.backends import DEFAULT_ENGINE, create_backend, engine_devices, split_engine
from jepa_runtime.bundle import Bundle
from jepa_runtime.control import ControllerConfig
from jepa_runtime.errors import BackendError
from jepa_runtime.model import WorldModel, graphs, runnable_precisions
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_sim.closed_loop.episodes import (
    SEEDS,
    Driver,
    baselines,
    episode_seeds,
    model_driver,
    run_episode,
)
from jepa_sim.closed_loop.scores import Goals
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.two_rooms_geometry import LayoutKind

DEFAULT_DATA = ("two_rooms",)
DEFAULT_CLIPS = 128
# Per seed; there are three seeds.
DEFAULT_EPISODES = 100
GOLDEN = "golden outputs"


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What to measure.

    Attributes:
        data: ``two_rooms`` (held out), or sources for
            :func:`~jepa_export.evaluation.recorded_clips.recorded_clips`.
        clips: Number of clips, and of scenes in Two Rooms.
        cache: Folder of decoded frames (None: temporary).
        skip_bad: Skip unusable recordings.
        episodes: Closed-loop episodes for each of three seeds; None: as many as the model warrants.
        layout: Layout of Two Rooms.
        seed: Seed of everything that is sampled.

    Raises:
        JepaExportError: A number is out of range.
    """

    data: tuple[str, ...] = DEFAULT_DATA
    clips: int = DEFAULT_CLIPS
    cache: Path | None = None
    skip_bad: bool = False
    episodes: int | None = None
    layout: LayoutKind = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "--clips": (self.clips, 1, 100_000),
            "--episodes": (self.episodes or 0, 0, 100_000),
            "--seed": (self.seed, 0, 2**32 - 1),
        }
        for option, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise JepaExportError(
                    f"{option}: must be between {low} and {high}, got {value}", code="export.invalid_option"
                )


@dataclass(frozen=True)
class _EngineVariant:
    engine: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}"

    def open(self, bundle: Bundle) -> WorldModel:
        return WorldModel.open(bundle, engine=self.engine, precision=self.precision, allow_untrained=True)


def evaluate(
    bundle: Bundle,
    plan: EvaluationPlan,
    *,
    references: Sequence[Reference] = (),
    begin: Begin = ignore_progress,
    reading: Callable[[str], None] = lambda _text: None,
) -> Evaluation:
    """Measure each variant of ``bundle`` that this machine can run. The same seed gives the same results.

    Args:
        bundle: The bundle.
        plan: What to measure.
        references: References in addition to the bundle's own fp32: a teacher, a student's checkpoint.
        begin: Called at the beginning of each task, see :data:`~jepa_export.bundling.task_progress.Begin`.
        reading: Called with a message every few seconds while a recording is decoded.

    Raises:
        JepaExportError: No variant runs here, an output is not finite, the clips are not available, or
            closed-loop episodes were requested for a model that does not drive in Two Rooms.
        JepaRuntimeError: The data or the bundle cannot be read.
    """
    manifest = bundle.manifest
    notes: list[str] = []
    episodes = _episodes(bundle, plan, notes)
    runnable, absent = _runnable(bundle)
    # First, so that problems with the data are reported early.
    given = None if plan.data == DEFAULT_DATA else _recorded(bundle, plan, begin, reading)
    drawn, scenes = draw(manifest, layout=plan.layout, count=plan.clips, seed=plan.seed)
    clips = drawn if given is None else given
    if given is None and not drives(manifest):
        notes.append("images of this model's own robot: name a recording of it (--data)")
    if manifest.io.state is not None:
        clips = with_golden_states(clips, bundle.golden())
        notes.append(
            "prediction accuracy: the model reads the measured state of the robot "
            f"({', '.join(manifest.io.state.names)}), which is not read from data here: variants are "
            "compared with the states of the golden outputs; jepa-runtime calibrate measures errors on a bag "
            "with states"
        )
    elif not clips.executed:
        notes.append(
            f"prediction accuracy: the executed actions of {clips.name} are unknown (bags: ?action=)"
        )
    expected = _fp32(bundle, runnable, clips, begin)
    golden = None if expected else bundle.golden()
    if golden is not None:
        notes.append(
            "reference: no fp32 graph of the bundle runs on this machine, so variants are compared with its "
            f"golden outputs, of {len(golden.frames)} frames"
        )
    for reference in references:
        expected[reference.name] = compute(reference, clips, begin(reference.name, len(clips)))

    def measure(form: _EngineVariant, model: WorldModel) -> Variant:
        known, served = expected.get(form.name), ServedModel(model, form.name)
        num_encode, num_scenes = len(clips) * (known is None), len(scenes.past) * drives(manifest)
        tick = begin(form.name, num_encode + num_scenes + len(SEEDS) * episodes)
        found = compute(served, clips, tick) if known is None else known
        comparisons = [compare(name, found, theirs) for name, theirs in expected.items()]
        if golden is not None:
            inputs = golden_clips(golden, manifest)
            comparisons.insert(0, compare(GOLDEN, compute(served, inputs), golden_outputs(golden, inputs)))
        return Variant(
            name=form.name,
            engine=f"{form.engine} {model.engine_version}",
            precision=form.precision,
            comparisons=comparisons,
            prediction_accuracy=compare_predictions(found, clips) if clips.executed else None,
            surprise=separate(model, form.name, scenes, seed=plan.seed, tick=tick) if num_scenes else None,
            drive=_drive(model, plan, episodes, tick) if episodes else None,
            **_costs(bundle, form, notes),
        )

    variants = []
    for form in runnable:
        try:
            with form.open(bundle) as model:
                variants.append(measure(form, model))
        except BackendError as error:
            absent[form.name] = str(error)
    if not variants:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
        raise JepaExportError(
            f"{bundle.path}: no variant runs on this machine: {reasons}", code="evaluation.nothing_runs"
        )
    return Evaluation(
        model_id=manifest.model_id,
        version=manifest.version,
        trained=manifest.trained,
        data=clips.name,
        clips=len(clips),
        frames=clips.frames.shape[0] * clips.frames.shape[1],
        futures=f"{manifest.num_samples} futures of {manifest.horizon} steps",
        teacher=read_teacher_retention(bundle),
        seed=plan.seed,
        variants=variants,
        absent=absent,
        baselines=_baselines(plan, manifest.io.step_s, episodes, begin) if episodes else {},
        notes=notes,
        machine={"cpu": cpu_info(), "versions": package_versions()},
    )


def _recorded(bundle: Bundle, plan: EvaluationPlan, begin: Begin, reading: Callable[[str], None]) -> Clips:
    return recorded_clips(
        plan.data,
        bundle.manifest,
        count=plan.clips,
        seed=plan.seed,
        trained_on=trained_on(bundle),
        cache=plan.cache,
        skip_bad=plan.skip_bad,
        begin=begin,
        reading=reading,
    )


def _episodes(bundle: Bundle, plan: EvaluationPlan, notes: list[str]) -> int:
    """Return the number of episodes per seed; reasons for what is not measured are added to ``notes``."""
    manifest, requested = bundle.manifest, plan.episodes
    if not drives(manifest):
        reason = (
            f"{bundle.path}: its actions ({', '.join(manifest.io.action.names)}) are not those of the robot "
            "in "
            "Two Rooms"
        )
        if requested:
            raise JepaExportError(
                f"{reason}, so it cannot be driven there; omit --episodes", code="evaluation.not_drivable"
            )
        notes.append(f"surprise at events, closed loop: {reason}")
        return 0
    if requested is None and not manifest.trained:
        notes.append(
            "closed loop: a model with random weights reaches no goal; --episodes N runs it regardless"
        )
        return 0
    return DEFAULT_EPISODES if requested is None else requested


def _runnable(bundle: Bundle) -> tuple[list[_EngineVariant], dict[str, str]]:
    """Return what the engines of this machine can run, and the reasons for the others."""
    runnable: list[_EngineVariant] = []
    absent: dict[str, str] = {}
    targets: set[str] = set()
    for engine in engine_devices():
        try:
            backend = create_backend(engine)
        except BackendError as error:
            absent[engine] = str(error).removeprefix(f"{engine}: ")
            continue
        precisions = runnable_precisions(bundle.manifest, backend.targets)
        targets.update(backend.targets)
        backend.close()
        runnable += [_EngineVariant(engine, precision) for precision in precisions]
        if not precisions:
            absent[engine] = "the bundle has no graph for it"
    for variant in bundle.manifest.graphs.encoder:
        if variant.target not in targets:
            absent[f"{variant.target} {variant.precision}"] = "no engine on this machine runs it"
    return runnable, absent


def _fp32(
    bundle: Bundle, runnable: Sequence[_EngineVariant], clips: Clips, begin: Begin
) -> dict[str, Outputs]:
    """Return the fp32 outputs of the bundle by the name of their variant; empty if none runs."""
    candidates = [form for form in runnable if form.precision == "fp32"]
    # Another engine than the default first: then the engines also verify each other.
    default, _ = split_engine(DEFAULT_ENGINE)
    for form in sorted(candidates, key=lambda form: split_engine(form.engine)[0] == default):
        try:
            with form.open(bundle) as model:
                name = f"{form.name}, the reference"
                return {form.name: compute(ServedModel(model, form.name), clips, begin(name, len(clips)))}
        except BackendError:
            continue  # Reported when this variant is measured.
    return {}


def _costs(bundle: Bundle, form: _EngineVariant, notes: list[str]) -> dict[str, Cost]:
    """Return the cost of the encoder for a frame, and of the predictor for all futures of a call."""
    manifest, backend = bundle.manifest, create_backend(form.engine)
    found = graphs(bundle, backend, form.precision, manifest.num_samples)
    backend.close()
    costs: dict[str, Cost] = {}
    for role, (graph, shapes) in found.items():
        if role == "predictor":
            # The runtime may compile for more candidates than the model has.
            shapes["actions"] = (manifest.num_samples, *shapes["actions"][1:])
        try:
            count = multiply_adds(graph, shapes)
        except JepaExportError as error:
            count = None
            notes.append(str(error))
        costs[role] = Cost(len(graph.model) + len(graph.weights or b""), count)
    return costs


def _drive(model: WorldModel, plan: EvaluationPlan, episodes: int, tick: Callable[[], None]) -> Goals:
    manifest = model.manifest
    driver = model_driver(model, ControllerConfig(), TwoRooms(layout=plan.layout, seed=0).task)
    return _goals(driver, plan, manifest.io.step_s, episodes, tick)


def _baselines(plan: EvaluationPlan, step_s: float, episodes: int, begin: Begin) -> dict[str, Goals]:
    return {
        name: _goals(driver, plan, step_s, episodes, begin(name, len(SEEDS) * episodes))
        for name, driver in baselines(TwoRooms(layout=plan.layout, seed=0)).items()
    }


def _goals(
    driver: Driver, plan: EvaluationPlan, step_s: float, episodes: int, tick: Callable[[], None]
) -> Goals:
    world, driven = TwoRooms(layout=plan.layout, seed=0), []
    for seed in episode_seeds([len(SEEDS) * plan.seed + seed for seed in SEEDS], episodes):
        driven.append(run_episode(world, driver, seed=seed, step_s=step_s))
        tick()
    return Goals.of(driven)
