"""The parameter ``bundle`` of the world_model node with an address on the Hub (tests/hub_stand_in.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import make_bundle
from tests.hub_stand_in import files_of, run_python, served

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra hub)")
OPEN = """
import sys
from jepa_ros.world_model.model_opening import open_model
from jepa_ros.world_model.parameters import PARAMETERS
parameters = {each.name: each.default for each in PARAMETERS}
parameters |= {"bundle": sys.argv[1], "allow_untrained": True, "engine": "onnxruntime:CPU,openvino:CPU"}
with open_model(parameters) as model:
    print(model.bundle.path)
"""


def test_node_downloads_the_bundle_of_an_address(tmp_path: Path) -> None:
    with served() as hub:
        commit = hub.commit("robots/maze", files_of(make_bundle(tmp_path / "local").path))
        done = run_python(["-c", OPEN, "hf://robots/maze@main"], hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().splitlines()[-1]).name == commit
