"""The examples that need no ROS 2, run as by a user; those that do are in tests/ros/test_examples.py."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.cli import main as runtime
from jepa_sim.worlds.two_rooms_camera import FRAME_PX
from tests.export_extra import MISSING
from tests.scripts import ROOT

EXAMPLES = ROOT / "examples"


@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed (extra export)")
def test_own_model_becomes_a_bundle_that_predicts(tmp_path: Path) -> None:
    folder = tmp_path / "own_model"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_model.py"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert runtime(["verify", str(folder)]) == 0
    with WorldModel.open(folder) as model:
        latent = model.encode(np.zeros((FRAME_PX, FRAME_PX, 3), np.uint8))
        futures = model.predict(np.zeros((4, 8, 2)), goal=latent)
        report = model.bundle.report()
    assert futures.latents.shape == (4, 8, 16, 16) and futures.energies is not None
    assert report is not None
    # Better than predicting no change on trajectories that it was not trained on.
    measured = report["open_loop"]
    assert all(np.array(measured["rmse"]) < measured["copy_last_rmse"])


def code_of(notebook: Path) -> str:
    """Return the code of all cells of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed (extra export)")
def test_notebook_of_own_model_runs(tmp_path: Path) -> None:
    """Its cells run in order as one program: Jupyter is not installed for the tests."""
    code = code_of(EXAMPLES / "own_model.ipynb") + "\nassert futures.energies.shape == (4, 8)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert runtime(["verify", str(tmp_path / "own_model")]) == 0


def test_notebook_of_own_model_has_the_code_of_the_program() -> None:
    program = (EXAMPLES / "own_model.py").read_text(encoding="utf-8").replace("sys.argv[1]", '"own_model"')
    own = [ast.unparse(node) for node in ast.parse(code_of(EXAMPLES / "own_model.ipynb")).body]
    # Without the docstring and the import of sys.
    assert [ast.unparse(node) for node in ast.parse(program).body[2:]] == own[:-4]


def test_notebook_stores_no_outputs() -> None:
    cells = json.loads((EXAMPLES / "own_model.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")


def test_critic_checks_the_chunks_of_a_policy(two_rooms_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "critic.py"), str(two_rooms_bundle)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(\d+) of (\d+) goals reached", done.stdout, re.MULTILINE)
    (_, unchecked), (reached, checked) = [tuple(map(int, line)) for line in lines]
    # The same policy reaches less than a fifth of the goals alone.
    assert unchecked + checked == 40 and reached >= 0.3 * checked
    assert all(f"'{response}'" in done.stdout for response in ("accept", "choose", "veto"))


def test_every_example_fits_on_a_page() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path.name
