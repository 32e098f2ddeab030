"""The command that trains models of stable-worldmodel."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from jepa_export.errors import JepaExportError
from jepa_recipes.stable_worldmodel.recipe import RECIPE
from tests.errors import code


def parse(out: Path, *options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    RECIPE.add_arguments(parser)
    arguments = parser.parse_args(options)
    arguments.out, arguments.seed = out, 7
    return arguments


@pytest.mark.parametrize("other", [["--environment", "reacher"], ["--recordings", "5"]])
def test_folder_of_other_recordings_is_refused(
    other: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise JepaExportError("not installed", code="export.package_missing")

    monkeypatch.setattr("jepa_recipes.stable_worldmodel.recordings.package", missing)
    with pytest.raises(JepaExportError, check=code("export.package_missing")):
        RECIPE.train(parse(tmp_path))
    with pytest.raises(JepaExportError, match="recordings 1000", check=code("training.settings_mismatch")):
        RECIPE.train(parse(tmp_path, *other))
    with pytest.raises(JepaExportError, check=code("export.package_missing")):
        RECIPE.train(parse(tmp_path, "--environment", "two_room"))
