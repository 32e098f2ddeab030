"""The work of the recipes: train a model, write its bundle, measure its success rate."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_export.bundling.manifest_fields import report_fields
from jepa_export.bundling.staging import check_output
from jepa_export.evaluation.bundle_report import add_to_report
from jepa_export.evaluation.compute_cost import bundle_multiply_adds
from jepa_recipes.training_worlds.interface import TrainingWorld
from jepa_recipes.two_token.bundle import write_distilled_predictor, write_two_token_bundle
from jepa_recipes.two_token.training import (
    TEACHER_RECIPES,
    PredictorRecipe,
    distill,
    distill_predictor,
    train,
)
from jepa_runtime.bundle import Bundle
from jepa_sim.closed_loop.run import Plan, closed_loop, progress


def train_and_bundle(
    out: Path,
    training_world: TrainingWorld,
    *,
    command: str,
    seed: int,
    episodes: int,
    distilled: bool = False,
) -> int:
    """Train in ``out``, write the bundle ``out``/bundle, and measure it in closed loop.

    Args:
        out: Folder of checkpoints and bundles.
        training_world: World to train in.
        command: Command line for the provenance of the bundle.
        seed: Seed of weights and data.
        episodes: Number of episodes for each of three seeds; 0: none.
        distilled: Whether to train a teacher first, whose bundle is ``out``/teacher, and distill it.
    """
    console = Console()
    folder, teacher_folder = out / "bundle", out / "teacher"
    check_output(folder)
    write_bundle = partial(write_two_token_bundle, version="1.1.0", command=command)
    report: dict[str, Any] = {}
    if distilled:
        check_output(teacher_folder)
        checkpoints = out / "teacher_checkpoints"
        teacher = train(
            checkpoints, seed=seed, training_world=training_world, recipe=TEACHER_RECIPES[training_world.kind]
        )
        model = distill(teacher, checkpoints, out / "checkpoints", seed=seed)
        teacher_id = f"{training_world.model_id}_teacher"
        write_bundle(teacher, teacher_folder, model_id=teacher_id, int8=False)
        report["teacher"] = _measured(Bundle.open(teacher_folder), training_world, episodes, baselines=False)
    else:
        model = train(out / "checkpoints", seed=seed, training_world=training_world)
    name = "ViT of three blocks, trained by the same command" if distilled else None
    metrics = write_bundle(model, folder, model_id=training_world.model_id, teacher=name)
    bundle = Bundle.open(folder)
    report |= {"open_loop": report_fields(metrics)} | _measured(
        bundle, training_world, episodes, baselines=True
    )
    add_to_report(bundle, report)
    for title, found in (("teacher", report.get("teacher", {})), (training_world.model_id, report)):
        if "closed_loop" in found:
            console.print(success_table(title, found["closed_loop"]))
    if distilled:
        console.print(compute_table(report))
    console.print(f"bundle: {folder}")
    return 0


def distill_predictor_and_bundle(
    out: Path,
    training_world: TrainingWorld,
    base_folder: Path,
    *,
    command: str,
    seed: int,
    episodes: int,
    recipe: PredictorRecipe,
) -> int:
    """Train a predictor for an existing bundle in ``out``, write the bundle ``out``/bundle, and measure it.

    Args:
        out: Folder of checkpoints and bundle.
        training_world: World that the bundle was trained in.
        base_folder: The bundle, whose encoder and energy are copied.
        command: Command line for the provenance of the bundle.
        seed: Seed of weights and data.
        episodes: Number of episodes for each of three seeds; 0: none.
        recipe: Predictor and amount of training.
    """
    folder, console = out / "bundle", Console()
    check_output(folder)
    base = Bundle.open(base_folder)
    predictor, held_out = distill_predictor(
        base, out / "checkpoints", seed=seed, training_world=training_world, recipe=recipe
    )
    metrics = write_distilled_predictor(base, predictor, held_out, folder, command=command, seed=seed)
    report = {"open_loop": report_fields(metrics)} | _measured(
        Bundle.open(folder), training_world, episodes, baselines=True
    )
    add_to_report(Bundle.open(folder), report)
    if "closed_loop" in report:
        console.print(success_table(base.manifest.model_id, report["closed_loop"]))
    console.print(f"bundle: {folder}")
    return 0


def success_table(title: str, closed_loop_report: dict[str, Any]) -> Table:
    """Return a table of the closed-loop scores."""
    table = Table("policy", "success", "95 % interval", "episodes", "steps", "plan p50 ms", title=title)
    for name, score in closed_loop_report["scores"].items():
        low, high = score["interval"]
        table.add_row(
            name,
            f"{score['rate']:.1%}",
            f"{low:.1%} … {high:.1%}",
            str(score["episodes"]),
            f"{score['mean_steps']:.1f}" if score["mean_steps"] is not None else "-",
            f"{score['plan_ms_p50']:.1f}",
        )
    return table


def compute_table(report: dict[str, Any]) -> Table:
    """Return a table of the multiply-adds of teacher and student."""
    table = Table("graph", "teacher", "student", "ratio", title="multiply-adds [M]")
    teacher, student = report["teacher"]["multiply_adds"], report["multiply_adds"]
    for role, count in teacher.items():
        table.add_row(
            role, f"{count / 1e6:.1f}", f"{student[role] / 1e6:.1f}", f"{count / student[role]:.1f}"
        )
    return table


def _measured(
    bundle: Bundle, training_world: TrainingWorld, episodes: int, *, baselines: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {"multiply_adds": bundle_multiply_adds(bundle)}
    if episodes and (evaluated := training_world.world()) is not None:
        plan = Plan(episodes=episodes, baselines=baselines)
        with closing(evaluated) as world, progress(len(plan.seeds) * episodes, Console()) as tick:
            found["closed_loop"] = closed_loop(bundle, world, plan, tick=tick).as_dict()
    return found
