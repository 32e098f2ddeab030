"""What the commands of ``jepa-runtime`` write, they do not write into the bundle that they read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main


@pytest.mark.parametrize(
    "command",
    [
        "run --bundle BUNDLE --source two_rooms --json OUT",
        "record --bundle BUNDLE --source two_rooms --out OUT.mcap",
        "replay none.mcap --bundle BUNDLE --mcap OUT.mcap",
        "whatif none.mcap --bundle BUNDLE --at 0 --html OUT",
        "report none.mcap --bundle BUNDLE --png OUT",
        "view none.mcap --bundle BUNDLE --save OUT",
        "view --bundle BUNDLE --source two_rooms --save OUT",
        "profile --bundle BUNDLE --json OUT",
        "drive BUNDLE --json OUT",
    ],
)
@pytest.mark.parametrize("out", ["report.json", "new", "encoder/new"])
def test_nothing_is_written_into_a_bundle(
    toy_bundle: Path, tmp_path: Path, command: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(toy_bundle, tmp_path / "toy"))
    told = command.replace("BUNDLE", str(bundle)).replace("OUT", str(bundle / out))
    assert main(told.split()) == 1
    assert f"lies in, {bundle}, which is read: write into another file" in capsys.readouterr().err
    Bundle.open(bundle)
