"""Blobs for Intel NPUs: compiled without one, in a process that may die, and compared before loading."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler
from jepa_export.targets.confined_process import ProcessLimits, run_confined
from jepa_export.targets.npu import (
    PLATFORMS,
    Schedule,
    compile_blob,
    static_ir,
)
from jepa_export.targets.openvino import save
from jepa_runtime.backends import Graph
from jepa_runtime.backends.openvino.npu import Origin
from tests.errors import code
from tests.export.compilers import needs_compiler

STATISTICS = {
    "total duration": 3712.5,
    "DMA duration": 2100.0,
    "DPU duration": 900.0,
    "SW duration": 1500.0,
    "DMA duration without overlaps": 610.0,
}
PYTHON = [sys.executable, "-c"]


def perceptron(count: int = 8) -> ov.Model:
    """Return a model: latents [count, 64] -> energy [count, 1]; -1: any count."""
    rng = np.random.default_rng(0)
    latents = ops.parameter([count, 64], np.float32, name="latents")
    latents.output(0).get_tensor().set_names({"latents"})
    hidden = ops.matmul(latents, ops.constant(rng.normal(size=(64, 64)).astype(np.float32)), False, False)
    out = ops.matmul(ops.gelu(hidden, "erf"), ops.constant(np.ones((64, 1), np.float32)), False, False)
    return ov.Model([ops.result(out)], [latents], "perceptron")


@pytest.fixture
def ir(tmp_path: Path) -> Path:
    path = tmp_path / "model.xml"
    save(perceptron(), path)
    return path


def confined(program: str, folder: Path, limits: ProcessLimits | None = None) -> tuple[int, str]:
    return run_confined(
        [*PYTHON, program], folder=folder, limits=limits or ProcessLimits(), what="the compiler"
    )


def test_compiler_output_and_exit_status_are_reported(tmp_path: Path) -> None:
    program = "import os, sys; print(os.getcwd()); print('no', file=sys.stderr); sys.exit(3)"
    status, output = confined(program, tmp_path)
    assert status == 3 and sorted(output.splitlines()) == sorted([str(tmp_path), "no"])


def test_compiler_crash_is_an_error_and_does_not_end_the_process(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("target.compiler_crashed")):
        confined("import ctypes; ctypes.string_at(0)", tmp_path)


def test_hung_compiler_is_ended_with_its_child_processes(tmp_path: Path) -> None:
    child = f"import time; open({str(tmp_path / 'born')!r}, 'w'); time.sleep(2); open('alive', 'w')"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(JepaExportError, check=code("target.compiler_timeout")):
        confined(program, tmp_path, ProcessLimits(time_s=1))
    assert not (tmp_path / "alive").exists()


def test_memory_limit_is_enforced(tmp_path: Path) -> None:
    allowed = ProcessLimits(memory_bytes=256 << 20)
    assert confined("bytearray(64 << 20)", tmp_path, allowed)[0] == 0
    with pytest.raises(JepaExportError, check=code("target.compiler_out_of_memory")):
        confined("import time; data = b'x' * (512 << 20); time.sleep(5)", tmp_path, allowed)


def test_schedule_is_read_in_milliseconds() -> None:
    assert Schedule.parse(json.dumps({"taskStatistics": STATISTICS})) == Schedule(
        total_ms=3.7125, dma_ms=2.1, dpu_ms=0.9, shave_ms=1.5, exposed_dma_ms=0.61
    )


@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_unknown_trace_is_reported_with_our_error(trace: str) -> None:
    with pytest.raises(JepaExportError, check=code("target.npu_trace_invalid")):
        Schedule.parse(trace)


@pytest.mark.parametrize("absent", STATISTICS)
def test_trace_without_a_required_number_is_reported_with_our_error(absent: str) -> None:
    with pytest.raises(JepaExportError, check=code("target.npu_trace_invalid")):
        Schedule.parse(json.dumps({"taskStatistics": STATISTICS | {absent: None}}).replace(absent, "x"))


def test_shapes_are_fixed_in_a_copy() -> None:
    free = perceptron(-1)
    assert static_ir(free, {"latents": [16, 64]}).input(0).shape == [16, 64]
    assert free.input(0).get_partial_shape().is_dynamic


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({}, "target.free_axis"),
        ({"latents": [4, 63]}, "target.shape_rejected"),
        ({"x": [1]}, "target.shape_rejected"),
    ],
)
def test_shapes_that_leave_it_dynamic_are_rejected(shapes: dict[str, list[int]], reason: str) -> None:
    with pytest.raises(JepaExportError, check=code(reason)):
        static_ir(perceptron(-1), shapes)


def test_unknown_platform_is_rejected_with_the_known_ones(ir: Path, tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("target.unknown_npu_platform")):
        compile_blob(ir, tmp_path / "blob", "3700")


def test_missing_compiler_is_reported_with_what_to_install(
    ir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    install = "apt-get install wine gcc-mingw-w64-x86-64, then python -m jepa_export.targets.npu_compiler"
    with pytest.raises(JepaExportError, check=code("target.npu_compiler_missing")) as error:
        compile_blob(ir, tmp_path / "model.blob", "4000")
    assert install in str(error.value)
    with pytest.raises(JepaExportError, check=code("target.system_package_missing")):
        npu_compiler.install(print)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "model.blob").exists()


@pytest.mark.parametrize(("cut_off", "is_compiled"), [(2, True), (3, False)])
def test_program_that_wine_cuts_off_is_started_again(
    cut_off: int, is_compiled: bool, ir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script stands in for Wine, whose server is cut off so rarely that no test can wait for it."""
    wine, starts = tmp_path / "wine", tmp_path / "starts"
    wine.write_text(
        f"""#!/bin/sh
echo start >> {starts}
if [ $(wc -l < {starts}) -le {cut_off} ]; then
  echo "wine client error:0: recvmsg: Connection reset by peer"
  exit 1
fi
touch {npu_compiler.BLOB} {npu_compiler.TRACE}
echo "REQUIREMENTS meta=2.7"
""",
        encoding="utf-8",
    )
    wine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "made").mkdir()
    compiler = npu_compiler.NpuCompiler(tmp_path / "npu", "2026.4.1")
    if is_compiled:
        assert compiler.compile(ir, "4000", tmp_path / "made", ProcessLimits()) == "meta=2.7"
        return
    with pytest.raises(JepaExportError, check=code("target.npu_compilation_failed")) as error:
        compiler.compile(ir, "4000", tmp_path / "made", ProcessLimits())
    assert "Connection reset" in str(error.value)


