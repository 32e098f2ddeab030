"""The documents are correct: figures equal the committed results, the README's Python runs, links lead
somewhere, and the programs accept the commands."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import jepa_export.cli
import jepa_runtime.cli
from tests.scripts import ROOT, load

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(
        path
        for folder in ("docs", "examples", "benchmarks", "firmware_configs")
        for path in (ROOT / folder).rglob("*.md")
    ),
    ROOT / "recipes/FIRST_PERSON.md",
    ROOT / "recipes/TRAINING.md",
    ROOT / "ros2_ws/README.md",
]
# Written by scripts/reference_pages.py when the site is built, which checks links to them.
GENERATED = {
    ROOT / "docs" / page
    for page in re.findall(r"reference/\S+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
}
PARSERS = {
    "jepa-runtime": jepa_runtime.cli.PROGRAM.parse,
    "jepa-export": jepa_export.cli.PROGRAM.parse,
}


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def printed_commands(document: Path) -> list[list[str]]:
    """Return our complete command lines (no …) in a document's code blocks, without comments."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?: {4})?(?:sudo )?(?:\S*/)?(jepa-(?:runtime|export) [^…\n]*)$", text, re.MULTILINE)
    return [shlex.split(re.split(r"&(?:&|$)|> ", line)[0], comments=True) for line in lines]


def test_measured_figures_equal_the_committed_results() -> None:
    tables = load("readme_table")
    assert sorted(name for names in tables.PAGES.values() for name in names) == sorted(tables.TABLES)
    for page, names in tables.PAGES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in names:
            shown = text.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
            assert shown.strip() == tables.TABLES[name](), name


def test_three_lines_run(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_has_a_target(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", document.read_text(encoding="utf-8"))

    for name, anchor in links:
        if "://" not in name:
            path = (document.parent / name).resolve() if name else document
            if path in GENERATED:
                continue
            assert path.exists(), name
            assert not anchor or anchor in anchors(path), f"{name}#{anchor}"


def test_every_named_folder_exists() -> None:
    folders = re.findall(r"^\| `([a-z0-9_]+/)`", README, re.MULTILINE)

    assert not [name for name in folders if not (ROOT / name).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_valid(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file after ``--config`` is the page's YAML block."""
    monkeypatch.chdir(tmp_path)
    options = re.search(
        r"^```yaml\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for program, *arguments in printed_commands(document):
        if "--config" in arguments and options is not None:
            Path(arguments[arguments.index("--config") + 1]).write_text(options[1], encoding="utf-8")
        PARSERS[program](arguments)
