"""The cache of compiled OpenVINO models: reused only if no other account can have changed them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import openvino
import openvino.opset15 as ops
import pytest

from jepa_runtime.backends import BackendOptions, Graph, create_backend
from jepa_runtime.backends.openvino import model_cache
from jepa_runtime.errors import BackendError
from tests.errors import code
from tests.runtime.backends.test_backends import FRAME, model_path, predictor_shapes


def test_openvino_stores_compiled_models_in_the_given_folder(toy_bundle: Path, tmp_path: Path) -> None:
    backend = create_backend("openvino:CPU", BackendOptions(cache_dir=tmp_path / "cache"))
    backend.load(model_path(toy_bundle, "encoder", backend), FRAME).close()
    assert list((tmp_path / "cache").rglob("*.blob"))


def test_least_recently_used_graphs_are_removed_from_a_full_cache(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    (cache / "of somebody else").mkdir(parents=True)

    def remaining_after(graph: str) -> set[str]:
        backend = create_backend("openvino:CPU", BackendOptions(cache_dir=cache))
        backend.load(model_path(toy_bundle, graph, backend), shapes[graph]).close()
        backend.close()
        return {path.parent.name for path in cache.rglob("*.blob")}

    shapes = {"encoder": FRAME, "predictor": predictor_shapes(1)}
    (encoder,) = remaining_after("encoder")
    both = remaining_after("predictor")
    assert len(both) == 2
    assert remaining_after("encoder") == both
    monkeypatch.setattr(model_cache, "MAX_BYTES", 1)
    assert remaining_after("encoder") == {encoder}
    assert remaining_after("predictor") == both - {encoder}
    assert (cache / "of somebody else").is_dir()


def damage(blob: Path) -> None:
    """As after a power cut: a page of the weights was never written."""
    content = bytearray(blob.read_bytes())
    at = len(content) // 5 // 4096 * 4096
    content[at : at + 4096] = bytes(4096)
    blob.chmod(0o644)
    blob.write_bytes(content)


def damage_after_the_clock_was_set_back(blob: Path) -> None:
    damage(blob)
    os.utime(blob.with_suffix(".sha256"), (2 * time.time(),) * 2)


def cut_short(hashed: Path) -> None:
    hashed.with_suffix(".sha256").write_text("", encoding="utf-8")


@pytest.mark.parametrize(
    "harm",
    [
        damage,
        damage_after_the_clock_was_set_back,
        cut_short,
        lambda blob: blob.with_suffix(".sha256").unlink(),
    ],
)
def test_modified_compiled_model_is_compiled_again(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    weights = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    x = ops.parameter([1, 256], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    product = ops.matmul(x, ops.constant(weights), False, False)
    product.output(0).get_tensor().set_names({"product"})
    model = openvino.Model([ops.result(product)], [x])
    openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)

    def outputs() -> list[np.ndarray]:
        backend = create_backend("openvino:CPU", BackendOptions(cache_dir=tmp_path / "cache"))
        session = backend.load(tmp_path / "model.xml", {"x": (1, 256)})
        session.inputs["x"][:] = 1
        result = [array.copy() for array in session.run().values()]
        session.close()
        return result

    whole = outputs()
    (blob,) = (tmp_path / "cache").rglob("*.blob")
    written = blob.stat().st_ino, blob.stat().st_mtime_ns
    assert np.array_equal(outputs(), whole)
    assert (blob.stat().st_ino, blob.stat().st_mtime_ns) == written, "it was loaded from the cache"
    harm(blob)
    recompiled = set()
    for _ in range(2):
        assert np.array_equal(outputs(), whole)
        assert blob.stat().st_mtime_ns > written[1]
        recompiled.add((blob.stat().st_ino, blob.stat().st_mtime_ns))
    assert len(recompiled) == 1, "the second load is from the cache"


def test_unusable_cache_is_reported_once_and_bypassed(
    toy_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, check=code("backend.cache_invalid")):
        create_backend("openvino:CPU", BackendOptions(cache_dir=tmp_path / "file"))
    # Stands for an inaccessible folder: a name that is too long fails for root too.
    backend = create_backend("openvino:CPU", BackendOptions(cache_dir=tmp_path / ("x" * 256)))
    for _ in range(2):
        backend.load(model_path(toy_bundle, "encoder", backend), FRAME).close()
    (reported,) = caplog.messages
    assert reported.endswith("x: the cache of compiled models is disabled: File name too long")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("inner", [False, True])
def test_cache_of_another_account_is_not_loaded(
    toy_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, inner: bool
) -> None:
    cache = tmp_path / "cache"

    def load() -> None:
        backend = create_backend("openvino:CPU", BackendOptions(cache_dir=cache))
        backend.load(model_path(toy_bundle, "encoder", backend), FRAME).close()

    load()
    (blob,) = cache.rglob("*.blob")
    used = blob.parent.stat().st_mtime_ns
    inputs = blob.parent if inner else cache
    os.chown(inputs, 65534, 65534)
    load()
    assert caplog.messages == [
        f"{cache}: the cache of compiled models is disabled: {inputs.name} belongs to another account, or "
        "other accounts can write to it"
    ]
    assert blob.parent.stat().st_mtime_ns == used, "it was not read"


@pytest.mark.parametrize(
    ("mode", "is_own"),
    [(0o775, True), (0o1777, True), (0o777, False)],
    ids=["of one's own group", "sticky", "of everybody"],
)
def test_cache_that_only_this_account_can_modify_is_used(tmp_path: Path, mode: int, is_own: bool) -> None:
    tmp_path.chmod(mode)
    with nullcontext() if is_own else pytest.raises(PermissionError):
        model_cache.open_folder(tmp_path, "0" * 64)


def test_cache_that_openvino_does_not_write_is_reported_once(
    toy_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root cannot write there either.
    monkeypatch.setattr(model_cache, "open_folder", lambda *_: Path("/proc"))
    backend = create_backend("openvino:CPU", BackendOptions(cache_dir=tmp_path))
    for _ in range(2):
        backend.load(model_path(toy_bundle, "encoder", backend), FRAME).close()
    assert caplog.messages == [
        f"{tmp_path}: the cache of compiled models is disabled: OpenVINO cannot write there"
    ]


def test_cache_with_files_that_cannot_be_removed_is_not_trusted(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(f"{path} stays")

    backend = create_backend("openvino:CPU", BackendOptions(cache_dir=tmp_path))
    graph = Graph.read(model_path(toy_bundle, "encoder", backend))
    damaged = tmp_path / graph.sha256 / "1.blob"
    damaged.parent.mkdir()
    damaged.write_text("damaged")
    monkeypatch.setattr(Path, "unlink", refuse)
    backend.load(graph, FRAME).close()
    assert list(damaged.parent.iterdir()) == [damaged]
