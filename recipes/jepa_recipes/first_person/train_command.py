"""The work of the recipe: train a model, write its bundle, measure how often it reaches goals.

Or train the policy that models are compared with.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_export.bundling.manifest_fields import report_fields
from jepa_export.bundling.staging import check_output
from jepa_export.bundling.variants import VariantKey
from jepa_export.evaluation.bundle_report import add_to_report
from jepa_export.evaluation.compute_cost import bundle_multiply_adds
from jepa_recipes.first_person.bundle import MODEL_ID, write_first_person_bundle
from jepa_recipes.first_person.cloning import evaluate_policy
from jepa_recipes.first_person.closed_loop import goals_reached
from jepa_recipes.first_person.policy_files import write_policy
from jepa_recipes.first_person.schedule import Amount
from jepa_recipes.first_person.sizes import BASE, STUDENTS
from jepa_recipes.first_person.training import (
    Recipe,
    TeacherTraining,
    clone,
    distill,
    joint_steps,
    sample_drives,
    train,
)
from jepa_runtime.bundle import Bundle

_VERSION = "1.0.0"
# The teacher's bundle is there to be compared with.
_TEACHER_VARIANTS: tuple[VariantKey, ...] = (("onnx", "fp32"),)
# Held-out batches, of four drives each, on which a policy is measured.
_POLICY_BATCHES = 96
_TEACHER_NAME = "a space-time transformer of six blocks, trained by the same command"


def train_and_bundle(
    out: Path,
    *,
    size: str,
    layouts: int,
    schedule_scale: float = 1.0,
    seed: int,
    frames: int,
    prediction_frames: int,
    threads: int,
    bf16: bool,
    episodes: int,
    command: str,
    teacher: TeacherTraining | None = None,
) -> int:
    """Train in ``out``, write the bundle ``out``/bundle, and measure it in closed loop.

    Args:
        out: Folder of drives, checkpoints and the bundle.
        size: Name of the size, of :data:`~jepa_recipes.first_person.sizes.STUDENTS`.
        layouts: Number of houses for training.
        schedule_scale: Factor for the times of the schedule.
        seed: Seed of drives, weights and batches.
        frames: Number of camera images to train on.
        prediction_frames: Number of camera images on which the predictor then trains alone.
        threads: Threads of torch.
        bf16: Whether the networks are trained in bf16 where that is accurate enough.
        episodes: Closed-loop episodes for each level; 0: none.
        command: Command line for the provenance of the bundle.
        teacher: How to train a teacher first, whose bundle is ``out``/teacher, and distill the model from it;
            None: train the model directly.
    """
    console, recipe = Console(), _recipe(size, layouts, schedule_scale)
    folder, teacher_folder = out / "bundle", out / "teacher"
    check_output(folder)
    write_bundle = partial(
        write_first_person_bundle, version=_VERSION, command=command, progress=console.print
    )
    report: dict[str, Any] = {}
    if teacher is None:
        networks = train(
            out,
            seed=seed,
            frames=frames,
            prediction_frames=prediction_frames,
            threads=threads,
            bf16=bf16,
            recipe=recipe,
        )
        drives, held_out = sample_drives(out, seed=seed, recipe=recipe)
    else:
        check_output(teacher_folder)
        distilled = distill(
            out,
            seed=seed,
            frames=frames,
            prediction_frames=prediction_frames,
            teacher=teacher,
            threads=threads,
            bf16=bf16,
            recipe=recipe,
        )
        networks = distilled.student
        drives, held_out = sample_drives(out, seed=seed, recipe=recipe)
        metrics = write_bundle(
            distilled.teacher,
            drives,
            held_out,
            teacher_folder,
            model_id=f"{MODEL_ID}_teacher",
            variants=_TEACHER_VARIANTS,
        )
        report["teacher"] = _add_costs(teacher_folder) | {"open_loop": report_fields(metrics)}
    write_bundle(
        networks,
        drives,
        held_out,
        folder,
        model_id=MODEL_ID if size == BASE else f"{MODEL_ID}_{size}",
        teacher=_TEACHER_NAME if teacher else None,
    )
    if episodes:
        report["closed_loop"] = goals_reached(Bundle.open(folder), episodes)
        console.print(_success_table(report["closed_loop"]))
    _add_costs(folder, report)
    console.print(f"bundle: {folder}")
    return 0


def train_policy(
    out: Path, *, layouts: int, seed: int, frames: int, threads: int, bf16: bool, command: str
) -> int:
    """Train a policy by behavior cloning, and write it to ``out``/policy.

    Args:
        out: Folder of :func:`train_and_bundle`, whose joint stage the policy starts from.
        layouts: Number of houses of the run in this folder.
        seed: Seed of that run.
        frames: Number of camera images to train on.
        threads: Threads of torch.
        bf16: Whether the policy is trained in bf16 where that is accurate enough.
        command: Command line for the provenance of the policy.
    """
    console, folder, recipe = Console(), out / "policy", _recipe(BASE, layouts)
    policy = clone(out, seed=seed, frames=frames, threads=threads, bf16=bf16, recipe=recipe)
    _, held_out = sample_drives(out, seed=seed, recipe=recipe)
    errors = evaluate_policy(policy, held_out, batches=_POLICY_BATCHES)
    write_policy(policy, folder, command=command, joint_steps=joint_steps(out), errors=errors)
    console.print(f"policy: {folder}")
    return 0


def _recipe(size: str, layouts: int, schedule_scale: float = 1.0) -> Recipe:
    recipe = Recipe(student=STUDENTS[size])
    return replace(
        recipe,
        library=replace(recipe.library, layouts=layouts),
        amount=_scaled(recipe.amount, schedule_scale),
        masked=_scaled(recipe.masked, schedule_scale),
        prediction=_scaled(recipe.prediction, schedule_scale),
    )


def _scaled(amount: Amount, factor: float) -> Amount:
    return replace(amount, schedule=amount.schedule.scaled(factor))


def _add_costs(folder: Path, further: dict[str, Any] | None = None) -> dict[str, Any]:
    """Add the multiply-adds of its graphs, and ``further``, to the report of a bundle; return the former."""
    bundle = Bundle.open(folder)
    costs = {"multiply_adds": bundle_multiply_adds(bundle)}
    add_to_report(bundle, costs | (further or {}))
    return costs


def _success_table(levels: dict[str, dict[str, Any]]) -> Table:
    table = Table("level", "reached", "95 % interval", "episodes", title="goals in held-out layouts")
    for name, score in levels.items():
        low, high = score["interval"]
        table.add_row(name, f"{score['rate']:.1%}", f"{low:.1%} … {high:.1%}", str(score["episodes"]))
    return table
