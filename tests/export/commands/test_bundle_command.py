"""jepa-export bundle: a function of another project creates the networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from jepa_export import cli
from jepa_export.bundling.network_factory import create_networks, load_factory
from jepa_export.errors import JepaExportError
from jepa_runtime import Bundle
from jepa_runtime.cli import main as runtime
from tests.errors import code
from tests.export.bundling import onnx_files

MODULE = """
import torch
from torch import nn
from jepa_export import ActionSpace, Normalization

class Predictor(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16 + 2, 16)

    def forward(self, latents, actions):
        action = actions[:, -1, None].expand(-1, latents.shape[2], -1)
        return self.mix(torch.cat([latents[:, -1], action], dim=-1))

def make(checkpoint):
    encoder = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(2))
    encoder.load_state_dict(torch.load(checkpoint, weights_only=True))
    return {
        "encoder": encoder, "predictor": Predictor(), "frame_size": (32, 32), "normalize": Normalization(),
        "actions": ActionSpace(names=("linear.x", "linear.y"), units=("m/s", "m/s"),
                               low=(-1.25, -1.25), high=(1.25, 1.25), max_norm=1.25),
        "step_s": 0.2, "horizon": 2, "num_samples": 9, "model_id": "maze", "version": "1.0.0",
        "description": "a maze", "license": "MIT", "data": "drawn rooms",
    }

def fail(checkpoint):
    raise KeyError("encoder.weight")

def number(checkpoint):
    return 7

def incomplete(checkpoint):
    return {"encoder": nn.Identity(), "held_out": [], "size": 3}

def square(checkpoint):
    return make("w.pt") | {"frame_size": 32}

