"""jepa-export build for NPUs and TensorRT: the variants, the reports of the vendors' compilers, and robots
without these devices."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import openvino.opset15 as ops
import pytest
from onnx import TensorProto

from jepa_export.bundling.variants import (
    VARIANTS,
    model_path,
    select_variants,
    write_variants,
)
from jepa_export.cli import main
from jepa_export.commands import build_student as command
from jepa_export.errors import JepaExportError
from jepa_export.students.family import FAMILY, Sizes
from jepa_export.targets import npu_compiler, tensorrt_check, vendor_compilers
from jepa_export.targets.npu import Schedule
from jepa_export.targets.tensorrt_check import CheckReport
from jepa_runtime import Bundle, BundleError, WorldModel
from jepa_runtime.bundle import Variant, compiled_candidates
from jepa_runtime.cli import main as runtime
from tests.errors import code

BUILD = ["build", "--student", "tiny", "--untrained", "--size", "32", "--num-samples", "3"]
LEAN = ["--horizon", "2", "--history", "2", "--actions", "2"]
TINY = Sizes(encoder=(64, 1, 2), predictor=(32, 1, 2), tokens=4, dim=16)
ROLES = ("encoder", "predictor", "step")
ELSEWHERE = [kind for kind in VARIANTS if kind[0] in ("npu", "tensorrt")]
ESTIMATE = Schedule(total_ms=1.23456, dma_ms=1, dpu_ms=0.5, shave_ms=0.25, exposed_dma_ms=0.125)
REFUSED = CheckReport(version="1.5", layers=0, engine_bytes=0, problems=("no such operator",))


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    """Register a student that is built in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILY, "tiny", TINY)
        yield


@pytest.fixture(scope="module")
def without_compilers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a bundle built without a vendor's compiler, and the messages."""
    folder = tmp_path_factory.mktemp("built") / "tiny"
    messages: list[str] = []

    def absent() -> None:
        raise JepaExportError("not installed: install it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(npu_compiler, "find", absent)
        patch.setattr(tensorrt_check, "missing", lambda: "not installed: pip install it")
        patch.setattr(command, "print_steps", lambda console: messages.append)
        assert main([*BUILD, *LEAN, "--target", "npu", "--target", "tensorrt", "--output", str(folder)]) == 0
    return folder, "\n".join(messages)


def test_build_writes_every_requested_variant_and_nothing_else(without_compilers: tuple[Path, str]) -> None:
    manifest = Bundle.open(without_compilers[0]).manifest
    for role in ROLES:
        assert [(each.target, each.precision) for each in manifest.graphs.variants(role)] == ELSEWHERE
    paths = {model_path(role, kind) for role in ROLES for kind in ELSEWHERE}
    weights = {path.replace(".xml", ".bin") for path in paths if path.endswith(".xml")}
    assert {each.path for each in manifest.files} == paths | weights | {"golden.npz", "report.json"}


def test_build_without_a_compiler_explains_how_to_get_it_and_completes(
    without_compilers: tuple[Path, str],
) -> None:
    folder, messages = without_compilers
    assert "a robot compiles the IRs itself: not installed: install it" in messages
    assert "not checked with NVIDIA's builder: not installed: pip install it" in messages
    report = Bundle.open(folder).report()
    assert report["npu"]["graphs"] == report["tensorrt"]["graphs"] == []
    assert "not measured" in report["npu"]["about"]


def test_every_variant_computes_what_the_networks_compute(without_compilers: tuple[Path, str]) -> None:
    rows = Bundle.open(without_compilers[0]).report()["parity"]
    assert {(row["graph"], row["target"], row["precision"]) for row in rows} == {
        (role, *kind) for role in ROLES for kind in ELSEWHERE
    }
    assert all(row["min_cosine"] > (0.9 if row["precision"] == "int8" else 0.999) for row in rows)


def test_npu_graph_has_only_static_shapes(without_compilers: tuple[Path, str]) -> None:
    for kind in ELSEWHERE[:2]:
        model = ov.Core().read_model(without_compilers[0] / model_path("predictor", kind))
        shapes = {port.get_any_name(): list(port.shape) for port in model.inputs}
        # Three futures were requested: the runtime compiles graphs for at least 9.
        assert shapes["actions"] == [9, 2, 2] and list(model.output(0).shape) == [9, 2, 4, 16]


@pytest.mark.parametrize(("num_samples", "count"), [(1, 1), (2, 9), (16, 16), (64, 64)])
def test_shapes_match_the_runtime_requests(num_samples: int, count: int) -> None:
    assert compiled_candidates(num_samples) == count


def test_tensorrt_graph_has_explicit_precision(without_compilers: tuple[Path, str]) -> None:
    def kinds(precision: str) -> set[int]:
        path = without_compilers[0] / model_path("encoder", ("tensorrt", precision))
        return {tensor.data_type for tensor in onnx.load(path).graph.initializer}

    assert TensorProto.FLOAT16 in kinds("fp16") and TensorProto.INT8 in kinds("int8")


def test_bundle_without_a_runnable_variant_reports_it(without_compilers: tuple[Path, str]) -> None:
    with pytest.raises(BundleError, check=code("bundle.variant_missing")):
        WorldModel.open(without_compilers[0], allow_untrained=True)


def test_runtime_ignores_variants_for_other_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tensorrt_check, "missing", lambda: "not installed")
    folder = tmp_path / "tiny"
    options = ["--target", "onnx", "--target", "tensorrt", "--output", str(folder)]
    assert main([*BUILD, *LEAN, *options]) == 0
    for engine in ("onnxruntime:CPU", "openvino:CPU"):
        assert runtime(["verify", str(folder), "--engine", engine]) == 0, capsys.readouterr().err


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    """Return the paths of a bundle's graphs; the compilers are fakes."""
    return tmp_path


