"""`--json` and `--json -` write to standard output, `--json FILE` to a file, in every command that has it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_export import cli as export
from jepa_runtime import cli as runtime
from jepa_runtime.bundle import Bundle
from tests.ota.robots import Site

PLANE = "tests.sim.closed_loop.planes:MappedPlane"
MAINS = {"jepa-runtime": runtime.main, "jepa-export": export.main}
# A short run of each command. {bag} is a recording, {profile} a profile, {route} a route that {two_rooms} was
# taught, {root} an empty folder.
RUNS = {
    "jepa-runtime run": "{bundle} --source two_rooms --duration 0.2",
    "jepa-runtime record": "{bundle} --source two_rooms --duration 0.2 --output {root}/drive.mcap",
    "jepa-runtime replay": "{bag} {bundle} --output {root}/again.mcap",
    "jepa-runtime whatif": "{bag} {bundle} --at 1",
    "jepa-runtime profile": "{bundle} --duration 0.3 --skip all",
    "jepa-runtime compare": "{profile} {profile}",
    "jepa-runtime verify": "{bundle} --precision fp32 --engine openvino:CPU",
    "jepa-runtime drive": f"{{bundle}} --world {PLANE} --seed 0 --episodes 1",
    "jepa-runtime teach": "{two_rooms} --from {route} --output {root}/route",
    "jepa-runtime repeat": "{route} {two_rooms}",
    "jepa-runtime info": "{bundle}",
    "jepa-runtime doctor": "",
    "jepa-runtime build-engine": "{bundle} --engine openvino:CPU",
    "jepa-runtime configs plan": "--root {root}",
    "jepa-runtime configs apply": "--root {root}",
    "jepa-runtime configs undo": "--root {root}",
    "jepa-runtime update status": "--robot {robot}",
    "jepa-runtime update history": "--robot {robot}",
    "jepa-runtime update verify": "--robot {robot}",
    "jepa-export evaluate": "{bundle} --clips 1 --episodes 0",
}
# They need a repository; they write as `update status` does.
ACTIONS = ("check", "apply", "rollback", "cancel", "provision")
LIKE_STATUS = {f"jepa-runtime update {action}" for action in ACTIONS}


def _with_json(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, sub in action.choices.items():
                yield from _with_json(f"{name} {command}", sub)
        elif "--json" in action.option_strings:
            assert (action.nargs, action.const, action.type) == ("?", "-", None), name
            yield name


def test_all_commands_with_json_are_tested_here() -> None:
    parsers = {"jepa-runtime": runtime.PROGRAM.parser(), "jepa-export": export.PROGRAM.parser()}
    commands = {name for program, parser in parsers.items() for name in _with_json(program, parser)}
    assert commands == RUNS.keys() | LIKE_STATUS


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path, two_rooms_bundle: Path
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("json")
    paths = {"bundle": toy_bundle, "bag": folder / "drive.mcap", "profile": folder / "profile.json"}
    source = [str(toy_bundle), "--source", "two_rooms"]
    assert runtime.main(["record", *source, "--duration", "2", "--output", str(paths["bag"])]) == 0
    brief = ["--duration", "0.3", "--skip", "all"]
    profiled = ["profile", str(toy_bundle), *brief, "--json", str(paths["profile"])]
    assert runtime.main(profiled) == 0
    paths |= {"two_rooms": two_rooms_bundle, "route": folder / "route"}
    taught = ["teach", str(two_rooms_bundle), "--source", "two_rooms", "--duration", "3"]
    assert runtime.main([*taught, "--output", str(paths["route"])]) == 0
    paths["robot"] = Site(folder / "robot", Bundle.open(toy_bundle)).root
    return paths


@pytest.mark.parametrize("command", RUNS)
@pytest.mark.parametrize("option", ["--json", "--json -", "--json FILE"])
def test_json_is_written_to_the_given_place(
    command: str,
    option: str,
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, *names = command.split()
    (tmp_path / "root").mkdir()
    arguments = RUNS[command].format(**places, root=tmp_path / "root").split()
    monkeypatch.chdir(tmp_path)
    MAINS[program]([*names, *arguments, *option.split()])
    shown = capsys.readouterr().out
    written = tmp_path / "FILE"
    json.loads(written.read_text() if option.endswith("FILE") else shown)
    assert written.exists() == option.endswith("FILE")
    assert not (tmp_path / "-").exists()
