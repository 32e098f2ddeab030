"""The recipe of the demo's world model, from nothing to trained networks, in three stages that can be
resumed.

1. representation: encoder by predictive contrast, on frames drawn on the fly (:mod:`.representation`);
2. dynamics: predictor over the whole horizon on latents of the frozen encoder (:mod:`.dynamics`);
3. grounding: with the predictor's imagination journeys are timed (:mod:`.journeys`), and scene token,
predictor
   and energy learn together to explain them (:mod:`.grounding`).

Or a large one is trained that way, and small networks learn from it (:mod:`.imitation`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jepa_export.bundling.staging import write_errors_reported
from jepa_export.data.training_world import TrainingWorld
from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.errors import JepaExportError
from jepa_export.students.two_rooms_networks import Encoder, Energy, Predictor
from jepa_export.teachers.two_rooms_teacher import ViTTrunk
from jepa_export.training.checkpoint import alone
from jepa_export.training.dynamics import HORIZON, DynamicsStage
from jepa_export.training.imagined_distances import all_journeys
from jepa_export.training.latent_library import PRESSING, build_library, read_library
from jepa_export.training.representation import RepresentationStage
from jepa_export.training.stage import run_stage
from jepa_export.training.temporal_distance import TemporalDistanceStage
from jepa_export.training.two_rooms_distillation import (
    DynamicsDistillationStage,
    RepresentationDistillationStage,
)
from jepa_runtime.util.workers import end_with_parent

LIBRARY = "library.npz"
_LIBRARY_STREAM, _HELD_OUT_STREAM, _SIGHT_STREAM = 2, 3, 6


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How much of everything. ``layouts`` is the size of the library that stages 2 and 3 learn from;
    ``teacher``: train the large networks of :data:`TEACHER` instead of those that a robot runs."""

    representation_steps: int
    layouts: int
    dynamics_steps: int
    grounding_steps: int
    held_out_layouts: int = 48
    teacher: bool = False


@dataclass(frozen=True, kw_only=True)
class Imitation:
    """How long a student learns from a teacher: to see, then to imagine."""

    sight_steps: int
    imagination_steps: int


RECIPES: dict[str, Recipe] = {
    "fixed": Recipe(representation_steps=450, layouts=80, dynamics_steps=4000, grounding_steps=3000),
    "random": Recipe(representation_steps=2500, layouts=1300, dynamics_steps=15000, grounding_steps=8000),
    "reacher": Recipe(representation_steps=300, layouts=48, dynamics_steps=3000, grounding_steps=2000),
}
TEACHER_RECIPES: dict[str, Recipe] = {
    "fixed": replace(RECIPES["fixed"], teacher=True),
    "random": Recipe(
        representation_steps=1300, layouts=500, dynamics_steps=6000, grounding_steps=4000, teacher=True
    ),
}
IMITATIONS: dict[str, Imitation] = {
    "fixed": Imitation(sight_steps=200, imagination_steps=3000),
    "random": Imitation(sight_steps=1100, imagination_steps=18000),
}


# However many cores there are: the numbers depend on it.
_LARGE_THREADS = 2


@dataclass(frozen=True)
class Networks:
    """What makes untrained networks; the predictor is told the top speed."""

    encoder: Callable[[], Encoder]
    predictor: Callable[[float], Predictor]
    energy: Callable[[], Energy]


DIRECT = Networks(Encoder, lambda top: Predictor(top_speed=top), Energy)
# Each at least eight times the work of the student's.
TEACHER = Networks(
    lambda: Encoder(ViTTrunk()), lambda top: Predictor(width=512, top_speed=top), lambda: Energy(width=320)
)
STUDENT = Networks(
    lambda: Encoder(affine=True), lambda top: Predictor(width=160, top_speed=top), lambda: Energy(width=96)
)


@dataclass(frozen=True)
class TrainedModel:
    """The networks in evaluation mode, and recordings of layouts none of them was trained on."""

    course: TrainingWorld
    encoder: Encoder
    predictor: Predictor
    energy: Energy
    held_out: Recordings