@needs_compiler
@pytest.mark.parametrize("platform", PLATFORMS)
def test_ir_becomes_a_blob_with_estimate_and_origin(platform: str, ir: Path, tmp_path: Path) -> None:
    blob = tmp_path / "npu" / f"{platform}.blob"
    schedule = compile_blob(ir, blob, platform)
    assert 0 < schedule.total_ms < 10 and schedule.dpu_ms > 0
    assert blob.stat().st_size > 1000
    origin = Origin.read(Path(f"{blob}.json").read_bytes(), "here")
    release = ov.get_version().partition("-")[0]
    assert (origin.platform, origin.openvino, origin.ir_sha256) == (
        platform,
        release,
        Graph.read(ir).sha256,
    )
    assert sorted(path.name for path in blob.parent.iterdir()) == [blob.name, f"{blob.name}.json"]


@needs_compiler
def test_dynamic_graph_is_rejected_and_leaves_nothing(tmp_path: Path) -> None:
    save(perceptron(-1), tmp_path / "model.xml")
    with pytest.raises(JepaExportError, check=code("target.free_axis")):
        compile_blob(tmp_path / "model.xml", tmp_path / "npu" / "4000.blob", "4000")
    assert not (tmp_path / "npu").exists()


@needs_compiler
def test_compiler_error_is_quoted(tmp_path: Path) -> None:
    values, edges = (
        ops.parameter([4, 4], np.float32, name="values"),
        ops.constant(np.arange(4.0, dtype=np.float32)),
    )
    save(
        ov.Model([ops.result(ops.bucketize(values, edges, "i64"))], [values], "buckets"),
        tmp_path / "model.xml",
    )
    with pytest.raises(JepaExportError, check=code("target.npu_compilation_failed")) as error:
        compile_blob(tmp_path / "model.xml", tmp_path / "4000.blob", "4000")
    assert "Bucketize" in str(error.value)
    assert not (tmp_path / "4000.blob").exists()
