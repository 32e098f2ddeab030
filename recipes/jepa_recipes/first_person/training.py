"""The training run: drives are sampled once, then stages train on frames of them.

A model is either trained by the joint stage (:func:`train`), or distilled (:func:`distill`): a teacher learns
by masked latent prediction on clips, then by the joint stage on single frames, and small networks learn from
it. A folder can hold both: they share its drives. After the joint stage of a model without teacher, its
predictor learns on alone. A policy to compare with is trained by :func:`clone`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from jepa_export.errors import JepaExportError
from jepa_export.training.checkpoint import claim_folder, load, lock_folder
from jepa_recipes.first_person.clip_networks import FRAMES
from jepa_recipes.first_person.clips import ClipShape
from jepa_recipes.first_person.cloning import CLONING, CloningStage, Policy
from jepa_recipes.first_person.distillation import DistillationStage
from jepa_recipes.first_person.joint import JointStage
from jepa_recipes.first_person.library import DriveLibrary, LibrarySize, build_library
from jepa_recipes.first_person.masked import MaskedStage
from jepa_recipes.first_person.networks import Networks, create_networks
from jepa_recipes.first_person.prediction import PredictionStage
from jepa_recipes.first_person.schedule import Amount, Schedule
from jepa_recipes.first_person.sizes import LAYOUTS, STUDENT, TEACHER, NetworkSize
from jepa_recipes.first_person.stage import StageSettings, discard_outdated, run_drive_stage

_LIBRARY = LibrarySize(layouts=LAYOUTS, drives=6, steps=48)
_HELD_OUT = LibrarySize(layouts=200, drives=2, steps=40)
_MASKED = Amount(clips=ClipShape(drives=30, frames=FRAMES, turned=0, consecutive=30), pairs=0)
_PREDICTION = Amount(
    clips=ClipShape(drives=6, frames=10, turned=0, consecutive=6),
    pairs=0,
    schedule=Schedule(prediction=0, decay=400_000, evaluation=50_000),
)
_LIBRARY_STREAM, _HELD_OUT_STREAM = 2, 3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run consists of, apart from its length.

    Attributes:
        library: Size of the library for training.
        held_out: Size of the library for the evaluation.
        amount: Size of a batch, and the schedule, of the joint stages and the distillation.
        masked: Those of the masked stage.
        prediction: Those of the prediction stage.
        teacher: Size of the teacher.
        student: Size of the model for a robot.
    """

    library: LibrarySize = _LIBRARY
    held_out: LibrarySize = _HELD_OUT
    amount: Amount = field(default_factory=Amount)
    masked: Amount = _MASKED
    prediction: Amount = _PREDICTION
    teacher: NetworkSize = TEACHER
    student: NetworkSize = STUDENT


@dataclass(frozen=True, kw_only=True)
class TeacherTraining:
    """How a teacher is trained, and how it counts.

    Attributes:
        masked_frames: Number of camera images of the masked stage.
        frames: Number of camera images of the joint stage.
        odometry_weight: Weight of the terms of the joint stage, from odometry and later images, in the
            distillation; 0: the student learns from the teacher alone.
        starts_from_joint: Whether the student starts from the networks of :func:`train` in the same folder,
            and not from random weights.
    """

    masked_frames: int
    frames: int
    odometry_weight: float
    starts_from_joint: bool = False


@dataclass(frozen=True)
class DistilledNetworks:
    """A teacher, and the student that learned from it."""

    teacher: Networks
    student: Networks


def train(
    folder: Path,
    *,
    seed: int,
    frames: int,
    prediction_frames: int,
    threads: int,
    bf16: bool = False,
    recipe: Recipe | None = None,
    checkpoint_every: int = 100,
) -> Networks:
    """Train the networks by the joint stage and the prediction stage, or resume the run in ``folder``.

    A finished run continues with more ``frames``, from before the decay of its learning rate, and ends as a
    run that had this length from the start; the prediction stage then starts over.

    Args:
        folder: Folder of drives, checkpoints and losses.
        seed: Seed of drives, weights and batches.
        frames: Number of camera images of the joint stage.
        prediction_frames: Number of camera images of the prediction stage.
        threads: Threads of torch. With another number, the same run differs by rounding.
        bf16: See :class:`~jepa_recipes.first_person.stage.StageSettings`; also differs by rounding.
        recipe: The recipe; None: that of the model for a robot.
        checkpoint_every: Steps between two checkpoints.

    Raises:
        JepaExportError: The loss diverged, ``folder`` cannot be written, belongs to a run with other
            settings, or is in use by another process.
    """
    with _open_run(folder, seed, recipe or Recipe(), threads, bf16) as run:
        torch.manual_seed(seed)
        joint = JointStage(create_networks(run.recipe.student), run.settings(run.recipe.amount, frames))
        run_drive_stage(joint, checkpoint_every=checkpoint_every)
        run.train_prediction(joint, "prediction", prediction_frames, checkpoint_every)
    return joint.networks.eval()


