"""The registry of targets, with a target of another package that only its entry point makes known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jepa_export.bundling.variants import DEFAULT_TARGETS, VARIANTS
from jepa_export.targets.registry import SOURCE, target_names, targets
from jepa_runtime.bundle import Bundle, model_suffix
from jepa_runtime.cli import main as runtime
from tests.toy_packages import install_toy_engine, run, run_program


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with the toy engine and its target."""
    return install_toy_engine(tmp_path_factory)


@pytest.fixture(scope="module")
def extended(site: Path, toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with variants for the toy target."""
    folder = tmp_path_factory.mktemp("bundles") / "extended"
    done = run_program(
        site, "jepa_export", "add-variant", toy_bundle, "--target", "toy", "--output", folder, "--quiet"
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_targets_lists_those_of_the_package_in_the_order_of_variants() -> None:
    assert list(targets()) == ["openvino", "onnx", "npu", "tensorrt"]
    assert target_names() == ["onnx", "openvino", "npu", "tensorrt"]
    assert DEFAULT_TARGETS == ("onnx", "openvino") and SOURCE in VARIANTS


def test_target_of_another_package_is_a_choice_of_each_command(site: Path) -> None:
    program = (
        "from jepa_export.cli import PROGRAM\n"
        "commands = PROGRAM.parser()._subparsers._group_actions[0].choices\n"
        "for name in ('build', 'distill', 'train-predictor', 'add-variant'):\n"
        "    (target,) = [each for each in commands[name]._actions if each.dest == 'target']\n"
        "    print(name, *target.choices)\n"
    )
    assert run(site, "-c", program).stdout.splitlines() == [
        "build onnx openvino npu tensorrt toy",
        "distill onnx openvino npu tensorrt toy",
        "train-predictor onnx openvino npu tensorrt toy",
        "add-variant openvino npu tensorrt toy",
    ]


def test_variants_of_a_target_of_another_package_follow_those_of_this_package(site: Path) -> None:
    program = "from jepa_export.bundling.variants import VARIANTS; print(*VARIANTS[-2:])"
    assert run(site, "-c", program).stdout == "('tensorrt', 'fp16') ('toy', 'fp32')\n"


def test_add_variant_writes_the_target_of_another_package(extended: Path) -> None:
    bundle = Bundle.open(extended)
    for role in ("encoder", "predictor", "energy"):
        (variant,) = [each for each in bundle.manifest.graphs.variants(role) if each.target == "toy"]
        assert variant.path == f"{role}/toy/model_fp32{model_suffix('toy')}"
        assert b"toy" in bundle.read(variant.path)[:100]
    assert {row["target"] for row in bundle.report()["parity"]} == {"toy"}


def test_runtime_prefers_the_target_of_another_package_and_ignores_it_without(
    site: Path, extended: Path
) -> None:
    done = run_program(site, "jepa_runtime", "verify", extended, "--engine", "toy", "--json", "-")
    assert done.returncode == 0, done.stderr
    checked = {
        each["target"]: each for each in json.loads(done.stdout)["variants"] if each["engine"] == "toy"
    }
    assert checked["toy"]["status"] == "checked"
    assert runtime(["verify", str(extended), "--engine", "openvino:CPU"]) == 0


def test_broken_target_of_another_package_does_not_affect_the_others(site: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(site, tmp_path / "site"))
    (broken / "toy_target.py").write_text("raise RuntimeError('damaged')\n")
    done = run(broken, "-c", "from jepa_export.targets.registry import target_names as f; print(f())")
    assert done.stdout.strip() == "['onnx', 'openvino', 'npu', 'tensorrt']"
    assert "target toy of the package jepa-edge-toy-engine cannot be loaded: damaged" in done.stderr
