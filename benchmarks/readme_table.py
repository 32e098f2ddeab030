"""Prints the README's tables of measured figures, from the committed result files and nothing else.

usage: python benchmarks/readme_table.py [--write]        --write: replace the tables in README.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from readme_tables.models import distilled, students, trusted
from readme_tables.runtime import latency, lewm, limits, measured
from readme_tables.updates import updates

ROOT = Path(__file__).resolve().parent.parent


TABLES = {
    "measured": measured, "latency": latency, "limits": limits, "updates": updates, "students": students,
    "distilled": distilled, "trusted": trusted, "lewm": lewm,
}  # fmt: skip


def main() -> int:
    """Print the tables, or put them into the README."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="put them into the README")
    if not parser.parse_args().write:
        print("\n\n".join(table() for table in TABLES.values()))
        return 0
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table()}\n{end}{after}"
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