def distill(
    folder: Path,
    *,
    seed: int,
    frames: int,
    prediction_frames: int,
    teacher: TeacherTraining,
    threads: int,
    bf16: bool = False,
    recipe: Recipe | None = None,
    checkpoint_every: int = 100,
) -> DistilledNetworks:
    """Train a teacher and distill the networks from it, or resume the run in ``folder``.

    Each stage can be made longer as in :func:`train`, unless one that starts from it has begun.

    Args:
        folder: Folder of drives, checkpoints and losses.
        seed: Seed of drives, weights and batches.
        frames: Number of camera images to distill on.
        prediction_frames: Number of camera images on which the student's predictor then trains alone.
        teacher: How the teacher is trained.
        threads: Threads of torch. With another number, the same run differs by rounding.
        bf16: See :class:`~jepa_recipes.first_person.stage.StageSettings`; also differs by rounding.
        recipe: The recipe; None: that of the model for a robot.
        checkpoint_every: Steps between two checkpoints.

    Raises:
        JepaExportError: See :func:`train`; or the latents of the masked stage collapsed; or the student
            starts from the joint stage, which has not begun.
    """
    start = {"joint": joint_steps(folder)} if teacher.starts_from_joint else dict[str, float]()
    with _open_run(folder, seed, recipe or Recipe(), threads, bf16) as run:
        amount, depends_on = run.recipe.amount, dict[str, float]()
        torch.manual_seed(seed + 1)
        large = create_networks(run.recipe.teacher)
        masked = MaskedStage(large.encoder, run.settings(run.recipe.masked, teacher.masked_frames))
        run_drive_stage(masked, checkpoint_every=checkpoint_every)
        depends_on |= {masked.name: masked.steps}
        torch.manual_seed(seed + 2)
        large = Networks(masked.target.frame.requires_grad_(), large.head, large.predictor)
        joint = JointStage(
            large, run.settings(amount, teacher.frames, depends_on=depends_on), name="teacher_joint"
        )
        run_drive_stage(joint, checkpoint_every=checkpoint_every)
        depends_on |= {joint.name: joint.steps, "odometry_weight": teacher.odometry_weight} | start
        torch.manual_seed(seed + 3)
        if teacher.starts_from_joint:
            student = load_networks(_joint(folder), run.recipe.student).train()
            amount = replace(amount, schedule=amount.schedule.continued())
        else:
            student = create_networks(run.recipe.student)
        distillation = DistillationStage(
            student,
            large,
            run.settings(amount, frames, depends_on=depends_on),
            odometry_weight=teacher.odometry_weight,
        )
        run_drive_stage(distillation, checkpoint_every=checkpoint_every)
        run.train_prediction(distillation, "distilled_prediction", prediction_frames, checkpoint_every)
    return DistilledNetworks(large.eval(), distillation.networks.eval())


def clone(
    folder: Path,
    *,
    seed: int,
    frames: int,
    threads: int,
    bf16: bool = False,
    recipe: Recipe | None = None,
    amount: Amount = CLONING,
    checkpoint_every: int = 100,
) -> Policy:
    """Train a policy by behavior cloning, or resume that in the folder of :func:`train`.

    It starts from the networks of the joint stage. It can be made longer as in :func:`train`, and starts over
    if the joint stage has become longer.

    Args:
        folder: Folder of drives, checkpoints and losses.
        seed: Seed of the run; that of the batches.
        frames: Number of camera images to train on.
        threads: Threads of torch. With another number, the same run differs by rounding.
        bf16: See :class:`~jepa_recipes.first_person.stage.StageSettings`; also differs by rounding.
        recipe: The recipe of the run; None: that of the model for a robot.
        amount: Size of a batch, and the schedule.
        checkpoint_every: Steps between two checkpoints.

    Raises:
        JepaExportError: See :func:`train`; or the joint stage has not begun.
    """
    steps = joint_steps(folder)
    with _open_run(folder, seed, recipe or Recipe(), threads, bf16) as run:
        torch.manual_seed(seed + 4)
        stage = CloningStage(
            Policy(load_networks(_joint(folder))),
            run.settings(amount, frames, depends_on={"joint": steps}),
        )
        discard_outdated(stage)
        run_drive_stage(stage, checkpoint_every=checkpoint_every)
    return stage.policy.eval()


