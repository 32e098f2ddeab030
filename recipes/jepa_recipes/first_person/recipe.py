"""The recipe of the first-person rooms, as a sub-command of ``jepa-export train``."""

from __future__ import annotations

import argparse

from jepa_export.commands import number_types
from jepa_export.training.recipes import TrainingRecipe
from jepa_recipes.first_person.sizes import BASE, LAYOUTS, STUDENTS
from jepa_runtime.commands import UsageError

_FRAMES = 10_000_000
_PREDICTION_FRAMES = 400_000
_MASKED_FRAMES = 1_000_000
_TEACHER_FRAMES = 2_000_000
_THREADS = 2
_EPISODES = 100


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames",
        type=number_types.large_count,
        default=_FRAMES,
        metavar="N",
        help="camera images to train on; a finished run continues with more (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        choices=STUDENTS,
        default=BASE,
        help="size of the networks; a larger one takes more time for a frame (default: %(default)s)",
    )
    parser.add_argument(
        "--layouts",
        type=number_types.positive_count,
        default=LAYOUTS,
        metavar="N",
        help="houses through which the drives for training lead (default: %(default)s)",
    )
    parser.add_argument(
        "--schedule-scale",
        type=number_types.scale,
        default=1.0,
        metavar="F",
        help="factor for the times of the schedule, for a short run (default: %(default)g)",
    )
    parser.add_argument(
        "--prediction-frames",
        type=number_types.large_count,
        default=_PREDICTION_FRAMES,
        metavar="N",
        help="camera images on which the predictor then trains alone (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=number_types.positive_count,
        default=_THREADS,
        metavar="N",
        help="threads; another number changes the result by rounding (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=["32-true", "bf16-mixed"],
        default="32-true",
        help="training precision; bf16-mixed is faster on CPUs with AVX512-BF16 or AMX, and changes the "
        "result by rounding (default: %(default)s)",
    )
    parser.add_argument(
        "--episodes",
        type=number_types.count,
        default=_EPISODES,
        metavar="N",
        help="closed-loop episodes for each level; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--distill",
        action="store_true",
        help="train a large teacher first, and distill the model from it; both bundles are written",
    )
    parser.add_argument(
        "--masked-frames",
        type=number_types.large_count,
        default=_MASKED_FRAMES,
        metavar="N",
        help="with --distill: camera images of the teacher's masked latent prediction (default: %(default)s)",
    )
    parser.add_argument(
        "--teacher-frames",
        type=number_types.large_count,
        default=_TEACHER_FRAMES,
        metavar="N",
        help="with --distill: camera images of the teacher's training on odometry (default: %(default)s)",
    )
    parser.add_argument(
        "--odometry-weight",
        type=number_types.weight,
        default=1.0,
        metavar="W",
        help="with --distill: weight of the losses of a training without teacher; 0: learn from the teacher "
        "alone (default: %(default)s)",
    )
    parser.add_argument(
        "--from-joint",
        action="store_true",
        help="with --distill: the model starts from the weights of a training without --distill in DIR",
    )
    parser.add_argument(
        "--cloning-frames",
        type=number_types.large_count,
        metavar="N",
        help="after a training without --distill in DIR: train the policy that the model is compared with "
        "by behavior cloning on N camera images, and write it to DIR/policy",
    )


def _train(arguments: argparse.Namespace) -> int:
    from jepa_recipes.first_person.train_command import train_and_bundle, train_policy
    from jepa_recipes.first_person.training import TeacherTraining

    command = (
        f"jepa-export train first_person --size {arguments.size} --seed {arguments.seed}"
        f" --layouts {arguments.layouts}"
    )
    if arguments.schedule_scale != 1:
        command += f" --schedule-scale {arguments.schedule_scale:g}"
    bf16 = arguments.precision == "bf16-mixed"
    if bf16:
        command += f" --precision {arguments.precision}"
    if arguments.cloning_frames is not None:
        if arguments.size != BASE:
            raise UsageError(f"--cloning-frames: policies have the size {BASE}: leave out --size")
        if arguments.schedule_scale != 1:
            raise UsageError("--cloning-frames: policies have their own schedule: leave out --schedule-scale")
        return train_policy(
            arguments.out,
            seed=arguments.seed,
            frames=arguments.cloning_frames,
            layouts=arguments.layouts,
            threads=arguments.threads,
            bf16=bf16,
            command=f"{command} --cloning-frames {arguments.cloning_frames}",
        )
    command += f" --frames {arguments.frames} --prediction-frames {arguments.prediction_frames}"
    teacher = None
    if arguments.distill:
        teacher = TeacherTraining(
            masked_frames=arguments.masked_frames,
            frames=arguments.teacher_frames,
            odometry_weight=arguments.odometry_weight,
            starts_from_joint=arguments.from_joint,
        )
        command += (
            f" --distill --masked-frames {teacher.masked_frames} --teacher-frames {teacher.frames}"
            f" --odometry-weight {teacher.odometry_weight:g}{' --from-joint' * teacher.starts_from_joint}"
        )
    return train_and_bundle(
        arguments.out,
        size=arguments.size,
        layouts=arguments.layouts,
        schedule_scale=arguments.schedule_scale,
        seed=arguments.seed,
        frames=arguments.frames,
        prediction_frames=arguments.prediction_frames,
        threads=arguments.threads,
        bf16=bf16,
        episodes=arguments.episodes,
        command=command,
        teacher=teacher,
    )


RECIPE = TrainingRecipe(
    summary="train the model of a robot with a forward camera, and measure its success rate in closed loop",
    add_arguments=_add_arguments,
    train=_train,
)
