"""jepa-export train two_rooms: train, pack, score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_export.evaluate import SEEDS, closed_loop
from jepa_export.pack import pack
from jepa_export.staging import check_target, write_report
from jepa_export.training.two_rooms import train
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.worlds.geometry import LayoutKind


def train_two_rooms(out: Path, *, seed: int, layout: LayoutKind, episodes: int) -> int:
    """Train into ``out``, leave the bundle ``out``/bundle, and score it over ``episodes`` for each of three
    seeds.
    """
    console = Console()
    folder = out / "bundle"
    check_target(folder)
    model = train(out / "checkpoints", seed=seed, kind=layout)
    command = f"jepa-export train two_rooms --layout {layout} --seed {seed}"
    model_id = "two_rooms" if layout == "random" else "two_rooms_fixed"
    fidelity = pack(model, folder, model_id=model_id, version="1.0.0", release_seq=1, command=command)
    report: dict[str, Any] = {"open_loop": fidelity.as_dict()}
    if episodes:
        report["closed_loop"] = closed_loop(folder, layout=layout, seeds=SEEDS, episodes=episodes)
        manifest = Bundle.open(folder).manifest
        write_report(folder, report)
        seal(folder, manifest)
        console.print(success_table(report["closed_loop"]))
    console.print(f"bundle: {folder}")
    return 0


def success_table(closed_loop_report: dict[str, Any]) -> Table:
    """The closed-loop scores as a table."""
    table = Table("policy", "success", "95 % interval", "episodes", "steps", "plan p50 ms")
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
