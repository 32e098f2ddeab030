"""``jepa-runtime verify`` and ``info``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.cli import main
from tests.bundles import ACTIONS, HORIZON, make_bundle


@pytest.fixture
def folder(toy_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_bundle, tmp_path / "toy"))


def change_golden(folder: Path, name: str, value: float) -> None:
    """Seal the bundle with golden outputs that its graphs do not reproduce."""
    manifest = Bundle.open(folder).manifest
    arrays = dict(np.load(folder / "golden.npz"))
    arrays[name].flat[0] += value
    np.savez(folder / "golden.npz", **arrays)
    seal(folder, manifest)


def verify_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["verify", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_verify_valid_bundle_returns_0(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(toy_bundle)]) == 0
    output = capsys.readouterr()
    assert "manifest, hashes and formats of 17 files are valid" in output.out
    for word in ("fp32", "fp16", "encoder", "predictor", "energy", "worst", "ok"):
        assert word in output.out
    assert output.err == ""


@pytest.mark.parametrize(
    ("engine", "precisions"), [("openvino:CPU", ["fp32", "fp16"]), ("onnxruntime:CPU", ["fp32"])]
)
def test_verify_checks_every_variant_of_the_engine(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str], engine: str, precisions: list[str]
) -> None:
    status, report = verify_json(capsys, str(toy_bundle), "--engine", engine)
    assert status == 0 and report["ok"] and report["reason"] is None
    assert (report["model_id"], report["engine"], report["trained"]) == ("toy", engine, True)
    result = [(entry["precision"], entry["graph"]) for entry in report["graphs"]]
    assert result == [(name, graph) for name in precisions for graph in ("encoder", "predictor", "energy")]
    for entry in report["graphs"]:
        assert entry["ok"] and entry["min_cosine"] >= entry["tolerance"]["min_cosine"]


def test_verify_checks_the_chosen_precision(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = verify_json(capsys, str(toy_bundle), "--precision", "fp16")
    assert {entry["precision"] for entry in report["graphs"]} == {"fp16"}
    status, report = verify_json(capsys, str(toy_bundle), "--precision", "int8")
    assert status == 1 and "can run in int8" in report["reason"]


@pytest.mark.parametrize(
    ("name", "graph"), [("latents", "encoder"), ("futures", "predictor"), ("energy", "energy")]
)
def test_verify_names_the_graph_with_wrong_outputs(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, graph: str
) -> None:
    change_golden(folder, name, 0.5)
    status, report = verify_json(capsys, str(folder), "--precision", "fp32")
    assert status == 1 and not report["ok"]
    assert f"fp32 {graph} does not reproduce its golden outputs on this machine" in report["reason"]
    assert report["code"] == "bundle.golden_mismatch"
    assert not next(entry["ok"] for entry in report["graphs"] if entry["graph"] == graph)


def test_verify_damaged_bundle_returns_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "golden.npz").write_bytes(b"x")
    status, report = verify_json(capsys, str(folder))
    assert status == 1 and report["graphs"] == []
    assert "golden.npz: has 1 bytes" in report["reason"]
    assert main(["verify", str(folder)]) == 1
    assert "golden.npz: has 1 bytes" in capsys.readouterr().err


def test_verify_untrained_bundle_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seal(folder, Bundle.open(folder).manifest.model_copy(update={"trained": False}))
    assert main(["verify", str(folder)]) == 0
    assert "untrained" in capsys.readouterr().out


def test_verify_with_missing_engine_returns_1(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = verify_json(capsys, str(toy_bundle), "--engine", "onnxruntime:NPU")
    assert status == 1 and "no such device" in report["reason"]


def test_info_shows_the_bundle(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(toy_bundle)]) == 0
    output = capsys.readouterr().out
    sha256 = Bundle.open(toy_bundle).sha256
    for word in (
        "toy 1.2.3",
        "linear.x",
        "m/s",
        "Apache-2.0",
        "32 x 32",
        "2 tokens x 8",
        "8 x 4 steps",
        sha256,
    ):
        assert word in output


@pytest.mark.parametrize(
    ("graph", "without"),
    [("step", "predictor"), ("energy", "mean squared difference"), ("relative_pose", "reads no poses")],
)
def test_info_shows_what_replaces_a_missing_graph(
    graph: str, without: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "toy", energy=False)
    assert main(["info", str(tmp_path / "toy")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [graph]]
    assert f"none ({without})" in line


def test_info_json_contains_the_manifest(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(toy_bundle), "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["manifest"] == json.loads((toy_bundle / "manifest.json").read_text())
    assert output["sha256"] == Bundle.open(toy_bundle).sha256


def test_info_prints_text_of_a_bundle_literally(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = Bundle.open(folder).manifest.model_copy(update={"description": "[bold]plain[/bold] [/]"})
    seal(folder, described)
    assert main(["info", str(folder)]) == 0
    assert "[bold]plain[/bold] [/]" in capsys.readouterr().out


def test_info_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / "nowhere")]) == 1
    output = capsys.readouterr().err
    assert output.startswith("jepa-runtime: ") and output.count("\n") == 1


def test_installed_program_prints_its_version() -> None:
    command = Path(sys.executable).with_name("jepa-runtime")
    if not command.is_file():
        pytest.skip("jepa-edge is not installed in this environment")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("jepa-edge ")


def npu_bundle(folder: Path, *, candidates: int = 9) -> Path:
    """Return a bundle that also has an NPU variant, whose graphs have fixed shapes."""
    fields = make_bundle(folder, step=True, energy=False).manifest.model_dump(mode="json")
    shapes = {"encoder": None, "predictor": [candidates, HORIZON, ACTIONS], "step": [1, 1, ACTIONS]}
    for role, actions in shapes.items():
        model = openvino.Core().read_model(folder / role / "openvino" / "model.xml")
        if actions is not None:
            model.reshape({"actions": actions})
        openvino.save_model(model, folder / role / "npu" / "model.xml", compress_to_fp16=False)
        fields["graphs"][role].append({"target": "npu", "precision": "fp32", "path": f"{role}/npu/model.xml"})
    seal(folder, fields)
    return folder


def statuses(expected: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(entry["target"], entry["precision"]): entry["status"] for entry in expected["variants"]}


def test_verify_without_the_device_of_a_variant_reports_it_as_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = npu_bundle(tmp_path / "toy")
    status, report = verify_json(capsys, str(folder))
    assert status == 0, report["reason"]
    assert statuses(report) == {
        ("openvino", "fp32"): "checked",
        ("openvino", "fp16"): "checked",
        ("onnx", "fp32"): "checked",
        ("npu", "fp32"): "not checked",
    }
    (npu,) = [entry for entry in report["variants"] if entry["target"] == "npu"]
    assert "no such device" in npu["reason"] and npu["engine"] == "openvino:CPU"
    assert {entry["graph"] for entry in report["graphs"] if entry["target"] == "npu"} == {
        *("encoder", "predictor", "step")
    }
    assert main(["verify", str(folder)]) == 0
    assert "fp32 for npu: not checked on its own device" in capsys.readouterr().out


@pytest.mark.parametrize("without", [("npu",), ("npu", "openvino", "onnx")], ids=["npu", "all targets"])
def test_verify_npu_variant_without_step_fails(
    without: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = npu_bundle(tmp_path / "toy")
    fields = json.loads((folder / "manifest.json").read_text())
    steps = fields["graphs"]["step"]
    fields["graphs"]["step"] = [each for each in steps if each["target"] not in without]
    (folder / "manifest.json").write_text(json.dumps(fields))
    status, report = verify_json(capsys, str(folder))
    assert (status, report["code"]) == (1, "bundle.manifest_invalid")
    assert "for 8 candidates, so npu needs a step graph too" in report["reason"]


@pytest.mark.parametrize("role", ["encoder", "predictor", "step"])
def test_verify_variant_that_cannot_be_opened_fails_with_its_code(
    role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = npu_bundle(tmp_path / "toy")
    manifest = Bundle.open(folder).manifest
    (folder / role / "npu" / "model.xml").write_text("<net/>")
    seal(folder, manifest)
    status, report = verify_json(capsys, str(folder))
    assert (status, report["code"]) == (1, "bundle.variant_unusable")
    codes = {(entry["target"], entry["precision"]): entry["code"] for entry in report["variants"]}
    assert codes.pop(("npu", "fp32")) == "bundle.variant_unusable"
    assert set(codes.values()) == {None}, "other variants are still checked"
    assert main(["verify", str(folder)]) == 1
    assert "[bundle.variant_unusable]" in capsys.readouterr().err


def test_verify_without_an_engine_for_a_target_reports_it_as_not_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = Bundle.open(folder).manifest.model_dump(mode="json")
    for role in ("encoder", "predictor", "energy"):
        path = folder / role / "toy" / "model.onnx"
        path.parent.mkdir()
        shutil.copy(folder / role / "onnx" / "model.onnx", path)
        fields["graphs"][role].append(
            {"target": "toy", "precision": "fp32", "path": str(path.relative_to(folder))}
        )
    seal(folder, fields)
    status, report = verify_json(capsys, str(folder))
    assert status == 0 and statuses(report)["toy", "fp32"] == "not checked"
    assert {entry["target"] for entry in report["graphs"]} == {"openvino", "onnx"}
    assert main(["verify", str(folder)]) == 0
    assert "fp32 for toy: not checked: no engine for toy is installed" in capsys.readouterr().out


def test_verify_npu_variant_of_other_shapes_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = verify_json(capsys, str(npu_bundle(tmp_path / "toy", candidates=16)))
    assert status == 1 and statuses(report)["npu", "fp32"] == "failed"
    assert "fp32 for npu cannot be run" in report["reason"] and "requested was [9, 4, 2]" in report["reason"]
    assert statuses(report)["openvino", "fp32"] == "checked", "other variants are still checked"


def test_verify_with_an_engine_reports_what_it_does_not_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = npu_bundle(tmp_path / "toy")
    status, report = verify_json(capsys, str(folder), "--engine", "openvino:CPU", "--precision", "fp32")
    assert status == 0
    reasons = {(entry["target"], entry["precision"]): entry["reason"] for entry in report["variants"]}
    assert reasons == {
        ("openvino", "fp32"): None,
        ("openvino", "fp16"): "only fp32 was requested",
        ("onnx", "fp32"): "openvino:CPU does not use it",
        ("npu", "fp32"): "openvino:CPU does not use it",
    }


def test_verify_finds_wrong_weights_in_a_variant_for_a_missing_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = npu_bundle(tmp_path / "toy")
    manifest = Bundle.open(folder).manifest
    weights = folder / "encoder" / "npu" / "model.bin"
    weights.write_bytes(bytes(byte ^ 0x40 for byte in weights.read_bytes()))
    seal(folder, manifest)
    status, report = verify_json(capsys, str(folder))
    assert status == 1 and statuses(report)["npu", "fp32"] == "failed"
    assert statuses(report)["openvino", "fp32"] == "checked"


def test_verify_shipped_bundle_returns_0(two_rooms_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = verify_json(capsys, str(two_rooms_bundle))
    assert status == 0, report["reason"]


def test_verify_bundle_that_reads_states_returns_0(
    arm_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = verify_json(capsys, str(arm_bundle))
    assert status == 0, report["reason"]
    assert statuses(report)["openvino", "fp16"] == statuses(report)["onnx", "fp32"] == "checked"