constant = 7
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of another project, which is the current one."""
    (tmp_path / "maze_model.py").write_text(MODULE)
    (tmp_path / "broken_model.py").write_text("import package_that_does_not_exist\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("maze_model", "broken_model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def save_weights(folder: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, 8)).state_dict(), folder / "w.pt")


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *settings, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.timeout(120)
def test_command_writes_the_bundle_of_the_function(project: Path) -> None:
    save_weights(project)
    git(project, "init", "-q")
    git(project, "add", "maze_model.py")
    git(project, "commit", "-q", "-m", "a model")
    options = ["--checkpoint", "w.pt", "--data", "two_rooms?trajectories=8&frames=8", "--target", "onnx"]
    command = [sys.executable, "-c", "from jepa_export.cli import main; raise SystemExit(main())", "bundle"]
    done = subprocess.run(
        [*command, "maze_model:make", *options, "--output", "made/maze"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(project / "made/maze").manifest
    assert (manifest.model_id, manifest.horizon, manifest.io.latent.tokens) == ("maze", 2, 4)
    assert git(project, "rev-parse", "HEAD").startswith(manifest.provenance.commit.removesuffix("-dirty"))
    assert manifest.provenance.command.startswith("jepa-export bundle maze_model:make --checkpoint w.pt")
    assert runtime(["verify", "made/maze"]) == 0
    assert [path.name for path in (project / "made").iterdir()] == ["maze"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("maze_model", "factory.invalid_name"),
        (":make", "factory.invalid_name"),
        ("maze_model:make.it", "factory.invalid_name"),
        ("no_such_module:make", "factory.not_importable"),
        ("broken_model:make", "factory.not_importable"),
        ("maze_model:missing", "factory.not_found"),
        ("maze_model:constant", "factory.not_found"),
        ("maze_model:fail", "factory.failed"),
        ("maze_model:number", "factory.invalid_arguments"),
        ("maze_model:incomplete", "factory.invalid_arguments"),
        ("maze_model:square", "factory.invalid_arguments"),
    ],
)
def test_unusable_function_is_an_error(project: Path, name: str, expected: str) -> None:
    save_weights(project)
    with pytest.raises(JepaExportError, check=code(expected)):
        create_networks(name, load_factory(name), None)


@pytest.mark.usefixtures("project")
def test_missing_checkpoint_is_an_error() -> None:
    with pytest.raises(JepaExportError, check=code("factory.checkpoint_missing")):
        create_networks("maze_model:make", load_factory("maze_model:make"), Path("missing.pt"))


ONNX = ["--onnx", "encoder.onnx", "predictor.onnx", "--data", "two_rooms?trajectories=8&frames=8"]
SETTINGS = {
    "mean": "0 0 0",
    "std": "1 1 1",
    "action-low": "-1.25 -1.25",
    "action-high": "1.25 1.25",
    "step-s": "0.2",
    "horizon": "2",
    "num-samples": "9",
    "model-id": "maze",
    "model-version": "1.0.0",
    "description": "rooms",
    "license": "MIT",
    "trained-on": "drawn-rooms",
}


def options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", *value.split())]


@pytest.fixture
def onnx_project(project: Path) -> Path:
    """Return the project, with its networks as ONNX files."""
    save_weights(project)
    made = create_networks("maze_model:make", load_factory("maze_model:make"), Path("w.pt"))
    onnx_files.write(project / "encoder.onnx", made["encoder"], torch.zeros(2, 3, 32, 32))
    inputs = torch.zeros(2, 1, 4, 16), torch.zeros(2, 1, 2)
    onnx_files.write(project / "predictor.onnx", made["predictor"], *inputs)
    return project


@pytest.mark.timeout(120)
def test_command_writes_the_bundle_of_onnx_files(onnx_project: Path) -> None:
    words = [*ONNX, *options(SETTINGS), "--target", "onnx", "--output", "made"]
    assert cli.main(["bundle", *words]) == 0
    bundle = Bundle.open(onnx_project / "made")
    manifest, report = bundle.manifest, bundle.report()
    assert (manifest.model_id, manifest.horizon, manifest.io.latent.tokens) == ("maze", 2, 4)
    assert (manifest.io.frame.height, manifest.history_size) == (32, 1)
    assert manifest.provenance.command.startswith("jepa-export bundle --onnx encoder.onnx predictor.onnx")
    assert "--action-low -1.25 -1.25" in manifest.provenance.command
    assert report is not None and set(report["onnx_files"]) == {"encoder", "predictor"}
    assert runtime(["verify", "made"]) == 0


@pytest.mark.timeout(120)
def test_command_writes_a_bundle_without_actions(onnx_project: Path) -> None:
    class Predictor(torch.nn.Module):
        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return 0.9 * latents[:, -1]

    onnx_files.write(onnx_project / "predictor.onnx", Predictor(), torch.zeros(2, 1, 4, 16))
    excluded = ("action-low", "action-high", "num-samples")
    settings = {name: value for name, value in SETTINGS.items() if name not in excluded}
    words = [*ONNX, *options(settings), "--action-free", "--target", "onnx", "--output", "made"]
    assert cli.main(["bundle", *words]) == 0
    manifest = Bundle.open(onnx_project / "made").manifest
    assert not manifest.takes_actions and manifest.num_samples == 1
    assert "--action-free --data" in manifest.provenance.command
    assert runtime(["verify", "made"]) == 0


@pytest.mark.timeout(120)
def test_command_writes_a_bundle_of_action_prefixes(onnx_project: Path) -> None:
    class Predictor(torch.nn.Module):
        def forward(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
            return latents[:, -1:] + actions.cumsum(1).sum(-1)[..., None, None]

    inputs = torch.zeros(1, 1, 4, 16), torch.zeros(2, 2, 2)
    file = onnx_project / "predictor.onnx"
    onnx_files.write(file, Predictor(), *inputs, free_inputs=("in_1",))
    words = [*ONNX, *options(SETTINGS), "--action-prefixes", "--target", "onnx", "--output", "made"]
    assert cli.main(["bundle", *words]) == 0
    manifest = Bundle.open(onnx_project / "made").manifest
    assert (manifest.horizon, manifest.history_size, manifest.num_samples) == (2, 1, 9)
    assert "--action-prefixes --data" in manifest.provenance.command
    assert runtime(["verify", "made"]) == 0


@pytest.mark.timeout(120)
def test_settings_of_onnx_files_can_be_in_a_configuration_file(onnx_project: Path) -> None:
    lines = [
        f"{name}: [{', '.join(value.split())}]" if " " in value else f"{name}: {value}"
        for name, value in SETTINGS.items()
    ]
    files = "onnx: [encoder.onnx, predictor.onnx]"
    (onnx_project / "model.yaml").write_text("\n".join([files, *lines]))
    words = ["--config", "model.yaml", *ONNX[3:], "--target", "onnx", "--output", "made"]
    assert cli.main(["bundle", *words]) == 0
    assert runtime(["verify", "made"]) == 0


@pytest.mark.usefixtures("onnx_project")
@pytest.mark.parametrize(
    "words",
    [
        ONNX,
        [*ONNX, *options({name: SETTINGS[name] for name in SETTINGS if name != "mean"})],
        [*ONNX, *options(SETTINGS), "--checkpoint", "w.pt"],
        [*ONNX, *options(SETTINGS), "--action-free"],
        ["maze_model:make", *ONNX[3:], "--action-free"],
        ["maze_model:make", *ONNX[3:], "--action-prefixes"],
        ["maze_model:make", *ONNX[3:], "--horizon", "2"],
        ["maze_model:make", *ONNX, *options(SETTINGS)],
        ONNX[3:],
    ],
)
def test_wrong_options_are_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bundle", *words, "--output", "made"])
    assert "usage: jepa-export bundle" in capsys.readouterr().err
    assert not Path("made").exists()


@pytest.mark.usefixtures("onnx_project")
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"action-low": "-1.25"}, "export.invalid_settings"),
        ({"frame-size": "16 16"}, "network.onnx_shape_mismatch"),
        ({"history": "3"}, "network.onnx_shape_mismatch"),
    ],
)
def test_settings_that_do_not_fit_the_files_are_an_error(
    changed: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*ONNX, *options(SETTINGS | changed), "--target", "onnx", "--output", "made"]
    assert cli.main(["bundle", *words]) == 1
    assert f"[{expected}]" in capsys.readouterr().err
    assert not Path("made").exists()


def test_free_size_of_images_must_be_given(onnx_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(onnx_project / "encoder.onnx")
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "side"
    onnx.save(model, onnx_project / "encoder.onnx")
    words = ["bundle", *ONNX, *options(SETTINGS), "--target", "onnx", "--output", "made"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert "--frame-size is required" in capsys.readouterr().err
    assert cli.main([*words, "--frame-size", "32", "32"]) == 0
