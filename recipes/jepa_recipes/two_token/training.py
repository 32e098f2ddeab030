"""Training of a two-token world model: three stages, each of which can be resumed.

1. Representation: the encoder, by predictive contrast, on frames rendered on the fly
   (:mod:`.representation`).
2. Dynamics: the predictor, over the whole horizon, on latents of the frozen encoder (:mod:`.dynamics`).
3. Temporal distance: the predictor gives the steps between latents (:mod:`.imagined_distances`), and scene
   head, predictor and energy learn together to explain them (:mod:`.temporal_distance`).

Alternatively a large model is trained that way, and small networks learn from it (:mod:`.distillation`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from jepa_export.bundling.staging import write_errors_reported
from jepa_export.data.two_rooms_recordings import Recordings
from jepa_export.distillation.frozen_encoders import BundleEncoder
from jepa_export.errors import JepaExportError
from jepa_export.training.checkpoint import lock_folder
from jepa_export.training.stage import run_stage
from jepa_recipes.training_worlds.interface import TrainingWorld
from jepa_recipes.two_token.distillation import (
    DynamicsDistillationStage,
    RepresentationDistillationStage,
)
from jepa_recipes.two_token.dynamics import HORIZON, DynamicsStage
from jepa_recipes.two_token.imagined_distances import load_or_compute_distances
from jepa_recipes.two_token.latent_library import PRESSING, build_library, read_library
from jepa_recipes.two_token.metrics import joint_r2
from jepa_recipes.two_token.networks import (
    ActionPrefixPredictor,
    Encoder,
    Energy,
    JointEstimate,
    Predictor,
)
from jepa_recipes.two_token.predictor_distillation import PredictorDistillationStage
from jepa_recipes.two_token.representation import RepresentationStage
from jepa_recipes.two_token.temporal_distance import TemporalDistanceStage
from jepa_recipes.two_token.vit_trunk import ViTTrunk
from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.util import end_with_parent

LIBRARY = "library.npz"
_LIBRARY_STREAM, _HELD_OUT_STREAM, _DISTILLATION_STREAM = 2, 3, 6


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Amount of training.

    Attributes:
        layouts: Size of the library that stages 2 and 3 learn from.
        teacher: Train the large networks of :data:`TEACHER` instead of those that a robot runs.
        min_joints_r2: Smallest coefficient of determination of the joint angles, in a world with joints, with
            which training goes on after stage 1.
    """

    representation_steps: int
    layouts: int
    dynamics_steps: int
    temporal_distance_steps: int
    held_out_layouts: int = 48
    teacher: bool = False
    min_joints_r2: float = 0.7


@dataclass(frozen=True, kw_only=True)
class DistillationRecipe:
    """Training steps of a student that learns from a teacher."""

    representation_steps: int
    dynamics_steps: int


RECIPES: dict[str, Recipe] = {
    "fixed": Recipe(representation_steps=450, layouts=80, dynamics_steps=4000, temporal_distance_steps=3000),
    "random": Recipe(
        representation_steps=2500, layouts=1300, dynamics_steps=15000, temporal_distance_steps=8000
    ),
    "reacher": Recipe(
        representation_steps=1200, layouts=96, dynamics_steps=6000, temporal_distance_steps=4000
    ),
    "stable_worldmodel": Recipe(
        representation_steps=450, layouts=80, dynamics_steps=4000, temporal_distance_steps=3000
    ),
}
TEACHER_RECIPES: dict[str, Recipe] = {
    "fixed": replace(RECIPES["fixed"], teacher=True),
    "random": Recipe(
        representation_steps=1300,
        layouts=500,
        dynamics_steps=6000,
        temporal_distance_steps=4000,
        teacher=True,
    ),
}
DISTILLATION_RECIPES: dict[str, DistillationRecipe] = {
    "fixed": DistillationRecipe(representation_steps=200, dynamics_steps=3000),
    "random": DistillationRecipe(representation_steps=1100, dynamics_steps=18000),
}


