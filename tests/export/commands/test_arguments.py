"""Any arguments of jepa-export succeed as documented or are rejected in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_export.cli import main
from jepa_export.commands import build_student, build_teacher
from jepa_export.distillation import distill
from jepa_export.errors import JepaExportError
from tests.export.data.recordings import write_video
from tests.export.distillation.tiny import DATA, DISTILL, PACE, SHAPE, TEACHER, families

REACHED = "everything was in order"
COMMANDS = {
    "distill": (
        DISTILL,
        "size steps quantization-aware depth clip rate history horizon num-samples batch predictor-steps "
        "learning-rate seed held-out int8-cosine checkpoint-every watch-every alarms student teacher data "
        "training-config heads predictor-heads resolution max-frames",
    ),
    "train-predictor": (
        [
            "train-predictor",
            "--encoder",
            TEACHER[1],
            TEACHER[2],
            "--student",
            "tiny",
            *DATA,
            *SHAPE,
            *PACE[2:],
        ],
        "depth clip rate history horizon num-samples batch seed held-out student encoder data",
    ),
    "build": (
        ["build", "--student", "tiny", "--untrained", "--size", "32"],
        "size actions horizon num-samples history seed calibration only target student",
    ),
    "build --teacher": (
        ["build", "--teacher", "tiny_vjepa2", "--untrained", "--frames", "2", "--horizon", "2"],
        "frames depth horizon seed calibration only teacher "
        "training-config heads predictor-heads resolution max-frames",
    ),
}
FLAGS = [(name, option) for name, (_, options) in COMMANDS.items() for option in options.split()]
VALUES = st.one_of(
    st.integers(-3, 40).map(str),
    st.sampled_from(
        ["", "nan", "-inf", "1e400", "1e-300", str(2**31), str(2**63), str(10**20), "\udce9", "a\nb"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
)


@pytest.fixture(autouse=True)
def without_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace training and writing; the models are tiny."""

    def stop(*_: object, **__: object) -> None:
        raise JepaExportError(REACHED)

    monkeypatch.setattr(distill, "train_stage", stop)
    monkeypatch.setattr(build_student, "write_untrained_bundle", stop)
    monkeypatch.setattr(build_teacher, "write_teacher_bundle", stop)
    with families():
        yield


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flag=st.sampled_from(FLAGS), value=VALUES)
def test_option_values_are_accepted_or_rejected_in_one_line(
    flag: tuple[str, str],
    value: str,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, option = flag
    out = tmp_path_factory.mktemp("any") / "out"
    capsys.readouterr()
    try:
        status = main([*COMMANDS[name][0], "--output", str(out), f"--{option}={value}"])
    except SystemExit as ended:
        assert ended.code == 2
        assert f"argument --{option}: " in capsys.readouterr().err
        return
    stderr = capsys.readouterr().err
    assert status == 1
    message = stderr.removesuffix("\n")
    assert message.startswith("jepa-export: ")
    assert message.count("\n") == value.count("\n") * message.count(value)
    assert not (out / "bundle").exists()


@pytest.mark.parametrize("keys", ["0", "101", str(10**12)])
def test_keys_without_a_possible_repository_are_rejected_before_writing(
    keys: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["release", "init", str(tmp_path / "repo"), "--root-keys", keys]) == 1
    assert f"a threshold of 2 with {keys} keys is invalid" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_invalid_held_out_proportion_is_reported_before_decoding_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DISTILL, "--held-out", "10", "--output", str(tmp_path / "run")]) == 1
    assert "--held-out: must lie in [0, 1), got 10" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_video_with_a_non_utf8_name_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "film.mp4", range(30)).rename(os.fsdecode(bytes(tmp_path) + b"/\xe9.mp4"))
    arguments = ["distill", *TEACHER, "--student", "tiny", *SHAPE, *PACE, "--data", str(video)]
    assert main([*arguments, "--held-out", "0", "--output", str(tmp_path / "run")]) == 1
    assert REACHED in capsys.readouterr().err
