"""Print the tables of measured figures in the documentation, from the committed result files.

usage: python benchmarks/readme_table.py [--write]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from readme_tables.models import (
    clips,
    distilled,
    first_person_time_charged,
    stable_worldmodel_reacher,
    stable_worldmodel_two_room,
    students,
    time_charged,
    trusted,
)
from readme_tables.runtime import (
    critic,
    critic_keep_out,
    latency,
    lewm,
    limits,
    measured,
    planners,
    predictors,
    routes,
)
from readme_tables.updates import updates
from readme_tables.worlds import first_person, first_person_mujoco, first_person_robot

ROOT = Path(__file__).resolve().parent.parent


TABLES = {
    "measured": measured, "latency": latency, "limits": limits, "updates": updates, "students": students,
    "distilled": distilled, "trusted": trusted, "lewm": lewm, "routes": routes, "critic": critic,
    "critic_keep_out": critic_keep_out, "planners": planners, "predictors": predictors,
    "first_person": first_person, "first_person_mujoco": first_person_mujoco,
    "first_person_robot": first_person_robot, "time_charged": time_charged,
    "first_person_time_charged": first_person_time_charged, "clips": clips,
    "stable_worldmodel_two_room": stable_worldmodel_two_room,
    "stable_worldmodel_reacher": stable_worldmodel_reacher,
}  # fmt: skip
# Tables of each page.
PAGES = {
    "README.md": ("measured",),
    "docs/benchmarks.md": (
        "latency",
        "limits",
        "updates",
        "students",
        "distilled",
        "trusted",
        "lewm",
        "stable_worldmodel_two_room",
        "stable_worldmodel_reacher",
    ),
    "docs/explanation/latency.md": ("time_charged", "first_person_time_charged"),
    "docs/how-to/critic.md": ("critic", "critic_keep_out"),
    "docs/how-to/teach-and-repeat.md": ("routes",),
    "docs/tutorials/your-model.md": ("clips",),
    "docs/worlds.md": ("planners", "predictors", "first_person", "first_person_robot", "first_person_mujoco"),
}


def main() -> int:
    """Print the tables, or write them into their pages."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into their pages")
    if not parser.parse_args().write:
        print("\n\n".join(table() for table in TABLES.values()))
        return 0
    for page, names in PAGES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in names:
            begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}\n{TABLES[name]()}\n{end}{after}"
        (ROOT / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
