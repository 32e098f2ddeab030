"""``jepa-runtime build-engine``: engines exist afterwards, and compute the golden outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from jepa_runtime.model.world_model import WorldModel
from tests.ota.robots import Site
from tests.runtime.backends.simulated_tensorrt import SimulatedTensorRT


def test_build_engine_builds_once_and_the_engines_serve(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = ["verify", str(toy_bundle), "--engine", "tensorrt"]
    build = ["build-engine", str(toy_bundle)]
    assert main(serve) == 1
    assert "jepa-runtime build-engine" in capsys.readouterr().err
    assert main(build) == 0
    output = capsys.readouterr().out
    # Predictor and energy each for all candidates, and for one.
    assert "built engines of 3 graphs, cache: " in output and "encoder: worst cosine" in output
    builds = tensorrt.builds
    assert builds == 5
    assert main(build) == main(serve) == 0
    assert "all engines were cached" in capsys.readouterr().out
    assert tensorrt.builds == builds


def test_build_engine_json_contains_the_outcome(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "build-engine",
        str(toy_bundle),
        "--cache-dir",
        str(tmp_path / "kept"),
        "--num-samples",
        "3",
        "--json",
    ]
    assert main(command) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["ok"] and outcome["precision"] == "fp32" and outcome["engine"] == "tensorrt"
    assert outcome["cache_dir"] == str(tmp_path / "kept")
    assert len(outcome["built"]) == 3 and {row["graph"] for row in outcome["graphs"]} >= {
        "encoder",
        "predictor",
    }


def test_build_engine_with_wrong_outputs_fails(
    tensorrt: SimulatedTensorRT, wrong_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build-engine", str(wrong_bundle)]) == 1
    assert "predictor does not reproduce its golden outputs on this machine" in capsys.readouterr().err


def test_build_engine_without_tensorrt_says_what_to_install(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        assert main(["build-engine", str(toy_bundle)]) == 1
        assert "python3-libnvinfer" in capsys.readouterr().err
    else:
        pytest.skip("TensorRT is installed")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give either BUNDLE or --robot DIR"),
        (["bundle", "--robot", "root"], "give either BUNDLE or --robot DIR"),
        (["bundle", "--engine", "tensorrt,openvino:CPU"], "name the one to build"),
    ],
)
def test_build_engine_with_invalid_options_is_rejected(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build-engine", *arguments]) == 1
    assert expected in capsys.readouterr().err


def test_build_engine_for_other_backends_does_nothing(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build-engine", str(toy_bundle), "--engine", "openvino:CPU"]) == 0
    assert "openvino:CPU needs no engine build" in capsys.readouterr().out


def test_build_engine_of_a_robot_uses_its_config(
    tensorrt: SimulatedTensorRT, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "robot"
    root.mkdir()
    (root / "current").symlink_to(toy_bundle)
    settings = {
        "repository": str(tmp_path), "channel": "stable", "model_id": "toy", "device_id": "one",
        "hardware_ids": ["x86_64"], "engine": "tensorrt:0", "precision": "fp32",
    }  # fmt: skip
    (root / "config.json").write_text(json.dumps(settings))
    assert main(["build-engine", "--robot", str(root)]) == 0
    assert "tensorrt:0, fp32: " in capsys.readouterr().out and tensorrt.builds > 0


def test_build_engine_of_the_good_model_counts_as_an_attempt(
    tensorrt: SimulatedTensorRT,
    toy_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the start of a machine this unit opens the model first."""
    site = Site(tmp_path / "robot", Bundle.open(toy_bundle), engine="tensorrt:0", precision="fp32")
    path = site.root / f"serving/{Bundle.open(toy_bundle).sha256}.attempts"
    counted: list[int] = []
    opens = WorldModel.open

    def opened(*args: object, **more: object) -> WorldModel:
        counted.append(len(json.loads(path.read_text())))
        return opens(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(WorldModel, "open", opened)
    assert main(["build-engine", "--robot", str(site.root)]) == 0
    assert counted[0] == 1 and not path.exists()
    path.write_text(json.dumps(["a", "b", "c", "d", "e"]))
    counted.clear()
    assert main(["build-engine", "--robot", str(site.root)]) == 1
    assert "was opened in 5 consecutive boots" in capsys.readouterr().err and counted == []


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("jepa_runtime.backends.tensorrt.engine_store.SYSTEM_FOLDER", tmp_path / "absent")