def joint_steps(folder: Path) -> int:
    """Return how many steps the joint stage of :func:`train` has trained in ``folder``.

    Raises:
        JepaExportError: It has not begun, or its checkpoint cannot be read.
    """
    path = _joint(folder)
    if not path.exists():
        raise JepaExportError(
            f"{path}: does not exist, and the training starts from it: train the model there first "
            "(jepa-export train first_person, without --distill)",
            code="training.no_joint_stage",
        )
    steps: int = load(path)["step"]
    return steps


def sample_drives(
    folder: Path, *, seed: int, recipe: Recipe | None = None
) -> tuple[DriveLibrary, DriveLibrary]:
    """Return the drives for training and the held-out ones of the run in ``folder``.

    Those that are not there yet are sampled.

    Raises:
        JepaExportError: A file cannot be read or written.
    """
    recipe = recipe or Recipe()
    drives = build_library(
        folder / "drives", (seed, _LIBRARY_STREAM), recipe.library, held_out=False, title="        drives"
    )
    held_out = build_library(
        folder / "held_out_drives",
        (seed, _HELD_OUT_STREAM),
        recipe.held_out,
        held_out=True,
        title="      held out",
    )
    return drives, held_out


def load_networks(
    checkpoint: Path, size: NetworkSize = STUDENT, *, prediction: Path | None = None
) -> Networks:
    """Return the networks of a checkpoint, whether its run is finished or not.

    Args:
        checkpoint: Checkpoint of a joint stage or a distillation.
        size: Size of the networks: one of :data:`~jepa_recipes.first_person.sizes.STUDENTS`, or
            :data:`~jepa_recipes.first_person.sizes.TEACHER` for the joint stage of a teacher.
        prediction: Checkpoint of a prediction stage, which has the predictor; None: that of ``checkpoint``.

    Raises:
        JepaExportError: One cannot be read.
    """
    weights = load(checkpoint)["modules"]
    if prediction is not None:
        weights = weights | load(prediction)["modules"]
    networks = create_networks(size)
    for name in ("encoder", "head", "predictor"):
        prefix = f"{name}."
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        getattr(networks, name).load_state_dict(own)
    return networks.eval()


def _joint(folder: Path) -> Path:
    return folder / "checkpoints" / "joint.pt"


@dataclass(frozen=True)
class _Run:
    """The run in a folder."""

    folder: Path
    seed: int
    recipe: Recipe
    library: DriveLibrary
    held_out: DriveLibrary
    renderer: Executor
    bf16: bool

    def settings(
        self, amount: Amount, frames: int, *, depends_on: dict[str, float] | None = None
    ) -> StageSettings:
        """Return the settings of a stage on ``frames`` camera images."""
        return StageSettings(
            library=self.library,
            held_out=self.held_out,
            amount=amount,
            seed=self.seed,
            steps=amount.steps(frames),
            renderer=self.renderer,
            checkpoints=self.folder / "checkpoints",
            bf16=self.bf16,
            depends_on=dict(depends_on or {}),
        )

    def train_prediction(
        self, trained: JointStage | DistillationStage, name: str, frames: int, checkpoint_every: int
    ) -> None:
        """Train the predictor of a finished stage alone; over again if that stage has become longer."""
        settings = self.settings(self.recipe.prediction, frames, depends_on={trained.name: trained.steps})
        stage = PredictionStage(trained.networks, settings, name=name)
        discard_outdated(stage)
        run_drive_stage(stage, checkpoint_every=checkpoint_every)


@contextmanager
def _open_run(folder: Path, seed: int, recipe: Recipe, threads: int, bf16: bool) -> Iterator[_Run]:
    """Claim ``folder``, sample the drives that are missing there, and start the renderer."""
    claim_folder(folder, {"seed": seed, **asdict(recipe)}, write=True)
    lock_folder(folder)
    library, held_out = sample_drives(folder, seed=seed, recipe=recipe)
    torch.set_num_threads(threads)
    # A thread: compiled code renders in parallel, and images need not be copied between processes.
    with ThreadPoolExecutor(1) as renderer:
        yield _Run(folder, seed, recipe, library, held_out, renderer, bf16)
