"""A library of a few short drives, and a bundle of untrained networks: made once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jepa_recipes.first_person.library import DriveLibrary
    from jepa_recipes.first_person.metrics import DriveMetrics
    from jepa_recipes.first_person.networks import Networks


@pytest.fixture(scope="session")
def drives(tmp_path_factory: pytest.TempPathFactory) -> DriveLibrary:
    """Return six drives in three layouts for training, in files of two layouts."""
    pytest.importorskip("numba", reason="numba is not installed (extra first-person)")
    from jepa_recipes.first_person.library import LibrarySize, build_library

    size = LibrarySize(layouts=3, drives=2, steps=24, layouts_per_file=2)
    folder = tmp_path_factory.mktemp("drives")
    return build_library(folder, (0,), size, held_out=False, title="drives")


@pytest.fixture(scope="session")
def networks() -> Networks:
    """Return networks with random weights, whose predictions depend on the actions."""
    import torch
    from torch import nn

    from jepa_recipes.first_person.networks import ActionPredictor, FrameEncoder, Networks, RelativePoseHead

    torch.manual_seed(0)
    made = Networks(FrameEncoder().eval(), RelativePoseHead().eval(), ActionPredictor().eval())
    # A new predictor predicts that nothing moves, whatever the action.
    for parameter in made.predictor.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


@pytest.fixture(scope="session")
def written(
    networks: Networks, drives: DriveLibrary, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, DriveMetrics]:
    """Return a bundle of these networks and what was measured; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("first_person") / "bundle"
    return folder, write_small(networks, drives, folder, variants=(("openvino", "int8"), ("onnx", "fp32")))


@pytest.fixture(scope="session")
def written_teacher(drives: DriveLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of a teacher with random weights."""
    import torch

    from jepa_recipes.first_person.networks import create_networks
    from jepa_recipes.first_person.sizes import TEACHER

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("first_person_teacher") / "bundle"
    teacher = create_networks(TEACHER).eval()
    write_small(teacher, drives, folder, variants=(("onnx", "fp32"),), model_id="first_person_teacher")
    return folder


def write_small(networks: Networks, drives: DriveLibrary, folder: Path, **settings: Any) -> DriveMetrics:
    """Write a bundle that is measured and calibrated on little."""
    from jepa_recipes.first_person import bundle as packing
    from jepa_recipes.first_person.clips import ClipShape
    from jepa_recipes.first_person.metrics import measure, measure_readings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "measure", partial(measure, batches=1))
        patch.setattr(packing, "measure_readings", partial(measure_readings, batches=1))
        patch.setattr(packing, "_CALIBRATION", ClipShape(drives=8, frames=8, turned=0, consecutive=8))
        patch.setattr(packing, "_HELD_OUT", ClipShape(drives=2, frames=6, turned=0, consecutive=2))
        return packing.write_first_person_bundle(
            networks, drives, drives, folder, version="0.0.1", command="a test", **settings
        )
