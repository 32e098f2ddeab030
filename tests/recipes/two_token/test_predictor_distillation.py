"""jepa-export train two_rooms --predictor-of: another predictor on the encoder of a bundle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.bundling.network_checks import check_prefix_predictor
from jepa_export.cli import main
from jepa_export.training.stage import run_stage
from jepa_recipes.two_token import train_command, training
from jepa_recipes.two_token.dynamics import HORIZON
from jepa_recipes.two_token.latent_library import LatentLibrary
from jepa_recipes.two_token.networks import LATENT_DIM, ActionPrefixPredictor, Predictor
from jepa_recipes.two_token.predictor_distillation import PredictorDistillationStage
from jepa_recipes.two_token.training import PredictorRecipe
from jepa_runtime import WorldModel
from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main as runtime

NETWORKS = [
    pytest.param(ActionPrefixPredictor(HORIZON, width=32), id="prefixes"),
    pytest.param(Predictor(width=32), id="recursive"),
]


def test_predictor_of_prefixes_is_causal_and_depends_on_every_action() -> None:
    torch.manual_seed(0)
    network = ActionPrefixPredictor(HORIZON, width=32)
    torch.nn.init.normal_(network.out.weight)
    latents, actions = torch.randn(1, 1, 2, LATENT_DIM), torch.randn(2, HORIZON, 2)
    assert check_prefix_predictor(network, latents, actions, None)
    with torch.no_grad():
        before = network(latents, actions)
        for step in range(HORIZON):
            changed = actions.clone()
            changed[:, step] += 1.0
            differs = (network(latents, changed) - before).abs().amax(dim=(0, 2, 3)) > 1e-6
            assert differs.tolist() == [index >= step for index in range(HORIZON)]


@pytest.mark.parametrize("network", NETWORKS)
def test_predictor_learns_from_the_bundle(
    network: Predictor | ActionPrefixPredictor, two_rooms_bundle: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.8, 0.8, (8, 2, 2 * HORIZON, 2)).astype(np.float32)
    with WorldModel.open(two_rooms_bundle, precision="fp32") as teacher:
        starts = [teacher.encode(image) for image in teacher.bundle.golden().frames]
        runs = []
        for index, taken in enumerate(actions.reshape(-1, 2 * HORIZON, 2)):
            latents = [starts[index % len(starts)]]
            for part in np.split(taken, 2):
                latents += list(teacher.predict(part[None], latents=latents[-1][None]).latents[0])
            runs.append(np.stack(latents))
        library = LatentLibrary(
            torch.from_numpy(np.stack(runs)).unflatten(0, (8, 2)), torch.from_numpy(actions), torch.empty(0)
        )
        torch.manual_seed(0)
        run_stage(PredictorDistillationStage(teacher, library, network, steps=250), tmp_path)
    rows = [row.split(",") for row in (tmp_path / "predictor.csv").read_text().splitlines()]
    for column in ("rollouts", "recordings"):
        values = [float(row[rows[0].index(column)]) for row in rows[1:]]
        assert sum(values[-10:]) < 0.7 * sum(values[:10]), column


@pytest.mark.parametrize("action_prefixes", [True, False])
def test_bundle_has_the_encoder_and_energy_of_the_base_and_another_predictor(
    action_prefixes: bool, two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_renderer", lambda: ThreadPoolExecutor(1))
    recipe = PredictorRecipe(action_prefixes=action_prefixes, layouts=4, steps=2, held_out_layouts=2)
    monkeypatch.setattr(training, "PredictorRecipe", lambda **_: recipe)
    options = ["--predictor-of", str(two_rooms_bundle), "--episodes", "0", "--output", str(tmp_path)]
    assert main(["train", "two_rooms", *options, *["--action-prefixes"] * action_prefixes]) == 0
    base, made = Bundle.open(two_rooms_bundle), Bundle.open(tmp_path / "bundle")
    for role in ("encoder", "energy"):
        hashes = [
            {each.sha256 for each in bundle.manifest.files if each.path.startswith(role)}
            for bundle in (base, made)
        ]
        assert hashes[1] and hashes[1] <= hashes[0], role
    assert made.manifest.goal_threshold == base.manifest.goal_threshold
    assert {each.target for each in made.manifest.graphs.encoder} == {"openvino", "onnx"}
    assert ("--action-prefixes" in made.manifest.provenance.command) == action_prefixes
    assert runtime(["verify", str(made.path)]) == 0


@pytest.mark.parametrize("words", [["--action-prefixes"], ["--predictor-of", "bundle", "--distill"]])
def test_options_of_a_predictor_that_do_not_fit_are_a_usage_error(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(train_command, "train")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "two_rooms", *words, "--output", str(tmp_path / "run")])
    assert "usage: jepa-export train two_rooms" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
