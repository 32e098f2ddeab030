"""Results of finished steps are reused for the same inputs only, and only if they are intact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jepa_export.errors import JepaExportError
from jepa_export.training import step_results
from jepa_export.training.step_results import StepResults, array_hash, network_hash
from tests.errors import code


class Run:
    """Run one step, as each process of an interrupted run does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.works, self.messages = folder, 0, list[str]()

    def __call__(self, **inputs: Any) -> Any:
        results = StepResults(self.folder / "results", self.messages.append)
        return results.run("the step", inputs, self.work, into=self.folder / "into").values

    def work(self, folder: Path) -> dict[str, Any]:
        self.works += 1
        (folder / "a").mkdir()
        (folder / "a/file").write_text(f"made by {self.works}")
        return {"work": self.works, "pair": (1.5, None)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_result_is_reused_for_the_same_inputs(run: Run) -> None:
    first = run(weights="abc", limits=(1, 2))
    (run.folder / "into/a/file").unlink()
    assert run(limits=[1, 2], weights="abc") == first == {"work": 1, "pair": [1.5, None]}
    assert (run.folder / "into/a/file").read_text() == "made by 1"
    assert run.messages == ["the step: reused from the interrupted run"]


def test_result_of_other_inputs_is_replaced(run: Run) -> None:
    run(weights="abc", seed=0)
    assert run(weights="xyz", seed=0)["work"] == 2
    assert run.messages == ["the step: repeated, because the weights changed"]
    assert run(weights="abc", seed=0)["work"] == 3, "only the last result is stored"
    assert (run.folder / "into/a/file").read_text() == "made by 3"


def test_result_of_another_version_is_not_reused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run(seed=0)
    monkeypatch.setattr(step_results, "environment", lambda: "another version")
    assert run(seed=0)["work"] == 2
    assert "the environment changed" in run.messages[0]


def record_of(folder: Path) -> Path:
    return folder / "results/the_step/result.json"


def without_values(folder: Path) -> None:
    record = json.loads(record_of(folder).read_text())
    del record["values"]
    record_of(folder).write_text(json.dumps(record))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: record_of(folder).write_bytes(b""),
        lambda folder: record_of(folder).write_bytes(b"\xff[]"),
        without_values,
        lambda folder: (folder / "results/the_step/files/a/file").write_bytes(b""),
        lambda folder: (folder / "results/the_step/files/a/file").unlink(),
        lambda folder: (folder / "results/the_step/files/further").write_bytes(b""),
    ],
    ids=["empty record", "no JSON", "no values", "empty file", "missing file", "further file"],
)
def test_damaged_result_is_replaced(damage: Callable[[Path], None], run: Run) -> None:
    run(seed=0)
    damage(run.folder)
    assert run(seed=0)["work"] == 2
    assert "the stored result is damaged" in run.messages[0]
    assert run(seed=0)["work"] == 2


def test_result_that_cannot_be_stored_is_reported(run: Run) -> None:
    (run.folder / "results").write_text("a file")
    with pytest.raises(JepaExportError, check=code("training.not_writable")):
        run(seed=0)


def test_removed_results_leave_nothing(run: Run) -> None:
    run(seed=0)
    StepResults(run.folder / "results", print).remove()
    assert [path.name for path in run.folder.iterdir()] == ["into"]
    assert run(seed=0)["work"] == 2


def test_hash_of_a_network_changes_with_each_parameter_and_buffer() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        network.register_buffer("scale", torch.ones(()), persistent=False)
        return network

    scaled, trained, other = network(), network(), network().double()
    scaled.scale.mul_(2)
    trained[1].weight.data[1] += 1e-7
    hashes = {network_hash(each) for each in (network(), scaled, trained, other)}
    assert len(hashes) == 4 and network_hash(network()) in hashes


def test_hash_of_an_array_covers_its_shape_and_type() -> None:
    zeros = np.zeros((2, 3), np.uint8)
    others = (zeros.reshape(3, 2), zeros.view(np.int8), zeros + np.uint8(1))
    assert len({array_hash(each) for each in (zeros, zeros[:, ::-1], *others)}) == 4
