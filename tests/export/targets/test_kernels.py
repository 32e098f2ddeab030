"""The kernel compiles for Jetsons without a warning, reproducibly; failures are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_export.errors import JepaExportError
from jepa_export.targets import kernels
from jepa_export.targets.kernels import (
    KernelBuild,
    KernelUsage,
    choose_architectures,
    compile_kernels,
    describe,
    find_nvcc,
    parse_usage,
)
from jepa_runtime.backends.tensorrt.kernels import ENTRY_POINT, find_fatbin, source
from tests.errors import code

# Output of ptxas 13.0 for a kernel that spills.
PTXAS_OUTPUT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scale' for 'sm_87'
ptxas info    : Function properties for scale
    24 bytes stack frame, 32 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 16 registers, used 0 barriers, 24 bytes cumulative stack size, 448 bytes cmem[0]
ptxas info    : Compiling entry function 'scale' for 'sm_110'
ptxas info    : Function properties for scale
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 48 registers, used 0 barriers
"""


@pytest.fixture(scope="module")
def kernel_build(tmp_path_factory: pytest.TempPathFactory) -> KernelBuild:
    try:
        find_nvcc()
    except JepaExportError as error:
        pytest.skip(str(error))
    return compile_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "_candidates", lambda: iter([tmp_path / "nvcc"]))


def fake_compiler(folder: Path, script: str) -> Path:
    """Write a program that replaces nvcc, to simulate other compilers."""
    program = folder / "nvcc"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_kernel_compiles_for_orin_without_spilling(kernel_build: KernelBuild) -> None:
    assert {usage.entry for usage in kernel_build.usages if usage.architecture == "sm_87"} == {ENTRY_POINT}
    assert all(usage.spilled_bytes == 0 for usage in kernel_build.usages)


def test_runtime_finds_the_compiled_kernel(kernel_build: KernelBuild) -> None:
    assert find_fatbin([kernel_build.path.parent]) == kernel_build.path
    assert [path.name for path in kernel_build.path.parent.iterdir()] == [kernel_build.path.name]


def test_compilation_is_reproducible_in_any_folder(kernel_build: KernelBuild, tmp_path: Path) -> None:
    assert compile_kernels(tmp_path / "another folder").path.read_bytes() == kernel_build.path.read_bytes()


def test_fatbin_contains_a_binary_for_each_jetson_and_ptx(kernel_build: KernelBuild) -> None:
    """Each binary is an ELF file for a GPU; PTX is compressed in it."""
    assert kernel_build.path.read_bytes().count(b"\x7fELF") == len(kernel_build.choice.architectures)
    assert f"PTX for other GPUs from sm_{kernel_build.choice.ptx} on" in describe(kernel_build)


def test_compiler_warning_is_an_error(
    kernel_build: KernelBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "source", lambda: source() + b"\n__global__ void idle() { int unused; }\n")
    with pytest.raises(JepaExportError, check=code("target.nvcc_failed")):
        compile_kernels(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_newest_name_of_thor_is_used() -> None:
    both = choose_architectures(["sm_80", "sm_87", "sm_101", "sm_110"])
    assert both.architectures == ("sm_87", "sm_110") and both.left_out == ()
    assert choose_architectures(["sm_80", "sm_87", "sm_101"]).architectures == ("sm_87", "sm_101")


def test_compiler_without_thor_builds_the_rest_and_reports_it() -> None:
    choice = choose_architectures(["sm_50", "sm_80", "sm_87", "sm_90", "sm_90a"])
    assert choice.architectures == ("sm_87",) and choice.ptx == 80
    assert choice.left_out == ("Jetson Thor: this nvcc does not support sm_110 or sm_101",)
    assert choice.flags == [
        "-gencode=arch=compute_87,code=sm_87",
        "-gencode=arch=compute_80,code=compute_80",
    ]


def test_compiler_too_old_for_all_devices_is_rejected() -> None:
    with pytest.raises(JepaExportError, check=code("target.nvcc_unsupported")):
        choose_architectures(["sm_50", "sm_75"])


def test_ptxas_output_is_parsed() -> None:
    assert parse_usage(PTXAS_OUTPUT) == (
        KernelUsage(entry="scale", architecture="sm_87", registers=16, spilled_bytes=32),
        KernelUsage(entry="scale", architecture="sm_110", registers=48, spilled_bytes=0),
    )


@pytest.mark.usefixtures("no_compiler")
def test_missing_compiler_is_reported_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("target.nvcc_missing")):
        compile_kernels(tmp_path)


def test_program_that_is_no_nvcc_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("target.nvcc_unsupported")):
        compile_kernels(tmp_path / "out", nvcc=fake_compiler(tmp_path, "echo hello"))


def test_failed_compiler_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("target.nvcc_failed")):
        compile_kernels(tmp_path / "out", nvcc=fake_compiler(tmp_path, "echo no license >&2; exit 3"))


def test_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JepaExportError, check=code("export.write_failed")):
        compile_kernels(tmp_path / "file", nvcc=tmp_path / "nvcc")