def train(folder: Path, *, seed: int, course: TrainingWorld, recipe: Recipe | None = None) -> TrainedModel:
    """Train, or resume what ``folder`` holds; losses and checkpoints stay there.

    Raises:
        JepaExportError: the loss diverged, or ``folder`` cannot be written, or belongs to a run of other
            settings, or to one that goes on in another process.
    """
    recipe = recipe or RECIPES[course.kind]
    networks = TEACHER if recipe.teacher else DIRECT
    _claim(folder, f"seed {seed}, layout {course.kind}, {recipe}\n")
    torch.set_num_threads(_LARGE_THREADS if recipe.teacher else 1)
    with _renderer() as renderer:
        torch.manual_seed(seed)
        representation = RepresentationStage(
            seed,
            networks.encoder(),
            networks.predictor(course.top_speed),
            course=course,
            steps=recipe.representation_steps,
            renderer=renderer,
        )
        run_stage(representation, folder)
        encoder = representation.encoder.eval()
        library = build_library(
            encoder,
            seed,
            _LIBRARY_STREAM,
            layouts=recipe.layouts,
            course=course,
            renderer=renderer,
            cache=folder / LIBRARY,
        )
    torch.manual_seed(seed + 1)
    dynamics = DynamicsStage(library, networks.predictor(course.top_speed), steps=recipe.dynamics_steps)
    run_stage(dynamics, folder, every=1000)
    journeys = all_journeys(library, dynamics.predictor.eval(), folder / "journeys.npy")
    torch.manual_seed(seed + 2)
    grounding = TemporalDistanceStage(
        library, journeys, encoder, dynamics.predictor, networks.energy(), steps=recipe.grounding_steps
    )
    run_stage(grounding, folder, every=500)
    held_out = course.record(
        (seed, _HELD_OUT_STREAM),
        layouts=recipe.held_out_layouts,
        trajectories=4,
        frames=HORIZON + 1,
        pressing=PRESSING,
    )
    return TrainedModel(course, encoder.eval(), grounding.predictor.eval(), grounding.energy.eval(), held_out)


def distil(
    teacher: TrainedModel,
    teacher_folder: Path,
    folder: Path,
    *,
    seed: int,
    imitation: Imitation | None = None,
) -> TrainedModel:
    """Distil the small networks of :data:`STUDENT`, or resume what ``folder`` holds.

    Args:
        teacher_folder: where :func:`train` left the teacher's library.

    Raises:
        JepaExportError: as of :func:`train`.
    """
    course = teacher.course
    imitation = imitation or IMITATIONS[course.kind]
    _claim(folder, f"seed {seed}, layout {course.kind}, {imitation}\n")
    torch.set_num_threads(_LARGE_THREADS)
    with _renderer() as renderer:

        def draw(step: int) -> Future[Recordings]:
            return renderer.submit(
                course.record, (seed, _SIGHT_STREAM, step), layouts=32, trajectories=5, frames=2
            )

        torch.manual_seed(seed + 3)
        sight = RepresentationDistillationStage(
            teacher.encoder, STUDENT.encoder(), steps=imitation.sight_steps, draw=draw
        )
        run_stage(sight, folder)
    torch.manual_seed(seed + 4)
    imagination = DynamicsDistillationStage(
        (teacher.encoder, teacher.predictor, teacher.energy),
        read_library(teacher_folder / LIBRARY),
        STUDENT.predictor(course.top_speed),
        STUDENT.energy(),
        steps=imitation.imagination_steps,
    )
    run_stage(imagination, folder, every=1000)
    return replace(
        teacher,
        encoder=sight.encoder.eval(),
        predictor=imagination.predictor.eval(),
        energy=imagination.energy.eval(),
    )


def _renderer() -> ProcessPoolExecutor:
    """One process renders while this one learns: two cores, and numbers that do not depend on how many there
    are."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)


def _claim(folder: Path, settings: str) -> None:
    note = folder / "settings.txt"
    with write_errors_reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists() and note.read_text() != settings:
            raise JepaExportError(
                f"{folder} holds a run with other settings ({note.read_text().strip()}); "
                f"this one is: {settings.strip()}. "
                "Choose another --out, or remove the folder to start over"
            )
        alone(folder)
        note.write_text(settings)
