"""Commands that get the address of a bundle on the Hub, against a stand-in (tests/hub_stand_in.py)."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_runtime.cli import PROGRAM
from jepa_runtime.cli import main as runtime
from jepa_runtime.commands.arguments import bundle_location, local_bundle
from jepa_runtime.util.hub_address import HubAddress
from tests.bundles import make_bundle
from tests.export_extra import MISSING
from tests.hub_stand_in import HubStandIn, files_of, run_python, served

ADDRESS = "hf://robots/maze"
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra hub)")
NEEDS_EXPORT = pytest.mark.skipif(bool(MISSING), reason="the extra export is not installed")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    """Return a stand-in for the Hub with a bundle."""
    with served() as hub:
        hub.commit("robots/maze", files_of(make_bundle(tmp_path / "local").path))
        yield hub


def run(program: str, words: list[str], hub: HubStandIn, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of jepa_runtime or jepa_export."""
    code = f"from {program}.cli import main; raise SystemExit(main())"
    return run_python(["-c", code, *words], hub, folder / "home")


def test_info_shows_the_folder_of_the_download(hub: HubStandIn, tmp_path: Path) -> None:
    done = run("jepa_runtime", ["info", ADDRESS, "--json"], hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(json.loads(done.stdout)["path"])
    assert folder.name == hub.resolve("robots/maze", "main") and tmp_path / "home" in folder.parents
    # A table wraps it.
    shown = "".join(run("jepa_runtime", ["info", ADDRESS], hub, tmp_path).stdout.split())
    assert str(folder) in shown


@pytest.mark.parametrize(
    ("words", "statuses"),
    [
        (["verify", f"{ADDRESS}@main"], {0}),
        (["run", ADDRESS, "--source", "two_rooms", "--duration", "0.5", "--allow-untrained"], {0}),
        # Its result is that of this machine.
        (["doctor", ADDRESS], {0, 3}),
    ],
)
def test_command_uses_the_downloaded_bundle(
    hub: HubStandIn, tmp_path: Path, words: list[str], statuses: set[int]
) -> None:
    done = run("jepa_runtime", words, hub, tmp_path)
    assert done.returncode in statuses, done.stderr
    assert list((tmp_path / "home").rglob("manifest.json"))


@NEEDS_EXPORT
@pytest.mark.parametrize("write", [False, True])
def test_evaluate_writes_no_results_into_the_download(hub: HubStandIn, tmp_path: Path, write: bool) -> None:
    words = ["evaluate", ADDRESS, "--clips", "1", "--episodes", "0", *(["--write"] if write else [])]
    done = run("jepa_export", words, hub, tmp_path)
    assert done.returncode == (2 if write else 0), done.stderr
    assert not write or ADDRESS in done.stderr


@pytest.mark.parametrize(
    ("address", "code"), [("hf://maze", "invalid_address"), (f"{ADDRESS}x", "not_found")]
)
def test_address_without_a_bundle_is_an_error(
    hub: HubStandIn, tmp_path: Path, address: str, code: str
) -> None:
    done = run("jepa_runtime", ["verify", address], hub, tmp_path)
    assert done.returncode == 1 and f"[hub.{code}]" in done.stderr


def test_update_does_not_download_the_factory_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        runtime(["update", "provision", ADDRESS, "--robot", str(tmp_path)])
    assert "does not download bundles" in capsys.readouterr().err


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of all commands and of their subcommands."""
    groups = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for each in (sub for group in groups for sub in group.choices.values()):
        yield from leaves(each)
    if not groups:
        yield parser


def bundle_arguments(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.Action]]:
    """Return the arguments of all commands that name a bundle."""
    return [
        (leaf.prog, action)
        for leaf in leaves(parser)
        for action in leaf._actions
        if "BUNDLE" in str(action.metavar)
    ]


def test_every_command_of_the_runtime_parses_addresses() -> None:
    found = bundle_arguments(PROGRAM.parser())
    assert len(found) > 12
    assert {prog for prog, action in found if action.type is local_bundle} == {
        "jepa-runtime update provision"
    }
    assert all(action.type in (bundle_location, local_bundle) for _, action in found), found


@NEEDS_EXPORT
def test_every_command_of_the_export_parses_addresses() -> None:
    from jepa_export.cli import PROGRAM as EXPORT

    found = bundle_arguments(EXPORT.parser())
    assert len(found) >= 7
    assert all(action.type(ADDRESS) == HubAddress(ADDRESS) for _, action in found), found


def test_address_keeps_both_slashes() -> None:
    assert bundle_location(ADDRESS) == HubAddress(ADDRESS)
    assert bundle_location("models/maze") == Path("models/maze")
