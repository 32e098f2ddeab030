"""Recordings of stable-worldmodel as arrays; a dataset in memory stands in for the package's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_export.errors import JepaExportError
from jepa_recipes.stable_worldmodel.reacher import SOURCE
from jepa_recipes.stable_worldmodel.recordings import Rows, extract, package, read
from tests.errors import code
from tests.recipes.stable_worldmodel.datasets import arm_dataset


def rows(*lengths: int) -> Rows:
    """Return rows without images."""
    count = sum(lengths)
    return Rows(
        np.zeros((count, 1, 1, 3), np.uint8),
        np.zeros((count, 2), np.float32),
        np.zeros((count, 4), np.float32),
        np.array(lengths),
    )


def test_all_states_are_read_again_without_the_dataset(tmp_path: Path) -> None:
    extracted = extract(arm_dataset([6, 5]), SOURCE, tmp_path)
    for found in (extracted, read(tmp_path), extract(None, SOURCE, tmp_path)):
        assert found.frames.shape == (11, 128, 128, 3) and found.lengths.tolist() == [6, 5]
        np.testing.assert_array_equal(found.states, extracted.states)
    episode = arm_dataset([6, 5]).load_episode(1)
    expected = np.hstack([episode["qpos"], episode["qvel"]])
    np.testing.assert_allclose(extracted.states[6:], expected, rtol=1e-6)
    np.testing.assert_array_equal(extracted.actions[6:], episode["action"])


def test_windows_end_within_their_recording() -> None:
    assert rows(4, 2, *[1] * 8).starts(2, held_out=False).tolist() == [0, 1]


def test_last_tenth_is_held_out() -> None:
    assert rows(*[2] * 10).starts(1, held_out=True).tolist() == [18]
    assert rows(*[2] * 10).starts(1, held_out=False).tolist() == list(range(0, 18, 2))


def test_recordings_that_are_too_short_are_named() -> None:
    with pytest.raises(
        JepaExportError, match="no recording has 31 steps", check=code("training.too_few_recordings")
    ):
        rows(20, 20).starts(30, held_out=False)


def test_single_recording_leaves_none_to_train_on() -> None:
    with pytest.raises(JepaExportError, check=code("training.too_few_recordings")):
        rows(20).starts(1, held_out=False)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("jepa_recipes.stable_worldmodel.recordings.importlib.import_module", missing)
    with pytest.raises(
        JepaExportError,
        match=r"pip install -r benchmarks/stable_worldmodel\.txt",
        check=code("export.package_missing"),
    ):
        package()
