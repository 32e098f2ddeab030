"""A bundle whose graphs do not compute what the network does is never packed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jepa_export import pack as packing
from jepa_export.errors import JepaExportError
from jepa_export.pack import pack
from jepa_export.training.two_rooms import TrainedModel
from jepa_runtime.bundle import Bundle

NAMES = {"model_id": "tiny", "version": "0.0.2", "command": "a test"}


@pytest.fixture
def copied(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs are taken from ``tiny_bundle`` instead of being made anew."""

    def copy(_model: TrainedModel, _frames: object, folder: Path, **_: object) -> None:
        for role in ("encoder", "predictor", "energy"):
            shutil.copytree(tiny_bundle / role, folder / role)

    monkeypatch.setattr(packing, "_write_graphs", copy)


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_that_computes_something_else_is_named_and_the_old_bundle_stays(
    precision: str,
    tiny_run: tuple[Path, TrainedModel],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = {"min_cosine": 1.0, "max_abs": 0.0}
    monkeypatch.setattr(packing, "TOLERANCES", packing.TOLERANCES | {precision: exact})
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with pytest.raises(
        JepaExportError, match=f"the {precision} encoder does not compute what the network does"
    ):
        pack(tiny_run[1], folder, **NAMES)
    assert Bundle.open(folder).sha256 == Bundle.open(tiny_bundle).sha256
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
