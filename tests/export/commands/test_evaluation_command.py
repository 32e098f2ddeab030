"""jepa-export evaluate on the command line: its output and files, and atomic writes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from jepa_export.cli import main
from jepa_export.errors import JepaExportError
from jepa_export.evaluation import bundle_report
from jepa_export.evaluation import evaluate as evaluating
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.errors import StorageError
from tests.bundles import make_bundle
from tests.errors import code
from tests.pages import external

BRIEF = ["--clips", "2", "--episodes", "0"]


@pytest.fixture
def bundle(two_rooms_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_rooms_bundle, tmp_path / "two_rooms"))


def test_evaluate_prints_figures_and_writes_json_and_html(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Bundle.open(bundle).sha256
    page, figures = tmp_path / "page.html", tmp_path / "figures.json"
    run = [
        "evaluate",
        str(bundle),
        "--clips",
        "2",
        "--episodes",
        "1",
        "--html",
        str(page),
        "--json",
        str(figures),
    ]
    assert main(run) == 0
    output = capsys.readouterr().out
    for part in ("openvino:CPU int8", "no motion", "wall removed", "straight_line", "11.55 M"):
        assert part in output
    report = json.loads(figures.read_text())
    assert [variant["precision"] for variant in report["variants"]] == ["int8", "fp32", "fp32"]
    html = page.read_text()
    assert html.startswith("<!DOCTYPE html>") and html.count("<svg") == 7
    assert external(html) == []
    assert Bundle.open(bundle).sha256 == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "page.html", "two_rooms"]


def test_names_in_a_bundle_are_not_interpreted_as_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa_export.evaluation.evaluate.engine_devices", lambda: ["openvino:CPU"])
    make_bundle(tmp_path / "toy", trained=False)
    fields = Bundle.open(tmp_path / "toy").manifest.model_dump(mode="json")
    fields["io"]["action"]["names"] = ["<b>x", "[red]y"]
    seal(tmp_path / "toy", fields)
    assert main(["evaluate", str(tmp_path / "toy"), "--clips", "1", "--html", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text()
    assert "<b>x" not in page and "&lt;b&gt;x" in page and "Random weights" in page


def test_evaluate_names_its_data_and_warns_that_two_rooms_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jepa_export.evaluation.evaluate.engine_devices", lambda: ["openvino:CPU"])
    make_bundle(tmp_path / "toy")
    fields = Bundle.open(tmp_path / "toy").manifest.model_dump(mode="json")
    fields["io"]["action"] |= {"names": ["linear.x", "angular.z"], "units": ["m/s", "rad/s"]}
    seal(tmp_path / "toy", fields)
    assert main(["evaluate", str(tmp_path / "toy"), "--clips", "2"]) == 0
    output = capsys.readouterr().out
    assert "measured on 2 clips of Two Rooms, random layouts never trained on" in output
    assert "not measured: images of this model's own robot: name a recording of it (--data)" in output


def test_evaluate_updates_the_report_in_the_bundle_and_nothing_else(bundle: Path) -> None:
    before = Bundle.open(bundle)
    before_report = before.report()
    assert main(["evaluate", str(bundle), *BRIEF, "--write"]) == 0
    after = Bundle.open(bundle)
    report = after.report()
    evaluation = report.pop("evaluation")
    assert report == before_report
    assert "scores" not in json.dumps(evaluation)
    assert evaluation["model_id"] == "two_rooms" and len(evaluation["variants"]) == 3
    old, new = (each.manifest.model_dump(mode="json") for each in (before, after))
    changed = [one["path"] for one, two in zip(old.pop("files"), new.pop("files"), strict=True) if one != two]
    assert old == new and changed == ["report.json"]
    assert [path.name for path in bundle.parent.iterdir()] == ["two_rooms"]


def test_link_to_a_bundle_stays_a_link(bundle: Path) -> None:
    link = bundle.with_name("current")
    link.symlink_to(bundle.name)
    bundle_report.add_to_report(Bundle.open(link), {"evaluation": {"found": 1}})
    assert link.is_symlink() and Bundle.open(bundle).report()["evaluation"] == {"found": 1}


def test_bundle_changed_during_the_evaluation_is_left_unchanged(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    bundle_report.add_to_report(opened, {"evaluation": {"found": 1}})
    with pytest.raises(JepaExportError, check=code("bundle.changed")):
        bundle_report.add_to_report(opened, {"evaluation": {"found": 2}})
    assert Bundle.open(bundle).report()["evaluation"] == {"found": 1}
    assert [path.name for path in bundle.parent.iterdir()] == ["two_rooms"]


def test_file_system_without_exchange_leaves_the_old_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    before = Bundle.open(bundle)
    monkeypatch.setattr(bundle_report, "exchange", refuse)
    with pytest.raises(StorageError, check=code("storage.io_error")):
        bundle_report.add_to_report(before, {"evaluation": {"found": 1}})
    assert Bundle.open(bundle).sha256 == before.sha256
    assert [path.name for path in bundle.parent.iterdir()] == ["two_rooms"]


KILLED = """
import os, sys
from jepa_export.evaluation import bundle_report as writing
from jepa_runtime.bundle import Bundle, seal
count = 0
def count_down(event, arguments):
    global count
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "ctypes.dlsym") and started:
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
started = False
sys.addaudithook(count_down)
bundle = Bundle.open(sys.argv[1])
started = True
writing.add_to_report(bundle, {"evaluation": {"found": 1}})
print(count)
"""


def test_evaluate_killed_while_writing_leaves_the_old_or_the_new_bundle(tmp_path: Path) -> None:
    make_bundle(tmp_path / "toy", energy=False)

    def write(kill_at: int, folder: Path) -> subprocess.CompletedProcess[str]:
        shutil.copytree(tmp_path / "toy", folder)
        run = [sys.executable, "-c", KILLED, str(folder), str(kill_at)]
        return subprocess.run(run, capture_output=True, text=True)

    whole = write(0, tmp_path / "whole" / "toy")
    events = int(whole.stdout)
    old, new = (Bundle.open(tmp_path / name).sha256 for name in ("toy", "whole/toy"))
    seen = set()
    # The exchange precedes the last removals.
    for kill_at in (1, 2, *range(3, events - 9, events // 5), events - 5):
        folder = tmp_path / str(kill_at) / "toy"
        assert write(kill_at, folder).returncode == -signal.SIGKILL
        seen.add(Bundle.open(folder).sha256)
    assert seen == {old, new}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{tmp}/nothing"], "nothing: not a bundle"),
        (["{tmp}"], "[bundle.file_missing]"),
        (["{bundle}", "--data", "{tmp}/no.mp4"], "no.mp4: no such file or folder"),
        (["{bundle}", "--data", "{tmp}/film.mp4"], "film.mp4: cannot be read"),
        (["{bundle}", "--clips", "0"], "--clips: must be between 1"),
        (["{bundle}", "--html", "{tmp}"], "cannot be written: Is a directory"),
        (["{bundle}", "--json", "{tmp}/film.mp4/x.json"], "cannot be written: "),
        (["{bundle}", "--json", "{tmp}/x"], "is specified twice as output: name another file"),
        (["{bundle}", "--json", "{bundle}/new.json"], "two_rooms, which is read: write into another file"),
        (["{bundle}", "--data", "{tmp}/film.mp4", "--html", "{tmp}/film.mp4"], "film.mp4, which is read: "),
        (
            ["{bundle}", "--data", "{tmp}/film.mp4", "--data", "two_rooms", "--html", "{tmp}/film.mp4"],
            "film.mp4, which is read: ",
        ),
    ],
)
def test_invalid_use_is_reported_in_one_line_and_nothing_is_written(
    arguments: list[str], reason: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film.mp4").write_text("no film")
    before = sorted(tmp_path.rglob("*")), Bundle.open(bundle).sha256
    filled = [argument.format(tmp=tmp_path, bundle=bundle) for argument in arguments]
    output = "--html" if "--json" in filled else "--json"
    run = ["evaluate", "--clips", "2", *filled, "--write", output, str(tmp_path / "x")]
    assert main(run) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("jepa-export: ") and reason in stderr and stderr.count("\n") == 1
    assert (sorted(tmp_path.rglob("*")), Bundle.open(bundle).sha256) == before


def test_evaluate_on_a_video_measures_surprise_in_two_rooms(bundle: Path, tmp_path: Path) -> None:
    images, figures = tmp_path / "film", tmp_path / "f.json"
    images.mkdir()
    for index in range(5):
        noise = np.random.default_rng(index).integers(0, 256, (60, 80, 3))
        cv2.imwrite(str(images / f"{index}.png"), noise)
    assert main(["evaluate", str(bundle), *BRIEF, "--data", str(images), "--json", str(figures)]) == 0
    report = json.loads(figures.read_text())
    assert report["data"] == str(images) and report["frames"] == 2
    assert (
        report["variants"][0]["prediction_accuracy"] is None and report["variants"][0]["surprise"] is not None
    )
    assert any("executed actions" in note for note in report["notes"])


@pytest.mark.parametrize(
    "where", [(evaluating, "compute"), (bundle_report, "seal")], ids=["measuring", "writing"]
)
def test_interrupted_evaluate_leaves_the_old_content(
    where: tuple[ModuleType, str],
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = Bundle.open(bundle).sha256
    monkeypatch.setattr(*where, interrupted)
    assert main(["evaluate", str(bundle), *BRIEF, "--write"]) == 130
    assert capsys.readouterr().err.endswith("every file is complete, in its old or its new version\n")
    assert Bundle.open(bundle).sha256 == before
    assert [path.name for path in bundle.parent.iterdir()] == ["two_rooms"]
