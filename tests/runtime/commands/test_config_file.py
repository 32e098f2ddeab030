"""``--config FILE``: options of a command in a file."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from jepa_export.cli import PROGRAM as EXPORT
from jepa_runtime.cli import PROGRAM, main
from jepa_runtime.commands import UsageError
from jepa_runtime.commands.config_file import ConfigFile
from tests.errors import code
from tests.scripts import ROOT

RUN = """
bundle: models/mine
source: two_rooms
num-samples: 16
rate: 12.5
allow-untrained: true
json: true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    return path


def parse_run(*argv: object) -> argparse.Namespace:
    return PROGRAM.parse(["run", *map(str, argv)])


def test_options_of_the_file_have_the_types_of_the_parser(file: Path) -> None:
    args = parse_run("--config", file)
    assert (args.bundle, args.source, args.num_samples, args.rate) == (
        Path("models/mine"),
        "two_rooms",
        16,
        12.5,
    )
    assert args.allow_untrained is True and args.json == "-"
    assert (args.robot, args.threads, args.jpeg) == (None, 1, False)


def test_command_line_wins_over_the_file(file: Path) -> None:
    args = parse_run("models/other", f"--config={file}", "--rate", "20", "--json", "out.json")
    assert (args.bundle, args.rate, args.json) == (Path("models/other"), 20.0, "out.json")
    assert args.num_samples == 16


def test_option_on_the_command_line_replaces_an_option_of_the_file_that_it_excludes(file: Path) -> None:
    args = parse_run("--robot", "/var/lib/jepa-edge", "--config", file)
    assert (args.robot, args.bundle, args.source) == (Path("/var/lib/jepa-edge"), None, "two_rooms")


def test_list_of_a_repeatable_option_is_replaced_by_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "distill.yaml"
    file.write_text("teacher: vjepa2_vitl_256\ndata: [one.mp4, two.mp4]\noutput: out\nskip-bad: false\n")
    args = EXPORT.parse(["distill", "--config", str(file)])
    assert (args.data, args.out, args.skip_bad) == (["one.mp4", "two.mp4"], Path("out"), False)
    assert EXPORT.parse(["distill", "--data", "mine.mp4", "--config", str(file)]).data == ["mine.mp4"]


def test_several_values_of_one_option_are_a_list(tmp_path: Path) -> None:
    file = tmp_path / "drive.yaml"
    file.write_text("seed: [3, 4]\nno-baselines: true\n")
    args = PROGRAM.parse(["drive", "bundle", "--config", str(file)])
    assert (args.seed, args.baselines) == ([3, 4], False)


def test_option_of_a_fixed_number_of_values_takes_a_list_of_that_length(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mean", nargs=3, type=float)
    path = tmp_path / "options.yaml"
    path.write_text("mean: [0, 0.5, 1]\n")
    config = ConfigFile(path, parser)
    arguments = parser.parse_args([])
    config.complete(arguments)
    assert arguments.mean == [0.0, 0.5, 1.0]
    for wrong in ("[0, 1]", "0.5"):
        path.write_text(f"mean: {wrong}\n")
        with pytest.raises(UsageError, check=code("config_file.invalid_value")):
            ConfigFile(path, parser)


def test_sub_command_has_the_options_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("output: out/mine\nseed: 7\n")
    args = EXPORT.parse(["train", "two_rooms", "--config", str(file)])
    assert (args.out, args.seed) == (Path("out/mine"), 7)


@pytest.mark.parametrize(
    ("content", "code", "expected"),
    [
        ("num_samples: 3", "unknown_key", "unknown key 'num_samples': did you mean 'num-samples'?"),
        ("qqqq: 3", "unknown_key", "the keys are bundle, robot, source, rate"),
        ("config: other.yaml", "unknown_key", "unknown key 'config'"),
        ("rate: fast", "invalid_value", "rate: must be a positive number"),
        ("rate: [1, 2]", "invalid_value", "rate must be a value"),
        ("allow-untrained: 3", "invalid_value", "allow-untrained must be true or false, got 3"),
        ("bundle: a\nrobot: b", "conflicting_keys", "bundle and robot exclude each other"),
        ("rate: 1\nrate: 2", "not_yaml", "not a YAML file"),
        ("a: [", "not_yaml", "not a YAML file"),
        ("- rate", "not_a_mapping", "must contain lines of the form OPTION: VALUE"),
        ("", "not_a_mapping", "must contain lines of the form OPTION: VALUE"),
    ],
)
def test_invalid_file_is_a_usage_error_with_a_code(
    content: str, code: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        main(["run", "bundle", "--source", "two_rooms", "--config", str(file)])
    stderr = capsys.readouterr().err
    assert stderr.startswith("usage: jepa-runtime run ")
    assert f"{file}: " in stderr and expected in stderr and f"[config_file.{code}]" in stderr


def test_missing_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "bundle", "--config", str(tmp_path / "none.yaml")])
    assert "[config_file.unreadable]" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["run", "bundle", "--config"])
    assert "argument --config: expected one argument" in capsys.readouterr().err


def test_required_option_may_be_in_neither_place(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("rate: 5")
    with pytest.raises(SystemExit, match="2"):
        parse_run("bundle", "--config", file)
    assert "required: --source" in capsys.readouterr().err


def test_run_executes_with_the_options_of_the_file(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "run.yaml", tmp_path / "run.json"
    file.write_text(
        f"bundle: {toy_bundle}\nsource: two_rooms\nduration: 0.3\nallow-untrained: true\njson: {out}\n"
    )
    assert main(["run", "--config", str(file)]) == 0
    assert out.exists()


def test_command_and_file_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_rooms_bundle: Path
) -> None:
    page = (ROOT / "docs" / "how-to" / "command-line.md").read_text("utf-8")
    (content,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (command,) = re.findall(r"^jepa-runtime (run --config .*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(content.replace("models/two_rooms", str(two_rooms_bundle)))
    assert main([*command.split()[:-1], "0.3"]) == 0
    assert (tmp_path / "out" / "run.json").exists()


def test_short_command_has_no_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["info", "bundle", "--config", "x.yaml"])
    assert "unrecognized arguments: --config" in capsys.readouterr().err
