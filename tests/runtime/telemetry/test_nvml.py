"""Discrete NVIDIA GPUs: NVIDIA's own NVML bindings with a stub driver (fake_nvml.c)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from jepa_runtime.telemetry.energy import measure_energy
from tests.runtime.machines import Clock, Tree, by_name, laptop, machine, orin_nano, watch

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (extra nvml)")

SOURCE = Path(__file__).with_name("fake_nvml.c")
LOADED = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65"}
READINGS = ("load", "memory", "power")


class Driver:
    """Settings and requests of the stub driver."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def set(self, **values: int) -> None:
        for name, value in values.items():
            kind = ctypes.c_ulonglong if name in ("millijoules", "reasons") else ctypes.c_int
            kind.in_dll(self._library, f"fake_{name}").value = value

    @property
    def open(self) -> int:
        return ctypes.c_int.in_dll(self._library, "fake_open").value


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    path = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, SOURCE, "-o", path], check=True)
    return path


@pytest.fixture
def driver(library: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr(pynvml, "CDLL", lambda name: ctypes.CDLL(str(library)))
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    created = Driver(library)
    created.set(count=2, loaded=1, lost=0, open=0, millijoules=0, reasons=1)
    return created


@pytest.fixture
def clock() -> Clock:
    return Clock()


def with_card(tree: Tree) -> Tree:
    tree.write(LOADED)
    return tree


def test_nvml_card_has_readings_and_nvml_is_shut_down(driver: Driver, tmp_path: Path, clock: Clock) -> None:
    driver.set(count=1)
    with watch(with_card(machine(tmp_path)), clock) as monitor:
        clock.now += 1
        driver.set(reasons=0x20)  # software reduces the clock because of the temperature
        monitor.sample()
        result = by_name(monitor)
        assert driver.open == 1
    assert driver.open == 0
    values = {name: (result[name].values[0], result[name].unit) for name in result if name.startswith("gpu ")}
    assert values == {
        "gpu load": (40, "%"),
        "gpu memory": (1500, "MB"),
        "gpu power": (62.5, "W"),
        "gpu frequency": (1980, "MHz"),
        "gpu temperature": (61, "°C"),
        "gpu held back": (0, "%"),
    }
    assert result["gpu held back"].values == [0, 100]
    assert any(note.startswith("gpu memory: memory of the card used") for note in monitor.notes())


def test_nvml_several_cards_are_numbered_and_unsupported_is_absent(
    driver: Driver, tmp_path: Path, clock: Clock
) -> None:
    with watch(with_card(laptop(tmp_path)), clock) as monitor:
        monitor.sample()
        result = by_name(monitor)
    assert result["gpu 0 power"].values and result["gpu 1 load"].values and result["gpu 1 temperature"].values
    silent = [name for name in result if result[name].absent == "NVML: Not Supported"]
    assert silent == ["gpu 1 power", "gpu 1 held back"]
    assert "total energy: sum of package-0 (RAPL) and gpu 0 (NVML)" in monitor.notes()


def test_nvml_unavailable_gpu_does_not_hide_others(driver: Driver, tmp_path: Path, clock: Clock) -> None:
    driver.set(count=3)
    with watch(with_card(machine(tmp_path)), clock) as monitor:
        result = by_name(monitor)
    assert result["gpu 0 load"].values
    assert {result[f"gpu 2 {what}"].absent for what in READINGS} == {"NVML: Insufficient Permissions"}


def test_total_energy_includes_cards(driver: Driver, tmp_path: Path, clock: Clock) -> None:
    # 3 hours since the driver was loaded.
    driver.set(count=1, millijoules=648_000_000)
    tree = with_card(laptop(tmp_path))
    with watch(tree, clock) as monitor:
        clock.now += 10
        driver.set(millijoules=648_000_000 + 700_000)
        monitor.sample()
        readings = monitor.readings()
    result = by_name(monitor)
    assert result["total energy"].values[:2] == [0, 700]
    assert "total energy: sum of package-0 (RAPL) and gpu (NVML)" in monitor.notes()
    assert measure_energy(readings, readings, frames=10, duration_s=10.0).busy_w == pytest.approx(70)


def test_total_energy_of_cards_alone_is_absent(driver: Driver, tmp_path: Path, clock: Clock) -> None:
    driver.set(count=1)
    with watch(with_card(machine(tmp_path)), clock) as monitor:
        monitor.sample()
        readings = monitor.readings()
    assert str(by_name(monitor)["total energy"].absent).startswith("no RAPL counters")
    assert measure_energy(readings, readings, frames=10, duration_s=10.0).busy_w is None


def test_nvml_outdated_bindings_are_the_reason(
    driver: Driver, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons")
    with watch(with_card(machine(tmp_path)), clock) as monitor:
        result = by_name(monitor)
    assert "installed pynvml is too old" in str(result["gpu load"].absent)


def test_nvml_lost_card_is_noted(driver: Driver, tmp_path: Path, clock: Clock) -> None:
    driver.set(count=1)
    with watch(with_card(machine(tmp_path)), clock) as monitor:
        # The whole driver is lost: NVML cannot even be shut down.
        driver.set(lost=1)
        clock.now += 1
        monitor.sample()
    assert by_name(monitor)["gpu load"].values == [40]
    assert any(
        note.startswith("gpu load: 2 samples are missing") and "lost" in note for note in monitor.notes()
    )


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"loaded": 0}, "NVML: Driver Not Loaded"),
        ({"count": 0}, "NVML: the driver reports no GPU"),
    ],
)
def test_nvml_driver_without_gpu_is_the_reason(
    driver: Driver, tmp_path: Path, clock: Clock, state: dict[str, int], reason: str
) -> None:
    driver.set(**state)
    with watch(with_card(machine(tmp_path)), clock) as monitor:
        result = by_name(monitor)
    assert {result[f"gpu {what}"].absent for what in READINGS} == {reason}
    assert driver.open == 0


def test_integrated_gpu_has_its_own_name(driver: Driver, tmp_path: Path, clock: Clock) -> None:
    driver.set(count=1)
    with watch(with_card(laptop(tmp_path)), clock) as monitor:
        result = by_name(monitor)
    assert "integrated gpu frequency" in result and result["gpu frequency"].values == [1980]


def test_nvml_is_not_used_on_a_jetson(driver: Driver, tmp_path: Path, clock: Clock) -> None:
    with watch(with_card(orin_nano(tmp_path)), clock) as monitor:
        assert driver.open == 0
    assert "rails" in str(by_name(monitor)["gpu power"].absent)
