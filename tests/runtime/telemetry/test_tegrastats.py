"""Parsing of tegrastats: published lines of several JetPack releases, and arbitrary text."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.telemetry import tegrastats
from jepa_runtime.telemetry.probes import Probe
from jepa_runtime.telemetry.sysfs import Files
from jepa_runtime.telemetry.tegrastats import Tegrastats, parse_tegrastats
from tests.runtime.machines import Clock


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            "RAM 2387/7774MB (lfb 961x4MB) SWAP 0/3887MB (cached 0MB) CPU "
            "[14%@1190,9%@1190,off,off,0%@1190,1%@1344] EMC_FREQ 1%@1600 GR3D_FREQ 0%@114 VIC_FREQ "
            "0%@115 APE 150 MTS fg 0% bg 3% AO@31C GPU@31.5C PMIC@100C AUX@31.5C CPU@33C "
            "thermal@31.95C VDD_IN 3528/3569 VDD_CPU_GPU_CV 410/426 VDD_SOC 1107/1115",
            {
                "emc load": 1,
                "emc frequency": 1600,
                "gpu frequency": 114,
                "VDD_IN power": 3.528,
                "VDD_SOC power": 1.107,
            },
            id="Xavier NX, JetPack 4",
        ),
        pytest.param(
            "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU "
            "[0%@729,3%@729] EMC_FREQ 0%@2133 GR3D_FREQ 7%@0 GR3D2_FREQ 9%@114 VIC_FREQ 729 APE 174 "
            "CV0@-256C CPU@42.593C Tboard@32C SOC2@39.343C GPU@-256C tj@42.593C VDD_GPU_SOC "
            "2399mW/2399mW VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW "
            "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW",
            {
                "gpu load": 7,
                "gpu2 load": 9,
                "gpu2 frequency": 114,
                "VDD_GPU_SOC power": 2.399,
                "VDDQ_VDD2_1V8AO power": 0.301,
                "NC power": None,
            },
            id="AGX Orin, JetPack 5",
        ),
        pytest.param(
            "RAM 29114/30697MB (lfb 3x4MB)    SWAP 4915/15348MB (cached 1MB) CPU [3%@729,100%@2201] "
            "EMC_FREQ 1%@2133 GR3D_FREQ 12%@[305,306] NVENC      off  NVDEC    off NVJPG off OFA"
            "           off  PVA0_FREQ off   APE           174        cpu@53.062C soc2@48.25C  "
            "gpu@47.812C tj@53.062C    VDD_GPU_SOC 3205mW/3205mW VDD_CPU_CV 4405mW/4405mW VIN_SYS_5V0"
            " 4767mW/4767mW",
            {
                "gpu load": 12,
                "gpu frequency": 306,
                "VIN_SYS_5V0 power": 4.767,
            },
            id="AGX Orin, JetPack 6",
        ),
        pytest.param(
            "RAM 2448/62840MB (lfb 2x4MB) SWAP 0/31420MB (cached 0MB) CPU [0%@2201] GR3D_FREQ 0% "
            "cpu@42C gpu@37.75C",
            {"gpu load": 0, "gpu frequency": None, "emc load": None},
            id="JetPack 6, not root",
        ),
        pytest.param(
            "RAM 1179/3983MB (lfb 120x4MB) IRAM 0/252kB(lfb 252kB) CPU [1%,off,5%]@102 EMC_FREQ "
            "7%@408 GR3D_FREQ 0%@76 APE 25 AO@42.5C VDD_IN 2532/2698 VDD_CPU 76/178 VDD_GPU -19/19",
            {"emc load": 7, "gpu frequency": 76, "VDD_GPU power": -0.019},
            id="a rail that gives power back",
        ),
    ],
)
def test_parse_tegrastats_published_line(line: str, expected: dict[str, float | None]) -> None:
    result = parse_tegrastats(line)
    assert {name: result.get(name) for name in expected} == {
        name: None if value is None else pytest.approx(value) for name, value in expected.items()
    }
    assert not {"IRAM power", "RAM power", "SWAP power"} & set(result)


_PIECES = st.sampled_from(
    ["RAM 1/2MB", "CPU [", "5%@7,", "off", "]", "@12", "GR3D_FREQ 4%@[", "1,,2]", "EMC_FREQ 9%", "a@-256C",
     "b@1.5C", "VDD_IN 7mW/", "3mW", "NC 0/0", "9" * 12, "%", "@", "/", "\0", "٣%"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(_PIECES).map(" ".join), st.lists(_PIECES).map("".join)))
def test_parse_tegrastats_of_any_text_does_not_fail(line: str) -> None:
    assert all(math.isfinite(value) for value in parse_tegrastats(line).values())


@given(
    load=st.integers(0, 100),
    milliwatts=st.integers(-999, 99999),
)
def test_parse_tegrastats_roundtrip(load: int, milliwatts: int) -> None:
    result = parse_tegrastats(f"CPU [5%@1420] GR3D_FREQ {load}%@[611,0] tj@50C VDD_IN {milliwatts}mW/0mW")
    assert result["gpu load"] == load
    assert result["VDD_IN power"] == milliwatts / 1e3


def test_tegrastats_without_output_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, tool, request = Clock(), tmp_path / "usr/bin/tegrastats", tmp_path / "asked"
    monkeypatch.setattr(tegrastats, "time", SimpleNamespace(monotonic=clock))
    tool.parent.mkdir(parents=True)
    tool.write_text(f"#!/bin/sh\necho $@ > {request}\necho GR3D_FREQ 45%\nexec sleep 60\n", encoding="utf-8")
    tool.chmod(0o755)
    running = Tegrastats(Files(tmp_path), period_s=0.5)
    [load] = running.probes()
    assert isinstance(load, Probe) and request.read_text(encoding="utf-8") == "--interval 500\n"
    clock.now += 3.4
    assert load.read() == 45
    clock.now += 0.2
    with pytest.raises(OSError, match="printed nothing"):
        load.read()
    running.close()
    with pytest.raises(OSError, match="has exited"):
        load.read()