def test_blobs_are_stored_next_to_their_graph_with_reported_estimates(
    graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Path] = []
    monkeypatch.setattr(npu_compiler, "find", lambda: None)
    monkeypatch.setattr(vendor_compilers, "compile_blob", lambda _, out, __: compiled.append(out) or ESTIMATE)
    variant = Variant(target="npu", precision="int8", path=model_path("encoder", ("npu", "int8")))
    reports = vendor_compilers.run_vendor_compilers(graphs, [("encoder", variant)], 64, print)
    names = [f"encoder/npu/model_int8_{platform}.blob" for platform in (3720, 4000, 5010)]
    assert [str(path.relative_to(graphs)) for path in compiled] == names
    assert [row["platform"] for row in reports["npu"]["graphs"]] == ["3720", "4000", "5010"]
    assert reports["npu"]["graphs"][0]["estimate"]["total_ms"] == 1.235


def test_graph_rejected_by_a_compiler_is_reported(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> Schedule:
        raise JepaExportError(f"{path}: no")

    messages: list[str] = []
    monkeypatch.setattr(npu_compiler, "find", lambda: None)
    monkeypatch.setattr(vendor_compilers, "compile_blob", refuse)
    monkeypatch.setattr(tensorrt_check, "missing", lambda: None)
    monkeypatch.setattr(tensorrt_check, "check", lambda path, count: REFUSED)
    kinds = select_variants((), "npu/fp16") + select_variants((), "tensorrt/fp16")
    requests = [
        ("step", Variant(target=kind[0], precision="fp16", path=model_path("step", kind))) for kind in kinds
    ]
    reports = vendor_compilers.run_vendor_compilers(graphs, requests, 64, messages.append)
    assert {row["problem"] for row in reports["npu"]["graphs"]} == {"step/npu/model_fp16.xml: no"}
    (row,) = reports["tensorrt"]["graphs"]
    assert (row["built"], row["problems"]) == (False, ["no such operator"])
    assert any("rejects it: no such operator" in line for line in messages)
    json.dumps(reports)


def test_full_disk_is_reported_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = command.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: usage)
    assert main([*BUILD, "--output", str(tmp_path / "deep" / "tiny")]) == 1
    assert (
        "of disk space, 0.00 GB are free: free some space, or choose another --output"
        in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_up_during_the_build_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes simulates the full disk."""
    program = (
        "import sys; from jepa_export.students import family; from jepa_export.cli import main;"
        f"family.FAMILY['tiny'] = family.{TINY!r}; sys.exit(main())"
    )
    options = [*BUILD, *LEAN, "--only", "onnx/fp32", "--output", str(tmp_path / "tiny")]
    ended = subprocess.run(
        [sys.executable, "-c", program, *options],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 1
    assert f"jepa-export: error: {tmp_path / 'tiny'} cannot be written: File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_disk_too_full_for_openvino_is_reported_with_our_error(tmp_path: Path) -> None:
    latents = ops.parameter([1, 200], np.float32)
    product = ops.matmul(latents, ops.constant(np.ones((200, 200), np.float32)), False, False)
    model = ov.Model([ops.result(product)], [latents])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(JepaExportError, check=code("export.write_failed")):
            write_variants(tmp_path / "x.onnx", {"fp32": lambda: model}, [], tmp_path / "step", VARIANTS[1:2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
