"""jepa-export build: a complete bundle with random weights, or nothing at all."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from jepa_export.bundling import student_bundle
from jepa_export.cli import main
from jepa_export.commands import build_student as command
from jepa_export.commands.build_student import StudentRequest, read_calibration
from jepa_export.errors import JepaExportError
from jepa_export.students.family import FAMILY, Sizes, create, randomize
from jepa_runtime import Bundle, BundleError, WorldModel
from jepa_runtime.cli import main as runtime
from jepa_sim.worlds.two_rooms_geometry import MAX_SPEED_MPS
from tests.errors import code

BUILD = ["build", "--student", "tiny", "--untrained", "--size", "32", "--num-samples", "16"]
LEAN = ["--only", "openvino/int8", "--horizon", "1", "--history", "1", "--actions", "3"]
TINY = Sizes(encoder=(64, 1, 2), predictor=(32, 1, 2), tokens=4, dim=16)
VARIANTS = [("openvino", "int8"), ("openvino", "fp32"), ("onnx", "fp32")]
ROLES = ("encoder", "predictor", "step")
SCALE = (MAX_SPEED_MPS, MAX_SPEED_MPS)


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Register a student that is built in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILY, "tiny", TINY)
        yield


@dataclass(frozen=True)
class Built:
    """Contain a bundle and the output of its build."""

    folder: Path
    output: str


def build(folder: Path, *further: str) -> Built:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main([*BUILD, *further, "--output", str(folder)]) == 0
    assert list(folder.parent.iterdir()) == [folder]
    return Built(folder, output.getvalue())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("built") / "tiny")


@pytest.fixture
def copied(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the graphs of ``built`` instead of exporting them again."""

    def copy(*arguments: object, **_: object) -> None:
        folder = arguments[-2]
        shutil.copytree(built.folder / Path(str(folder)).name, str(folder))

    monkeypatch.setattr(student_bundle, "write_graph", copy)
    monkeypatch.setattr(student_bundle, "write_step", copy)
    monkeypatch.setattr(student_bundle, "write_predictor", copy)


def test_build_reports_the_cost_of_the_student_before_its_steps(built: Built) -> None:
    student = create("tiny", px=32, action_scale=SCALE, seed=0)
    for network in (student.encoder, student.predictor):
        count = sum(parameter.numel() for parameter in network.parameters())
        assert f"{count / 1e6:.2f} M" in built.output and f"{4 * count / 1e6:.1f}" in built.output
    output = " ".join(built.output.split())
    assert "16 futures" in output and "calibrated on 64 frames" in output
    places = [output.index(part) for part in ("tiny", *(f"[{step}]" for step in range(1, 6)), "bundle:")]
    assert places == sorted(places)


@pytest.mark.usefixtures("copied")
def test_build_prints_the_output_path_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) / "x[" / "bold]"
    assert build(folder).output.splitlines()[-1] == f"bundle: {folder}"


def test_bundle_opens_strictly_and_describes_itself(built: Built) -> None:
    manifest = Bundle.open(built.folder).manifest
    assert (manifest.model_id, manifest.version, manifest.trained) == ("tiny", "0.0.0-untrained", False)
    assert (manifest.history_size, manifest.horizon, manifest.num_samples) == (3, 8, 16)
    assert (manifest.io.frame.height, manifest.io.frame.width) == (32, 32)
    assert (manifest.io.latent.tokens, manifest.io.latent.dim) == (TINY.tokens, TINY.dim)
    assert list(manifest.io.action.names) == ["linear.x", "linear.y"]
    assert list(manifest.error_bounds) == [0.0] * 8
    for role in ROLES:
        assert [(each.target, each.precision) for each in manifest.graphs.variants(role)] == VARIANTS
    assert not manifest.graphs.energy


def test_report_states_how_closely_each_graph_matches_the_networks(built: Built) -> None:
    parity = {
        (entry["graph"], entry["target"], entry["precision"]): entry
        for entry in Bundle.open(built.folder).report()["parity"]
    }
    assert parity.keys() == {(role, *variant) for role in ROLES for variant in VARIANTS}
    for (_, _, precision), entry in parity.items():
        assert entry["min_cosine"] > (0.9999 if precision == "fp32" else 0.9)
        assert entry["max_abs"] < (1e-4 if precision == "fp32" else 2)


def request_of(command_line: str) -> StudentRequest:
    """Return the request that ``command_line`` passes to the builder."""
    taken: list[StudentRequest] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "build_student", lambda request: taken.append(request) or 0)
        assert main([*shlex.split(command_line)[1:], "--output", "x"]) == 0
    return taken[0]


def test_bundle_records_the_command_that_builds_it(built: Built) -> None:
    request = request_of(shlex.join(["jepa-export", *BUILD]))
    assert request_of(Bundle.open(built.folder).manifest.provenance.command) == request


