"""What the README says holds: its figures are the committed ones, and its Python runs."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_measured_figures_come_from_the_committed_results() -> None:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    for name, table in module.TABLES.items():
        shown = README.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
        assert shown.strip() == table(), name


def test_the_three_lines_run(monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {
        "frame": np.zeros((480, 640, 3), np.uint8),
        "actions": np.zeros((5, 8, 2), np.float32),
    }

    exec(block.group(1), names)

    assert names["latent"].shape == (2, 16)  # type: ignore[attr-defined]
    assert names["futures"].latents.shape == (5, 8, 2, 16)  # type: ignore[attr-defined]


def test_every_path_it_names_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)[)#]", README)
    folders = re.findall(r"^\| `([a-z0-9_]+/)`", README, re.MULTILINE)

    missing = [name for name in [*links, *folders] if "://" not in name and not (ROOT / name).exists()]

    assert not missing