@dataclass(frozen=True, kw_only=True)
class PredictorRecipe:
    """Amount of training of a predictor on the encoder of a bundle.

    Attributes:
        action_prefixes: The predictor returns all steps in one call; otherwise it is applied recursively.
        layouts: Size of the library that it learns from.
        steps: Training steps.
        held_out_layouts: Layouts that errors are measured on.
    """

    action_prefixes: bool
    layouts: int = 480
    steps: int = 3000
    held_out_layouts: int = 48

    def create(self, top_speed: float) -> Predictor | ActionPrefixPredictor:
        """Create the untrained predictor."""
        if self.action_prefixes:
            return ActionPrefixPredictor(HORIZON, width=_PREDICTOR_WIDTH, top_speed=top_speed)
        return Predictor(width=_PREDICTOR_WIDTH, top_speed=top_speed)


# Half of the shipped predictor's.
_PREDICTOR_WIDTH = 128
# Independent of the number of cores: results depend on it.
_LARGE_THREADS = 2


@dataclass(frozen=True)
class Networks:
    """Constructors of untrained networks; the argument of ``predictor`` is the top speed."""

    encoder: Callable[[], Encoder]
    predictor: Callable[[float], Predictor]
    energy: Callable[[], Energy]


DIRECT = Networks(Encoder, lambda top: Predictor(top_speed=top), Energy)
# Each requires at least eight times the compute of the student's.
TEACHER = Networks(
    lambda: Encoder(ViTTrunk()), lambda top: Predictor(width=512, top_speed=top), lambda: Energy(width=320)
)
STUDENT = Networks(
    lambda: Encoder(affine=True), lambda top: Predictor(width=160, top_speed=top), lambda: Energy(width=96)
)


@dataclass(frozen=True)
class TrainedModel:
    """Networks in evaluation mode, and recordings of layouts that none of them was trained on."""

    training_world: TrainingWorld
    encoder: Encoder
    predictor: Predictor
    energy: Energy
    held_out: Recordings


def train(
    folder: Path, *, seed: int, training_world: TrainingWorld, recipe: Recipe | None = None
) -> TrainedModel:
    """Train a model, or resume the run in ``folder``; losses and checkpoints are written there.

    Raises:
        JepaExportError: The loss diverged, ``folder`` cannot be written, belongs to a run with other
            settings, or is in use by another process.
    """
    recipe = recipe or RECIPES[training_world.kind]
    networks = TEACHER if recipe.teacher else DIRECT
    _claim(folder, f"seed {seed}, layout {training_world.kind}, {recipe}\n")
    torch.set_num_threads(_LARGE_THREADS if recipe.teacher else 1)
    with _renderer() as renderer:
        torch.manual_seed(seed)
        representation = RepresentationStage(
            seed,
            networks.encoder(),
            networks.predictor(training_world.top_speed),
            training_world=training_world,
            steps=recipe.representation_steps,
            renderer=renderer,
        )
        run_stage(representation, folder)
        encoder = representation.encoder.eval()
        held_out = _held_out(training_world, seed, recipe.held_out_layouts)
        if representation.joints is not None:
            _check_joints(encoder, representation.joints, held_out, recipe.min_joints_r2)
        library = build_library(
            encoder,
            seed,
            _LIBRARY_STREAM,
            layouts=recipe.layouts,
            training_world=training_world,
            renderer=renderer,
            cache=folder / LIBRARY,
        )
    torch.manual_seed(seed + 1)
    dynamics = DynamicsStage(
        library, networks.predictor(training_world.top_speed), steps=recipe.dynamics_steps
    )
    run_stage(dynamics, folder, checkpoint_every=1000)
    coordinates = representation.joints or nn.Identity()
    distances = load_or_compute_distances(
        library, dynamics.predictor.eval(), coordinates, folder / "journeys.npy"
    )
    torch.manual_seed(seed + 2)
    temporal = TemporalDistanceStage(
        library,
        distances,
        encoder,
        dynamics.predictor,
        networks.energy(),
        steps=recipe.temporal_distance_steps,
    )
    run_stage(temporal, folder, checkpoint_every=500)
    return TrainedModel(
        training_world, encoder.eval(), temporal.predictor.eval(), temporal.energy.eval(), held_out
    )


