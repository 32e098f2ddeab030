"""jepa-export train two_rooms: train, pack, score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_export.cost import of_bundle
from jepa_export.evaluate import SEEDS, closed_loop
from jepa_export.pack import pack
from jepa_export.staging import check_target, write_report
from jepa_export.training.two_rooms import TEACHER_RECIPES, distil, train
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.worlds.geometry import LayoutKind


def train_two_rooms(out: Path, *, seed: int, layout: LayoutKind, episodes: int, distilled: bool) -> int:
    """Train into ``out``, leave the bundle ``out``/bundle, and score it over ``episodes`` for each of three
    seeds. ``distilled``: train a teacher first, whose bundle is ``out``/teacher.
    """
    console = Console()
    folder, teacher_folder = out / "bundle", out / "teacher"
    check_target(folder)
    command = f"jepa-export train two_rooms --layout {layout} --seed {seed}{' --distil' * distilled}"
    identity = {"version": "1.0.0", "release_seq": 1, "command": command}
    model_id = "two_rooms" if layout == "random" else "two_rooms_fixed"
    report: dict[str, Any] = {}
    if distilled:
        check_target(teacher_folder)
        checkpoints = out / "teacher_checkpoints"
        teacher = train(checkpoints, seed=seed, kind=layout, recipe=TEACHER_RECIPES[layout])
        model = distil(teacher, checkpoints, out / "checkpoints", seed=seed)
        pack(teacher, teacher_folder, model_id=f"{model_id}_teacher", int8=False, **identity)
        report["teacher"] = _measured(Bundle.open(teacher_folder), layout, episodes, baselines=False)
    else:
        model = train(out / "checkpoints", seed=seed, kind=layout)
    name = "ViT of three blocks, trained by the same command" if distilled else None
    fidelity = pack(model, folder, model_id=model_id, teacher=name, **identity)
    bundle = Bundle.open(folder)
    report |= {"open_loop": fidelity.as_dict()} | _measured(bundle, layout, episodes, baselines=True)
    write_report(folder, report)
    seal(folder, bundle.manifest)
    for title, found in (("teacher", report.get("teacher", {})), (model_id, report)):
        if "closed_loop" in found:
            console.print(success_table(title, found["closed_loop"]))
    if distilled:
        console.print(work_table(report))
    console.print(f"bundle: {folder}")
    return 0


def success_table(title: str, closed_loop_report: dict[str, Any]) -> Table:
    """The closed-loop scores as a table."""
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


def work_table(report: dict[str, Any]) -> Table:
    """Multiply-adds of teacher and student."""
    table = Table("graph", "teacher", "student", "ratio", title="multiply-adds [M]")
    theirs, ours = report["teacher"]["multiply_adds"], report["multiply_adds"]
    for role, count in theirs.items():
        table.add_row(role, f"{count / 1e6:.1f}", f"{ours[role] / 1e6:.1f}", f"{count / ours[role]:.1f}")
    return table


def _measured(bundle: Bundle, layout: LayoutKind, episodes: int, *, baselines: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"multiply_adds": of_bundle(bundle)}
    if episodes:
        found["closed_loop"] = closed_loop(
            bundle.path,
            layout=layout,
            seeds=SEEDS,
            episodes=episodes,
            precisions=tuple(bundle.manifest.golden.tolerances),
            baselines=baselines,
        )
    return found
