"""The atlas: lookup, storage in a bundle, validation; and the growing atlas."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.errors import BundleError, FrameError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.visualization import growing_atlas
from jepa_runtime.visualization.atlas import ATLAS_NAME, Atlas, read_atlas, sample_farthest_points, thumbnail
from jepa_runtime.visualization.embedding import fit_embedding
from jepa_runtime.visualization.growing_atlas import GrowingAtlas
from tests.bundles import DIM, TOKENS
from tests.errors import code

RNG = np.random.default_rng(0)


def latents(count: int) -> np.ndarray:
    return RNG.standard_normal((count, TOKENS, DIM)).astype(np.float32)


def picture(value: int) -> np.ndarray:
    return np.full((30, 40, 3), value, np.uint8)


def atlas(count: int = 20) -> Atlas:
    images = [thumbnail(picture(5 * index)) for index in range(count)]
    return Atlas.build(latents(count), np.arange(count), images, 2)


def test_atlas_nearest_returns_index_and_distance() -> None:
    created = atlas()
    moved = created.latents.astype(np.float32).reshape(4, 5, TOKENS, DIM) + 0.01
    result, away = created.nearest(moved)
    np.testing.assert_array_equal(result, np.arange(20).reshape(4, 5))
    np.testing.assert_allclose(away, 0.01 * np.sqrt(TOKENS * DIM), rtol=1e-2)
    assert abs(int(created.image(7).mean()) - 35) <= 2


def test_atlas_roundtrip() -> None:
    created = atlas()
    read = read_atlas(created.to_bytes(), (TOKENS, DIM), "there")
    np.testing.assert_array_equal(read.latents, created.latents)
    assert read.images == created.images
    np.testing.assert_array_equal(read.project(created.latents), created.project(created.latents))
    np.testing.assert_array_equal(
        read.token_colors.colors(created.latents), created.token_colors.colors(created.latents)
    )
    assert created.to_bytes() == created.to_bytes(), "the same atlas has the same hash"


def test_bundle_with_and_without_atlas_opens(toy_bundle: Path, tmp_path: Path) -> None:
    assert Atlas.from_bundle(Bundle.open(toy_bundle)) is None
    copy = Path(shutil.copytree(toy_bundle, tmp_path / "toy"))
    (copy / ATLAS_NAME).write_bytes(atlas().to_bytes())
    sealed = seal(copy, Bundle.open(toy_bundle).manifest)
    assert any(record.path == ATLAS_NAME for record in sealed.manifest.files)
    result = Atlas.from_bundle(Bundle.open(copy))
    assert result is not None and len(result.images) == 20


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"latents": np.zeros((20, TOKENS, DIM), np.float32)}, "mismatch"),
        ({"latents": np.array(0, np.float16)}, "mismatch"),
        ({"latents": np.full((20, TOKENS, DIM), np.inf, np.float16)}, "mismatch"),
        (
            {"latents": np.zeros((0, TOKENS, DIM), np.float16), "offsets": np.zeros(1, np.int64)},
            "invalid",
        ),
        ({"axes": np.zeros((2, 3), np.float32)}, "mismatch"),
        ({"offsets": np.arange(21)[::-1].copy()}, "invalid"),
        ({"more": np.zeros(1)}, "invalid"),
    ],
)
def test_read_atlas_of_another_model_or_malformed_is_an_error(change: dict[str, Any], reason: str) -> None:
    arrays = dict(np.load(io.BytesIO(atlas().to_bytes()))) | change
    file = io.BytesIO()
    np.savez(file, **arrays)
    with pytest.raises(BundleError, check=code(f"bundle.atlas_{reason}")):
        read_atlas(file.getvalue(), (TOKENS, DIM), "there")


def test_sample_farthest_points_covers_the_latents() -> None:
    crowd = 0.01 * latents(100)
    crowd[50], crowd[51] = 10.0, -10.0
    chosen, radius = sample_farthest_points(crowd, 3)
    assert {50, 51} < set(chosen.tolist())
    away = np.linalg.norm((crowd[:, None] - crowd[chosen]).reshape(100, 3, -1), axis=2).min(axis=1)
    assert radius == pytest.approx(away.max(), rel=1e-5)


def test_sample_farthest_points_of_equal_frames_is_one() -> None:
    chosen, radius = sample_farthest_points(np.zeros((10, TOKENS, DIM), np.float32), 5)
    assert len(chosen) == 1 and radius == 0


def test_atlas_map_is_fitted_to_all_frames() -> None:
    every, chosen = latents(20), np.array([3, 11])
    few = Atlas.build(every, chosen, [thumbnail(picture(0))] * 2, 2)
    np.testing.assert_array_equal(few.latents, every[chosen].astype(np.float16))
    np.testing.assert_array_equal(few.project(every), fit_embedding(every, 2).project(every))


def test_thumbnail_keeps_aspect_ratio_and_is_never_enlarged() -> None:
    assert decode(thumbnail(np.zeros((480, 640, 3), np.uint8))).shape == (96, 128, 3)
    assert decode(thumbnail(picture(9))).shape == (30, 40, 3)
    with pytest.raises(FrameError):
        thumbnail(np.zeros((0, 4, 3), np.uint8))


def test_growing_atlas_is_bounded_and_covers_the_latents() -> None:
    book, arrived = GrowingAtlas(2, max_frames=40), latents(500).cumsum(axis=0)
    assert book.atlas() is None
    for index, latent in enumerate(arrived):
        book.add(latent, picture(index % 200))
    result = book.atlas()
    assert result is not None and 10 <= len(result.images) <= 40
    _, away = result.nearest(arrived)
    assert away.max() < 0.5 * np.linalg.norm((arrived - arrived.mean(axis=0)).reshape(500, -1), axis=1).max()


def test_growing_atlas_stores_equal_frames_once() -> None:
    book = GrowingAtlas(2)
    for _ in range(40):
        book.add(np.ones((TOKENS, DIM), np.float32), picture(1))
    result = book.atlas()
    assert result is not None and len(result.images) == 1


def test_growing_atlas_of_large_latents_stores_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    capacity = 1 << 20
    monkeypatch.setattr(growing_atlas, "_MAX_BYTES", capacity)
    book, rng = GrowingAtlas(2), np.random.default_rng(0)
    for index in range(60):
        book.add(rng.standard_normal((64, 128)).astype(np.float32), picture(index))
    result = book.atlas()
    assert result is not None and 2 * result.latents.nbytes <= capacity
