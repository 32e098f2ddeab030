"""jepa-export build --teacher --time causal: the encoder reads one step, and a cache of those before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from jepa_export.bundling.teacher_bundle import bundle_cost
from jepa_export.cli import main
from jepa_export.evaluation.compute_cost import bundle_multiply_adds
from jepa_export.evaluation.evaluate import EvaluationPlan, evaluate
from jepa_export.teachers.causal import CausalEncoder, entry_shape
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2
from jepa_runtime import Bundle, BundleError, FrameError, WorldModel
from jepa_runtime.bundle import parse_manifest
from jepa_runtime.cli import main as runtime
from jepa_runtime.profiling import read_profile
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.serving.pipeline import Pipeline, Result
from jepa_runtime.sources.base import Frame
from tests.errors import code
from tests.export.bundling.built_teachers import build, small_family
from tests.export.data.recordings import write_video
from tests.export.teachers.tiny import PX

FRAMES, STEPS, LENGTH, TOKENS = 6, 3, 8, 9
Images = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with small_family():
        yield


@pytest.fixture(scope="module", params=["vjepa2", pytest.param("vjepa2_1", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VJEPA2, Bundle]:
    """Return a teacher with official weights, and its bundle."""
    return build(request.param, tmp_path_factory.mktemp(request.param), f"causal:{FRAMES}")


def images(steps: int = LENGTH) -> Images:
    return np.random.default_rng(1).integers(0, 256, (2 * steps, PX, PX, 3), np.uint8)


def one_pass(teacher: VJEPA2, shown: Images) -> NDArray[np.float32]:
    """Return the latents [n, T, D] of all steps, computed in one pass with block-causal attention."""
    tokens = CausalEncoder(teacher.encoder, STEPS)(normalize(torch.from_numpy(shown).float())[None])
    return tokens[0].unflatten(0, (-1, TOKENS)).numpy()


def step_by_step(model: WorldModel, shown: Images) -> NDArray[np.float32]:
    cache = model.create_cache()
    pairs = enumerate(shown.reshape(-1, 2, PX, PX, 3))
    return np.stack([model.encode_clip(list(pair), cache, step) for step, pair in pairs])


def feed(pipeline: Pipeline, shown: Images) -> None:
    """Submit images 0.25 s apart, and wait for each."""
    for index, image in enumerate(shown):
        pipeline.submit(Frame(image, 1_000_000_000 + index * 250_000_000, "camera", index))
        assert pipeline.wait_idle(10.0)


@pytest.mark.parametrize("engine", ["openvino:CPU", "onnxruntime:CPU"])
def test_steps_with_a_cache_equal_one_pass_over_the_stream(built: tuple[VJEPA2, Bundle], engine: str) -> None:
    teacher, bundle = built
    shown = images()
    with WorldModel.open(bundle, engine=engine) as model:
        found = step_by_step(model, shown)
    np.testing.assert_allclose(found, one_pass(teacher, shown), atol=1e-5, rtol=0)


def test_clip_alone_begins_with_an_empty_cache(built: tuple[VJEPA2, Bundle]) -> None:
    teacher, bundle = built
    shown = images(STEPS)
    with WorldModel.open(bundle) as model:
        step_by_step(model, images())
        latents = model.encode(np.stack([shown, shown[::-1]]))
        single = model.encode(shown[-1])
    for latent, clip in zip(latents, (shown, shown[::-1].copy()), strict=True):
        np.testing.assert_allclose(latent, one_pass(teacher, clip)[-1], atol=1e-5, rtol=0)
    expected = one_pass(teacher, np.repeat(shown[-1:], FRAMES, axis=0))[-1]
    np.testing.assert_allclose(single, expected, atol=1e-5, rtol=0)
    assert np.abs(latents[0] - latents[1]).max() > 1e-2, "motion has a direction"


def test_streams_in_turn_do_not_mix(built: tuple[VJEPA2, Bundle]) -> None:
    shown, other = images(), images()[::-1].copy()
    with WorldModel.open(built[1]) as model:
        alone = step_by_step(model, shown)
        caches = model.create_cache(), model.create_cache()
        for step in range(LENGTH):
            pairs = (each[2 * step : 2 * step + 2] for each in (shown, other))
            latent, _ = (
                model.encode_clip(list(pair), cache, step) for pair, cache in zip(pairs, caches, strict=True)
            )
            np.testing.assert_allclose(latent, alone[step], atol=1e-6, rtol=0)


def test_cache_that_another_model_continued_is_read_again(built: tuple[VJEPA2, Bundle]) -> None:
    """After a swap and a rollback, the first model continues with the entries of the second."""
    shown = images().reshape(-1, 2, PX, PX, 3)
    with WorldModel.open(built[1]) as one, WorldModel.open(built[1]) as two:
        alone = step_by_step(one, images())
        cache = one.create_cache()
        for step, model in enumerate((one, two, two, two, one)):
            latent = model.encode_clip(list(shown[step]), cache, step)
            np.testing.assert_allclose(latent, alone[step], atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [2, 4, 5, 8])
def test_clip_of_another_length_is_rejected(built: tuple[VJEPA2, Bundle], count: int) -> None:
    with WorldModel.open(built[1]) as model, pytest.raises(FrameError, check=code("frame.wrong_clip")):
        model.encode(images()[:count])


def test_cache_of_another_model_is_rejected(built: tuple[VJEPA2, Bundle]) -> None:
    with WorldModel.open(built[1]) as model:
        cache = model.create_cache()
        assert cache is not None
        cache.entries = cache.entries[1:]
        with pytest.raises(ValueError, match="another model"):
            model.encode_clip(list(images(1)), cache, 0)


def test_manifest_states_the_cache(built: tuple[VJEPA2, Bundle]) -> None:
    teacher, bundle = built
    clip = bundle.manifest.io.clip
    assert clip is not None and clip.cache_shape == entry_shape(teacher.config.encoder)
    assert (clip.frames, clip.frames_per_step, clip.frames_per_call, clip.cached_steps) == (6, 2, 2, 2)
    written = json.dumps(bundle.manifest.to_json_dict()).encode()
    assert parse_manifest(written) == bundle.manifest
    assert bundle.golden().frames.shape == (3, FRAMES, PX, PX, 3)


@pytest.mark.parametrize(
    "changes", [{"frames": 2}, {"cache_shape": [1 << 20, 1 << 20]}, {"cache_shape": []}, {"cache_shape": [0]}]
)
def test_manifest_with_an_impossible_cache_is_rejected(
    built: tuple[VJEPA2, Bundle], changes: dict[str, object]
) -> None:
    fields = built[1].manifest.to_json_dict()
    fields["io"]["clip"] |= changes
    with pytest.raises(BundleError, check=code("bundle.manifest_invalid")):
        parse_manifest(json.dumps(fields).encode())


def test_cost_of_a_step_is_that_of_the_graph_and_below_that_of_a_clip(built: tuple[VJEPA2, Bundle]) -> None:
    cost = bundle_cost(built[0].config, 2, 2, FRAMES, causal=True)
    assert cost.still is not None and cost.clip is not None
    assert cost.encoder.multiply_adds == bundle_multiply_adds(built[1])["encoder"]
    assert cost.still.multiply_adds < cost.encoder.multiply_adds < 1.1 * cost.still.multiply_adds
    assert cost.clip.multiply_adds > 2.5 * cost.encoder.multiply_adds
    found = built[1].report()["encoder_cost"]
    assert found["causal"]["multiply_adds_per_s"] == 2 * cost.encoder.multiply_adds
    assert found["clip"]["multiply_adds_per_s"] == 2 * cost.clip.multiply_adds
    assert found["still"]["multiply_adds_per_s"] == 30 * cost.still.multiply_adds


def test_report_states_the_gap_to_two_way_attention(built: tuple[VJEPA2, Bundle]) -> None:
    report = built[1].report()
    probe, gap = report["motion_probe"], report["causal_gap"]
    assert probe["still_accuracy"] == probe["chance"] < probe["causal_accuracy"]
    assert (gap["frames"], gap["trained"]) == (FRAMES, True)
    assert all(0.5 < gap[name] < 1 for name in ("causal", "stream", "still"))
    assert gap["causal"] > gap["still"]


def test_pipeline_fills_the_cache_before_the_first_result(built: tuple[VJEPA2, Bundle]) -> None:
    teacher, bundle = built
    results: list[Result] = []
    shown = images()
    with Pipeline(lambda: WorldModel.open(bundle), on_result=results.append) as pipeline:
        feed(pipeline, shown[:5])
        assert "needs 6 images" in pipeline.clip_obstacle() and not results
        feed(pipeline, shown)
        stats = pipeline.stats()
    expected = one_pass(teacher, shown)
    assert len(results) == LENGTH - STEPS + 1
    for result, latent in zip(results, expected[STEPS - 1 :], strict=True):
        np.testing.assert_allclose(result.latent, latent, atol=1e-5, rtol=0)
    assert (stats.received, stats.processed, stats.dropped) == (5 + len(shown), len(results), 0)
    assert stats.skipped == stats.received - stats.processed


def test_swap_continues_the_stream_with_the_same_encoder(built: tuple[VJEPA2, Bundle]) -> None:
    teacher, bundle = built
    results: list[Result] = []
    shown = images()
    with Pipeline(lambda: WorldModel.open(bundle), on_result=results.append) as pipeline:
        for index, image in enumerate(shown):
            if index == 8:
                assert pipeline.swap(lambda: WorldModel.open(bundle, engine="openvino:CPU"))
            if index == 12:
                pipeline.rollback()
            pipeline.submit(Frame(image, 1_000_000_000 + index * 250_000_000, "camera", index))
            assert pipeline.wait_idle(10.0)
    expected = one_pass(teacher, shown)[STEPS - 1 :]
    for result, latent in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.latent, latent, atol=1e-5, rtol=0)


def test_model_without_a_cache_does_not_replace_a_causal_one(
    built: tuple[VJEPA2, Bundle], tmp_path: Path
) -> None:
    name = built[1].manifest.model_id
    arguments = ["--teacher", name, "--untrained", "--frames", "4", "--horizon", "2", "--only", "onnx/fp32"]
    assert main(["build", *arguments, "--time", f"clip:{FRAMES}", "--output", str(tmp_path / "clip")]) == 0
    config = ProcessingConfig()
    with (
        WorldModel.open(built[1]) as model,
        WorldModel.open(tmp_path / "clip", engine="onnxruntime:CPU", allow_untrained=True) as other,
        pytest.raises(BundleError, check=code("bundle.incompatible_actions")),
    ):
        FrameProcessor(other, config).check_compatible(FrameProcessor(model, config))


def test_runtime_commands_work_with_a_cache(built: tuple[VJEPA2, Bundle], tmp_path: Path) -> None:
    folder, summary, profile = str(built[1].path), tmp_path / "run.json", tmp_path / "profile.json"
    assert runtime(["verify", folder]) == 0
    source = ["--source", "two_rooms", "--rate", "30", "--duration", "4", "--deadline-ms", "1000"]
    assert runtime(["run", folder, *source, "--json", str(summary)]) == 0
    found = json.loads(summary.read_text())
    assert found["frames_processed"] == 6 and found["frames_skipped"] == found["frames_published"] - 6
    assert found["predict_ms"] and found["resets"]["gap"] == 0
    options = ["--duration", "2", "--skip", "sweep,cold,idle", "--json", str(profile)]
    assert runtime(["profile", folder, "--source", "two_rooms", *options]) == 0
    assert read_profile(profile).run.rate_hz == 2
    video = str(write_video(tmp_path / "drive.mp4", range(400)))
    learned = tmp_path / "learned"
    assert runtime(["calibrate", folder, "--source", video, "--output", str(learned)]) == 0
    assert Bundle.open(learned).manifest.io.clip == built[1].manifest.io.clip


@pytest.mark.slow
def test_every_pass_of_a_profile_reads_clips(built: tuple[VJEPA2, Bundle], tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    assert runtime(["profile", str(built[1].path), "--duration", "2", "--json", str(out)]) == 0
    profile = read_profile(out)
    assert profile.closed_loop is not None and profile.sweep is not None
    assert profile.cold_starts and profile.idle_gaps and profile.layers
    assert not [note for note in profile.notes if "not measured" in note]


def test_predictions_are_evaluated_on_clips(built: tuple[VJEPA2, Bundle], tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "drive.mp4", range(120)))
    evaluation = evaluate(built[1], EvaluationPlan(data=(video,), clips=2))
    for variant in evaluation.variants:
        assert variant.prediction_accuracy is not None and variant.prediction_accuracy.drift


def test_variants_and_an_atlas_are_added_to_a_bundle_with_a_cache(
    built: tuple[VJEPA2, Bundle], tmp_path: Path
) -> None:
    out = tmp_path / "more"
    targets = ["--target", "openvino", "--precision", "int8", "--calibration", "two_rooms"]
    assert main(["add-variant", str(built[1].path), *targets, "--output", str(out)]) == 0
    assert {each.precision for each in Bundle.open(out).manifest.graphs.encoder} == {"fp32", "int8"}
    video = str(write_video(tmp_path / "drive.mp4", range(300)))
    atlas = ["--source", video, "--frames", "4", "--output", str(tmp_path / "atlas")]
    assert main(["atlas", str(built[1].path), *atlas]) == 0


@pytest.mark.parametrize("teacher", ["vjepa2_ac", "lewm"])
def test_teacher_without_clips_is_rejected(
    teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--teacher", teacher, "--untrained", "--time", "causal"]
    assert main(["build", *arguments, "--output", str(tmp_path / "bundle")]) == 1
    assert "[export.option_not_applicable]" in capsys.readouterr().err


@pytest.mark.parametrize(("time", "frames"), [("causal", "2"), ("causal:2", "4"), ("causal:16", "4")])
def test_impossible_windows_are_rejected(
    time: str, frames: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--teacher", "vjepa2", "--untrained", "--time", time, "--frames", frames, "--horizon", "1"]
    assert main(["build", *arguments, "--output", str(tmp_path / "bundle")]) == 1
    assert "[export.invalid_clip_length]" in capsys.readouterr().err


def test_window_is_the_clip_of_the_predictor_by_default(tmp_path: Path) -> None:
    options = ["--frames", "4", "--horizon", "2", "--time", "causal", "--only", "openvino/fp32"]
    arguments = ["--teacher", "vjepa2", "--untrained", *options]
    assert main(["build", *arguments, "--output", str(tmp_path / "bundle")]) == 0
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.io.clip is not None and manifest.io.clip.frames == 4
    assert "--time causal" in manifest.provenance.command
