"""Distillation in two processes, and in one that is killed, gives the results of one undisturbed process."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.distillation.tiny import DISTILL

ROOT = Path(__file__).resolve().parents[3]
STAGES = ("encoder", "encoder_int8", "predictor")
MODULE = "tests.export.distillation.tiny"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
# Losses of steps 2 and 3 are lost, those of 0 and 1 are in a checkpoint.
KILLS = (("encoder", 3), ("encoder", 5), ("encoder_int8", 3), ("predictor", 3))
RETENTION = "jepa_export.distillation.clip_metrics:measure_retention"
ERRORS = "jepa_export.distillation.clip_metrics:measure"
QUANTIZE = "jepa_export.quantization.accuracy_control:AccuracyController.quantize"
VERIFY = "jepa_export.bundling.builder:verify_golden_outputs"
COMPILE = "jepa_export.bundling.builder:run_vendor_compilers"
SEAL = "jepa_export.bundling.builder:seal"
# Targets whose graphs are renamed, copied, halved and quantized.
BUNDLE = [
    *DISTILL,
    *(word for name in ("openvino", "onnx", "npu", "tensorrt") for word in ("--target", name)),
]
# Each is a step that no earlier run finished. Graphs are quantized in this order: encoder, step, and the two
# parts of the predictor.
KILLS_AFTER_TRAINING = (
    *((RETENTION, 1), (ERRORS, 1), (QUANTIZE, 1), (QUANTIZE, 2), (QUANTIZE, 3)),
    *((VERIFY, 1), (COMPILE, 1), (SEAL, 2)),
)


def start(
    out: Path, *leading: str, through: tuple[str, ...] = (), aware: str = "6"
) -> subprocess.CompletedProcess[str]:
    return run(*leading, "--no-bundle", *DISTILL, "--quantization-aware", aware, out=out, through=through)


def run(*arguments: str, out: Path, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", *through, MODULE, *arguments, "--output", str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def losses(out: Path, stage: str) -> np.ndarray:
    with (out / f"{stage}.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    assert [row[0] for row in rows] == [str(step) for step in range(6)]
    return np.array([[float(value) for value in row[1:]] for row in rows])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = start(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_student_learns(undisturbed: Path) -> None:
    for stage in STAGES:
        reference = losses(undisturbed, stage)
        assert reference[-1, 0] < reference[0, 0], stage


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_run_resumes_to_the_same_losses_and_weights(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for stage, step in KILLS:
        killed = start(out, "--die", stage, str(step))
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    done = start(out)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        for name in (f"{stage}.csv", f"{stage}_variety.csv", f"{stage}_held_out.csv"):
            assert (out / name).read_text() == (undisturbed / name).read_text(), name
        ours, theirs = (
            torch.load(run / f"{stage}.pt", weights_only=True)["network"] for run in (out, undisturbed)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), stage
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in undisturbed.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_run_killed_after_training_repeats_no_finished_step_and_makes_the_same_bundle(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    done = run(*BUNDLE, out=whole)
    assert done.returncode == 0, done.stdout + done.stderr
    for function, call in KILLS_AFTER_TRAINING:
        killed = run("--die-in", function, str(call), *BUNDLE, out=out)
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    # Other limits of INT8, so the graphs are made again.
    killed = run("--die-in", QUANTIZE, "1", *BUNDLE, "--int8-cosine", "0.98", out=out)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    finished = [word for step in (RETENTION, ERRORS, QUANTIZE, COMPILE) for word in ("--die-in", step, "1")]
    resumed = run(*finished, *BUNDLE, out=out)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for step in ("prediction error", "encoder graphs", "step graphs", "predictor graphs"):
        assert f"{step}: reused" in resumed.stdout
    # Results are reported as if they had been measured now.
    reported = [line for line in done.stdout.splitlines() if "cosine" in line and "loss" not in line]
    assert reported and set(reported) <= set(resumed.stdout.splitlines())
    ours, theirs = files(out / "bundle"), files(whole / "bundle")
    assert [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)] == []
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_have_the_losses_of_one_with_the_same_batch(tmp_path: Path) -> None:
    # As in INT8, the last bit of a sum can decide how a value is rounded.
    for name, through in (("one", ()), ("two", tuple(TORCHRUN))):
        done = start(tmp_path / name, through=through, aware="0")
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes" in done.stdout + done.stderr
    for stage in ("encoder", "predictor"):
        one, two = (losses(tmp_path / name, stage) for name in ("one", "two"))
        np.testing.assert_allclose(two, one, atol=1e-5, rtol=0, err_msg=stage)
