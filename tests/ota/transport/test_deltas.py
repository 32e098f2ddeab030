"""Deltas: the reader restores what the builder encoded, and nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_export.release.delta_maker import make, prove, worth_it
from jepa_runtime.errors import StorageError, UpdateError
from jepa_runtime.ota.transport.deltas import HEADER, MAGIC, VERSION, apply
from tests.errors import code

BASE = bytes(range(256)) * 40
TARGET = bytes((7 * byte) % 251 for byte in range(10_000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deltas")


def applied(folder: Path, base: bytes, delta: bytes, target: bytes) -> bytes:
    """Return the result; nothing may exist at ``out`` if there is none."""
    (folder / "base").write_bytes(base)
    (folder / "delta").write_bytes(delta)
    out = folder / "out"
    out.write_bytes(b"what lay there before")
    try:
        apply(
            folder / "base",
            folder / "delta",
            out,
            sha256=hashlib.sha256(target).hexdigest(),
            length=len(target),
        )
    except BaseException:
        assert not out.exists()
        raise
    return out.read_bytes()


def framed(content: bytes, base: int = len(BASE), target: int = len(TARGET), **packing: object) -> bytes:
    """Return a delta of which any part may be invalid."""
    return HEADER.pack(MAGIC, VERSION, base, target) + zstandard.ZstdCompressor(**packing).compress(content)  # type: ignore[arg-type]


@settings(max_examples=200)
@given(base=st.binary(max_size=4096), target=st.binary(max_size=4096))
def test_delta_creates_its_target(folder: Path, base: bytes, target: bytes) -> None:
    assert applied(folder, base, make(base, target), target) == target


@pytest.mark.parametrize(("base", "target"), [(0, 0), (0, 5), (5, 0), (5, 5), (3_000_000, 2_500_001)])
def test_delta_with_different_lengths_is_applied(folder: Path, base: int, target: int) -> None:
    old, new = BASE * (base // len(BASE) + 1), TARGET * (target // len(TARGET) + 1)
    old, new = old[:base], new[:target]
    assert applied(folder, old, make(old, new), new) == new
    prove(old, make(old, new), new)


@settings(max_examples=500)
@given(delta=st.binary(max_size=400))
def test_random_bytes_are_rejected(folder: Path, delta: bytes) -> None:
    for content in (delta, make(BASE, TARGET)[: HEADER.size] + delta):
        with pytest.raises(UpdateError, check=code("transfer.unusable_delta")):
            applied(folder, BASE, content, TARGET)


@settings(max_examples=500)
@given(data=st.data())
def test_damaged_delta_is_rejected_or_harmless(folder: Path, data: st.DataObject) -> None:
    delta = bytearray(make(BASE, TARGET))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(delta) - 1))
        delta[position] ^= data.draw(st.integers(1, 255))
    try:
        assert applied(folder, BASE, bytes(delta), TARGET) == TARGET
    except UpdateError as error:
        assert error.code == "transfer.unusable_delta"


@pytest.mark.parametrize("cut", [0, 3, 23, 24, 25, 40, -1])
def test_truncated_delta_is_rejected(folder: Path, cut: int) -> None:
    with pytest.raises(UpdateError, check=code("transfer.unusable_delta")):
        applied(folder, BASE, make(BASE, TARGET)[:cut], TARGET)


@pytest.mark.parametrize(
    "delta",
    [
        make(BASE[:-1], TARGET),
        make(BASE, TARGET[:-1]),
        make(BASE, TARGET + b"x"),
        make(BASE, TARGET[::-1]),
        make(BASE, TARGET) + b"x",
        make(BASE, TARGET) + zstandard.compress(b""),
        framed(bytes(9_999)),
        framed(bytes(10_001)),
        framed(bytes(10_000))[:7] + b"\2" + framed(bytes(10_000))[8:],
        b"Not one" + make(BASE, TARGET)[7:],
        make(BASE, TARGET)[: HEADER.size] + b"x" * 100,
    ],
)
def test_delta_that_creates_another_file_is_rejected_with_the_reason(folder: Path, delta: bytes) -> None:
    with pytest.raises(UpdateError, check=code("transfer.unusable_delta")):
        applied(folder, BASE, delta, TARGET)


def test_delta_with_a_large_memory_window_is_rejected(folder: Path) -> None:
    packing = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=packing).compressobj()
    delta = HEADER.pack(MAGIC, VERSION, len(BASE), len(TARGET)) + frame.compress(TARGET) + frame.flush()
    with pytest.raises(UpdateError, check=code("transfer.unusable_delta")):
        applied(folder, BASE, delta, TARGET)


def test_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(StorageError, match=r"gone: .*No such file", check=code("storage.disk_error")):
        apply(folder / "gone", folder / "gone", folder / "out", sha256="0" * 64, length=1)
    assert not (folder / "out").exists()


def test_decompression_bomb_and_large_file_need_little_memory(tmp_path: Path) -> None:
    """4 GB of zeros in 130 KB with a claimed size of 100 MB; then 200 MB that are really created."""
    (tmp_path / "base").write_bytes(b"")
    frame = zstandard.ZstdCompressor().compressobj(size=4 << 30)
    zeros = bytes(1 << 24)
    packed = b"".join(frame.compress(zeros) for _ in range(256)) + frame.flush()
    (tmp_path / "bomb").write_bytes(HEADER.pack(MAGIC, VERSION, 0, 100 << 20) + packed)
    (tmp_path / "large").write_bytes(make(b"", bytes(200 << 20)))
    sha256 = hashlib.sha256(bytes(200 << 20)).hexdigest()
    program = (
        "import resource\n"
        "from pathlib import Path\n"
        "from jepa_runtime.errors import UpdateError\n"
        "from jepa_runtime.ota.transport.deltas import apply\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"folder, before = Path({str(tmp_path)!r}), peak()\n"
        "try:\n"
        "    apply(folder / 'base', folder / 'bomb', folder / 'out', sha256='', length=100 << 20)\n"
        "except UpdateError as error:\n"
        "    print(error)\n"
        f"apply(folder / 'base', folder / 'large', folder / 'out', sha256={sha256!r}, length=200 << 20)\n"
        "print((peak() - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    reason, grown_mb = done.stdout.splitlines()
    assert "gives more than 104857600 bytes" in reason
    assert int(grown_mb) < 60
    assert (tmp_path / "out").stat().st_size == 200 << 20


def test_delta_is_built_only_if_it_saves_much() -> None:
    random = zstandard.compress(TARGET) * 50
    changed = bytes(byte ^ (index % 100 == 0) for index, byte in enumerate(random))
    assert worth_it(make(changed, random), random)
    assert not worth_it(make(random[::-1], random), random)