def distill(
    teacher: TrainedModel,
    teacher_folder: Path,
    folder: Path,
    *,
    seed: int,
    recipe: DistillationRecipe | None = None,
) -> TrainedModel:
    """Distill the small networks of :data:`STUDENT`, or resume the run in ``folder``.

    Args:
        teacher: The large networks.
        teacher_folder: Folder of the teacher's run, which holds its library.
        folder: Folder of this run.
        seed: Seed of weights and data.
        recipe: Amount of training; None: the recipe of this layout.

    Raises:
        JepaExportError: See :func:`train`.
    """
    training_world = teacher.training_world
    recipe = recipe or DISTILLATION_RECIPES[training_world.kind]
    _claim(folder, f"seed {seed}, layout {training_world.kind}, {recipe}\n")
    torch.set_num_threads(_LARGE_THREADS)
    with _renderer() as renderer:

        def draw(step: int) -> Future[Recordings]:
            return renderer.submit(
                training_world.record,
                (seed, _DISTILLATION_STREAM, step),
                layouts=32,
                trajectories=5,
                frames=2,
            )

        torch.manual_seed(seed + 3)
        representation = RepresentationDistillationStage(
            teacher.encoder, STUDENT.encoder(), steps=recipe.representation_steps, draw=draw
        )
        run_stage(representation, folder)
    torch.manual_seed(seed + 4)
    dynamics = DynamicsDistillationStage(
        (teacher.encoder, teacher.predictor, teacher.energy),
        read_library(teacher_folder / LIBRARY),
        STUDENT.predictor(training_world.top_speed),
        STUDENT.energy(),
        steps=recipe.dynamics_steps,
    )
    run_stage(dynamics, folder, checkpoint_every=1000)
    return replace(
        teacher,
        encoder=representation.encoder.eval(),
        predictor=dynamics.predictor.eval(),
        energy=dynamics.energy.eval(),
    )


def distill_predictor(
    base: Bundle, folder: Path, *, seed: int, training_world: TrainingWorld, recipe: PredictorRecipe
) -> tuple[Predictor | ActionPrefixPredictor, Recordings]:
    """Train a predictor on the encoder and the predictor of a bundle, or resume the run in ``folder``.

    Returns:
        The predictor in evaluation mode, and recordings of layouts that it was not trained on.

    Raises:
        JepaExportError: See :func:`train`.
        JepaRuntimeError: ``base`` does not run here in fp32.
    """
    _claim(folder, f"seed {seed}, bundle {base.sha256}, {recipe}\n")
    torch.set_num_threads(1)
    with _renderer() as renderer:
        library = build_library(
            BundleEncoder(base),
            seed,
            _LIBRARY_STREAM,
            layouts=recipe.layouts,
            training_world=training_world,
            renderer=renderer,
            cache=folder / LIBRARY,
        )
    torch.manual_seed(seed)
    with WorldModel.open(base, precision="fp32", options=BackendOptions(threads=1)) as teacher:
        stage = PredictorDistillationStage(
            teacher, library, recipe.create(training_world.top_speed), steps=recipe.steps
        )
        run_stage(stage, folder, checkpoint_every=1000)
    return stage.predictor.eval(), _held_out(training_world, seed, recipe.held_out_layouts)


def _check_joints(encoder: Encoder, joints: JointEstimate, held_out: Recordings, minimum: float) -> None:
    """Check that each joint can be read from the robot token; later stages cannot make up for it.

    Raises:
        JepaExportError: The coefficient of determination of a joint is below ``minimum``.
    """
    found = joint_r2(encoder, joints, held_out)
    if min(found) < minimum:
        listed = ", ".join(f"{value:.2f}" for value in found)
        raise JepaExportError(
            f"the encoder does not represent every joint: R2 of the joint angles on held-out recordings is "
            f"{listed}, less than {minimum:g}; train stage 1 for longer, or with another --seed",
            code="training.joints_not_represented",
        )


def _held_out(training_world: TrainingWorld, seed: int, layouts: int) -> Recordings:
    return training_world.held_out().record(
        (seed, _HELD_OUT_STREAM), layouts=layouts, trajectories=4, frames=HORIZON + 1, pressing=PRESSING
    )


def _renderer() -> ProcessPoolExecutor:
    """Start the process that renders while this one trains.

    Exactly one, so that two cores are used and results do not depend on the number of cores.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)


def _claim(folder: Path, settings: str) -> None:
    note = folder / "settings.txt"
    with write_errors_reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists() and note.read_text() != settings:
            raise JepaExportError(
                f"{folder}: holds a run with other settings ({note.read_text().strip()}) than this one "
                f"({settings.strip()}); choose another --output, or remove the folder to start over",
                code="training.settings_mismatch",
            )
        lock_folder(folder)
        note.write_text(settings)