def test_recorded_command_contains_every_option() -> None:
    further = ["--size", "48", "--seed", "7", "--calibration", "my clips"]
    targets = ["--target", "npu", "--target", "tensorrt"]
    for each in (LEAN, targets):
        request = request_of(shlex.join(["jepa-export", *BUILD, *each, *further]))
        assert request_of(request.command) == request


def test_untrained_bundle_is_not_served_by_default(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BundleError, check=code("bundle.untrained")):
        WorldModel.open(built.folder)
    assert runtime(["run", str(built.folder), "--source", "two_rooms", "--duration", "1"]) == 1
    assert "--allow-untrained" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_bundle_verifies_on_this_machine(
    built: Built, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(engine.split(":")[0])
    assert runtime(["verify", str(built.folder), "--engine", engine]) == 0, capsys.readouterr().err
    assert "untrained" in capsys.readouterr().out


def test_runtime_computes_what_the_networks_compute(built: Built) -> None:
    student = create("tiny", px=32, action_scale=SCALE, seed=0)
    randomize(student.predictor, 0)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    actions, between = (rng.uniform(-0.8, 0.8, shape).astype(np.float32) for shape in ((16, 8, 2), (2, 2)))
    with torch.no_grad():
        latents = student.encoder(torch.from_numpy(frames))
        futures = student.predictor(latents[None], torch.from_numpy(actions), torch.from_numpy(between[None]))
    with WorldModel.open(built.folder, precision="fp32", allow_untrained=True) as model:
        actual = np.stack([model.encode(frame) for frame in frames])
        np.testing.assert_allclose(actual, latents, atol=1e-3)
        predicted = model.predict(actions, latents=latents.numpy(), history_actions=between)
        np.testing.assert_allclose(predicted.latents, futures, atol=1e-3)
        one = model.predict(actions[:1, :1], latents=latents.numpy(), history_actions=between)
        np.testing.assert_allclose(one.latents, futures[:1, :1], atol=1e-3)


def test_single_variant_leaves_no_files_of_the_others(tmp_path: Path) -> None:
    folder = build(tmp_path / "tiny", *LEAN).folder
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    graphs = {f"{role}/openvino/model_int8.{suffix}" for role in ROLES for suffix in ("xml", "bin")}
    assert files == graphs | {"manifest.json", "report.json", "golden.npz"}
    assert all(any(path.iterdir()) for path in folder.rglob("*") if path.is_dir())
    manifest = Bundle.open(folder).manifest
    for role in ROLES:
        assert [(each.target, each.precision) for each in manifest.graphs.variants(role)] == [
            ("openvino", "int8")
        ]
    assert runtime(["verify", str(folder)]) == 0


def test_video_is_sampled_at_every_frame_one_step_apart(tmp_path: Path) -> None:
    for index in range(96):
        cv2.imwrite(str(tmp_path / f"{index:03}.png"), np.full((40, 48, 3), index, np.uint8))
    frames, _ = read_calibration(str(tmp_path), (32, 32))
    # An image folder is read at 30 Hz, and a step takes 0.2 s.
    assert frames.shape == (16, 32, 32, 3)
    assert frames.mean(axis=(1, 2, 3)).tolist() == list(range(0, 96, 6))


def test_steps_of_several_frames_are_read_evenly(tmp_path: Path) -> None:
    for index in range(64):
        cv2.imwrite(str(tmp_path / f"{index:03}.png"), np.full((40, 48, 3), index, np.uint8))
    options = {"maximum": 4, "minimum": 4, "frames_per_step": 2}
    frames, _ = read_calibration(str(tmp_path), (8, 8), step_s=0.5, **options)
    assert frames.mean(axis=(1, 2, 3)).tolist() == [0, 8, 15, 23, 30, 38, 45, 53]
    slow, _ = read_calibration(str(tmp_path), (8, 8), step_s=0.01, **options)
    assert slow.mean(axis=(1, 2, 3)).tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
    with pytest.raises(JepaExportError, check=code("export.too_few_frames")):
        read_calibration(str(tmp_path), (8, 8), step_s=0.5, **(options | {"minimum": 5, "maximum": 5}))


def refused(arguments: Sequence[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the single line of output of the rejected ``arguments``."""
    assert main([*BUILD, *arguments, "--output", str(out)]) == 1
    output = capsys.readouterr().err
    assert output.startswith("jepa-export: ") and output.count("\n") == 1
    return output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--student", "vit_xl"], "student 'vit_xl': unknown"),
        (["--size", "40"], "px must be a multiple of the patch (16), got 40"),
        (["--actions", "0"], "--actions must be between 1 and 64, got 0"),
        (["--actions", "65"], "--actions must be between 1 and 64, got 65"),
        (["--only", "openvino/fp16"], "must be one of openvino/int8, openvino/fp32, onnx/fp32, npu/int8"),
        (["--horizon", "0"], "--horizon must be between 1 and 32, got 0"),
        (["--horizon", "33"], "--horizon must be between 1 and 32, got 33"),
        (["--num-samples", "0"], "--num-samples must be between 1 and 4096, got 0"),
        (["--history", "5"], "--history must be between 1 and 4, got 5"),
        (["--size", "0"], "--size must be between 16 and 4096, got 0"),
        (["--size", "-16"], "--size must be between 16 and 4096, got -16"),
        (["--calibration", "nowhere.mp4"], "nowhere.mp4: no such file or folder"),
    ],
)
def test_impossible_build_is_reported_in_one_line_and_leaves_nothing(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in refused(arguments, tmp_path / "models" / "vit_ti", capsys)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_calibration_source_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "film.mp4"
    video.write_text("no film")
    assert str(video) in refused(["--calibration", str(video)], tmp_path / "vit_ti", capsys)
    assert list(tmp_path.iterdir()) == [video]


def test_too_few_calibration_frames_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "film"
    video.mkdir()
    for index in range(12):
        cv2.imwrite(str(video / f"{index}.png"), np.zeros((8, 8, 3), np.uint8))
    output = refused(["--calibration", str(video)], tmp_path / "vit_ti", capsys)
    assert "has 2 frames one step apart, calibration needs at least 16" in output
    assert list(tmp_path.iterdir()) == [video]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_output_that_is_no_bundle_is_rejected_at_once_and_unchanged(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "create", None)
    target = tmp_path / "photos"
    holiday = target / "holiday.txt" if kind == "folder" else target
    holiday.parent.mkdir(exist_ok=True)
    holiday.write_text("irreplaceable")
    output = refused([], target, capsys)
    assert f"{target} exists and is not a bundle: choose another --output" in output
    assert holiday.read_text() == "irreplaceable"
    assert list(tmp_path.iterdir()) == [target]


def test_output_below_a_file_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("irreplaceable")
    assert f"{tmp_path / 'file'} is a file: choose another --output" in refused(
        [], tmp_path / "file" / "models" / "vit_ti", capsys
    )


def test_random_weights_require_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["build", "--student", "vit_ti", "--output", "x"])
    assert ended.value.code == 2
    assert "--untrained" in capsys.readouterr().err


@pytest.mark.usefixtures("copied")
def test_graph_with_wrong_outputs_is_named_and_the_old_bundle_stays(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = {"min_cosine": 0.9999, "max_abs": 1e-3}
    monkeypatch.setattr(student_bundle, "TOLERANCES", {"fp32": exact, "int8": exact})
    folder = Path(shutil.copytree(built.folder, tmp_path / "tiny"))
    output = refused([], folder, capsys)
    assert "the int8 encoder for openvino does not reproduce the network's outputs" in output
    assert "nothing was written" in output
    assert Bundle.open(folder).sha256 == Bundle.open(built.folder).sha256
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("copied")
def test_new_bundle_replaces_the_old_one(built: Built, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "tiny"))
    build(folder, "--num-samples", "24")
    assert Bundle.open(folder).manifest.num_samples == 24


def start(folder: Path, *further: str) -> subprocess.Popen[str]:
    """Start to build the smallest real student in a separate process."""
    run = [sys.executable, "-c", "import sys; from jepa_export.cli import main; sys.exit(main())"]
    return subprocess.Popen(
        [*run, *BUILD, "--student", "vit_ti", *further, "--output", str(folder)],
        env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_build_leaves_the_old_content(
    built: Built, tmp_path: Path, number: signal.Signals
) -> None:
    folder = Path(shutil.copytree(built.folder, tmp_path / "vit_ti"))
    process = start(folder)
    assert process.stdout is not None
    assert any("[2]" in line for line in process.stdout)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output.strip().endswith("jepa-export: interrupted: nothing was written")
    assert list(tmp_path.iterdir()) == [folder]
    assert Bundle.open(folder).sha256 == Bundle.open(built.folder).sha256


PLAIN = (["action_0", "action_1", "action_2"], [-1.0] * 3, [1.0] * 3, None)
VELOCITIES = (["linear.x", "linear.y"], [-MAX_SPEED_MPS] * 2, [MAX_SPEED_MPS] * 2, MAX_SPEED_MPS)


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(
    ("further", "actions"), [([], VELOCITIES), (LEAN, PLAIN)], ids=["default", "minimal"]
)
def test_smallest_real_student_builds_and_verifies(
    further: list[str], actions: tuple[object, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "vit_ti"
    process = start(folder, *further)
    _, output = process.communicate(timeout=900)
    assert process.returncode == 0, output
    assert list(tmp_path.iterdir()) == [folder]
    assert runtime(["verify", str(folder)]) == 0
    action = Bundle.open(folder).manifest.io.action
    assert (list(action.names), list(action.low), list(action.high), action.max_norm) == actions
