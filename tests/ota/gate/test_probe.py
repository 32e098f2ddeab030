"""The second gate: the caller survives and learns of any effect of a bundle on the process that tests it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.errors import MachineBusyError, ReleaseRejectedError
from jepa_runtime.model.parity import Parity, golden_parity
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota import robot
from jepa_runtime.ota.gate import engine_build, probe_process
from jepa_runtime.ota.gate import probe as probing
from jepa_runtime.ota.gate.latency_budget import Comparison, Cost
from jepa_runtime.ota.gate.probe import CHILD, Answer, ProbeLimits, ProbeReport, parse_outcome, probe
from jepa_runtime.ota.release import Budgets
from tests.bundles import make_arm_bundle
from tests.errors import code
from tests.ota.robots import settings

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra dev)")
psutil = pytest.importorskip("psutil", reason="psutil is not installed (extra dev)")

ANYTHING = Budgets()
LIMITS = ProbeLimits(memory_mb=1000, cpu_s=60, wall_s=60.0)


@pytest.fixture(scope="module")
def report(toy_bundle: Path) -> ProbeReport:
    return probe(toy_bundle, budgets=ANYTHING, limits=LIMITS)


def refusal(folder: Path, *, budgets: Budgets = ANYTHING, limits: ProbeLimits = LIMITS) -> str:
    with pytest.raises(ReleaseRejectedError) as raised:
        probe(folder, budgets=budgets, limits=limits)
    return str(raised.value)


def test_probe_imports_nothing_from_the_working_directory(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runpy", "json", "numpy", "jepa_runtime"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert probe(toy_bundle, budgets=ANYTHING, limits=LIMITS)
    output = subprocess.run([*engine_build.COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert output.stdout.startswith("jepa-edge ")


@pytest.fixture
def crafted(toy_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a toy bundle whose encoder is another graph; valid as far as a static check can see."""

    def craft(nodes: list[Any], constants: dict[str, Any]) -> Path:
        folder = tmp_path / "crafted"
        shutil.copytree(toy_bundle, folder, ignore=shutil.ignore_patterns("openvino", "manifest.json"))
        fields = Bundle.open(toy_bundle).manifest.model_dump(mode="json")
        for role, variants in fields["graphs"].items():
            fields["graphs"][role] = [one for one in variants if one["target"] == "onnx"]
        path = folder / "encoder" / "onnx" / "model.onnx"
        model = onnx.load(path)
        size = int(np.prod(fields["io"]["frame"]["height"] * fields["io"]["frame"]["width"] * 3))
        constants |= {"row": np.array([size]), "from": np.array([0]), "to": np.array([16])}
        constants |= {"shape": np.array([1, 2, 8])}
        node = onnx.helper.make_node
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(
            [
                node("Reshape", ["frame", "row"], ["bytes"]),
                node("Cast", ["bytes"], ["pixels"], to=onnx.TensorProto.FLOAT),
                node("Cast", ["bytes"], ["indices"], to=onnx.TensorProto.INT64),
                *nodes,
                node("Slice", ["result", "from", "to"], ["few"]),
                node("Reshape", ["few", "shape"], ["latent"]),
            ]
        )
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
        )
        onnx.save(model, path)
        seal(folder, fields)
        return folder

    return craft


@pytest.fixture
def hanging(crafted: Callable[..., Path]) -> Path:
    """Return a bundle whose encoder does not end."""
    helper, kinds = onnx.helper, onnx.TensorProto
    describe = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["value"], ["next"])],
        "body",
        [
            describe("turn", kinds.INT64, []),
            describe("go", kinds.BOOL, []),
            describe("value", kinds.FLOAT, [3072]),
        ],
        [describe("on", kinds.BOOL, []), describe("next", kinds.FLOAT, [3072])],
    )
    loop = helper.make_node("Loop", ["turns", "yes", "pixels"], ["result"], body=body)
    return crafted([loop], {"turns": np.array(2**40), "yes": np.array(True)})


def test_valid_bundle_is_measured(report: ProbeReport) -> None:
    assert 0 < report.latency_p50_ms <= report.latency_p99_ms
    assert report.peak_memory_mb > 20


def test_probe_compares_every_graph(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Parity] = []

    def noted(bundle: Bundle, **how: Any) -> list[Parity]:
        compared.extend(golden_parity(bundle, **how))
        return compared

    monkeypatch.setattr(probe_process, "golden_parity", noted)
    probe_process.measure(
        toy_bundle,
        engine="openvino:CPU",
        precision=None,
        threads=1,
        network_isolated=True,
        disk_isolated=True,
    )
    assert [parity.graph for parity in compared] == ["encoder", "predictor", "energy"]
    assert all(parity.ok for parity in compared)


def test_probe_compares_and_times_a_bundle_as_served(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[dict[str, Any]] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda bundle, **how: requests.append(how) or call(bundle, **how)

    monkeypatch.setattr(probe_process, "golden_parity", noted(probe_process.golden_parity))
    monkeypatch.setattr(WorldModel, "open", noted(WorldModel.open))
    probe_process.measure(
        toy_bundle,
        engine="openvino:CPU",
        precision="fp32",
        threads=2,
        network_isolated=True,
        disk_isolated=True,
    )
    assert len(requests) > 1
    for how in requests:
        assert (how["engine"], how["precision"]) == ("openvino:CPU", "fp32")
        assert how["options"].threads == 2


def test_probe_uses_the_fastest_round_without_warm_up_and_other_load(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took_s = iter([0.05] * 20 + [0.004] * 200 + [0.002] * 197 + [0.003] * 3 + [0.005] * 200)
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(probe_process, "golden_parity", lambda *_, **__: [])
    monkeypatch.setattr(WorldModel, "encode", lambda *_: passes(next(took_s)))
    monkeypatch.setattr(WorldModel, "predict", lambda *_, **__: passes(0.001))
    clocks = {"perf_counter": lambda: now, "monotonic": lambda: now}
    used = {"thread_time": lambda: now / 2, "process_time": lambda: now / 2}
    monkeypatch.setattr(probe_process, "time", SimpleNamespace(**clocks, **used))
    result = probe_process.measure(
        toy_bundle,
        engine="openvino:CPU",
        precision=None,
        threads=1,
        network_isolated=True,
        disk_isolated=True,
    )
    assert (result.latency_p50_ms, result.latency_p99_ms) == (pytest.approx(3), pytest.approx(4))
    assert (result.cost.p99_ms, result.cost.least_ms) == (pytest.approx(2), pytest.approx(1.5))


def test_full_disk_is_not_blamed_on_the_model(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert probe(toy_bundle, budgets=ANYTHING, limits=LIMITS).latency_p99_ms > 0


def test_probe_leaves_the_priority_of_the_calling_process_unchanged(toy_bundle: Path) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0), len(os.listdir("/proc/self/fd"))
    probe(toy_bundle, budgets=ANYTHING, limits=LIMITS)
    assert (os.getpriority(os.PRIO_PROCESS, 0), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        (Budgets(latency_p99_ms=1e-6), "gate.latency_budget_exceeded"),
        (Budgets(peak_memory_mb=1.0), "gate.memory_budget_exceeded"),
    ],
)
def test_bundle_over_a_budget_is_rejected(toy_bundle: Path, budgets: Budgets, expected: str) -> None:
    with pytest.raises(ReleaseRejectedError, check=code(expected)):
        probe(toy_bundle, budgets=budgets, limits=LIMITS)


@pytest.mark.parametrize(
    ("engine", "threads", "by_clock"),
    [("openvino:CPU", 1, False), ("onnxruntime", 1, False), ("openvino:CPU", 2, True), ("tensorrt", 1, True)],
)
def test_processor_time_is_the_cost_only_on_a_cpu_with_one_thread(
    engine: str, threads: int, by_clock: bool
) -> None:
    assert probe_process._is_by_clock(engine, threads) is by_clock


def test_wall_time_is_the_cost_with_other_threads(toy_bundle: Path) -> None:
    class Elsewhere:
        """A model that computes in another thread."""

        def __init__(self, model: WorldModel) -> None:
            self.bundle, self.manifest, self.num_samples = model.bundle, model.manifest, model.num_samples
            self._pool = ThreadPoolExecutor(1)

        def encode(self, _: object) -> None:
            self._pool.submit(lambda: sum(range(20_000))).result()

        def create_cache(self) -> None: ...

        def predict(self, _: object, *, history_states: None) -> None: ...

    with WorldModel.open(toy_bundle, allow_untrained=True) as model:
        timing = probe_process.time_frames([Elsewhere(model)], by_clock=False)  # type: ignore[list-item]
        assert timing.by_clock and (timing.cost == timing.clock).all()
        assert not probe_process.time_frames([model], by_clock=False).by_clock


def test_frames_of_a_model_that_reads_the_state_are_timed(tmp_path: Path) -> None:
    with WorldModel.open(make_arm_bundle(tmp_path / "arm"), allow_untrained=True) as model:
        assert (probe_process.time_frames([model], by_clock=True).cost > 0).all()


@pytest.fixture
def loaded(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Budgets:
    """Return a budget between the fastest frame and the 99th percentile, on a machine with other load."""
    real = probing._run_child

    def answer_of(folder: Path, request: dict[str, Any], *more: Any) -> Answer:
        answer = real(folder, request, *more)
        if answer.report is None:
            return answer
        slow = replace(answer.report, others=0.9, cost=replace(answer.report.cost, p99_ms=1e3, least_ms=0.01))
        return Answer(report=slow)

    monkeypatch.setattr(probing, "_run_child", answer_of)
    return Budgets(latency_p99_ms=0.02)


def test_candidate_as_fast_as_the_active_model_is_not_rejected_under_load(
    toy_bundle: Path, loaded: Budgets
) -> None:
    report = probe(toy_bundle, budgets=loaded, active=toy_bundle, limits=LIMITS)
    both = report.comparison
    # Other load widens the interval; a model compared with itself may differ by a few percent.
    assert both is not None and both.low <= 1.1 and both.high >= 0.9


def test_candidate_under_load_without_an_active_model_is_undecided(toy_bundle: Path, loaded: Budgets) -> None:
    with pytest.raises(MachineBusyError, check=code("gate.latency_undecided")):
        probe(toy_bundle, budgets=loaded, limits=LIMITS)


def test_damaged_active_model_does_not_reject_a_candidate(
    toy_bundle: Path, loaded: Budgets, tmp_path: Path
) -> None:
    with pytest.raises(MachineBusyError, check=code("gate.latency_undecided")):
        probe(toy_bundle, budgets=loaded, active=tmp_path / "nowhere", limits=LIMITS)


def test_damaged_bundle_is_rejected_with_the_reader_error(toy_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(toy_bundle, folder)
    content = bytearray((folder / "golden.npz").read_bytes())
    content[100] ^= 1
    (folder / "golden.npz").write_bytes(content)
    assert "golden.npz: SHA-256 is" in refusal(folder)


def test_bundle_with_different_outputs_is_rejected(crafted: Callable[..., Path]) -> None:
    folder = crafted([onnx.helper.make_node("Tanh", ["pixels"], ["result"])], {})
    fault = "fp32 encoder does not reproduce its golden outputs on this machine: worst cosine"
    assert fault in refusal(folder)


def test_bundle_with_nan_outputs_is_rejected(crafted: Callable[..., Path]) -> None:
    folder = crafted(
        [onnx.helper.make_node("Div", ["pixels", "zero"], ["infinite"]),
         onnx.helper.make_node("Sub", ["infinite", "infinite"], ["result"])],
        {"zero": np.zeros(1, np.float32)},
    )  # fmt: skip
    assert "fp32 encoder computes NaN or infinity on this machine" in refusal(folder)


def test_bundle_that_crashes_the_engine_is_rejected_and_the_caller_survives(
    crafted: Callable[..., Path],
) -> None:
    """OpenVINO reads at any address that the indices of GatherND specify."""
    node = onnx.helper.make_node
    folder = crafted(
        [node("Mul", ["indices", "far"], ["places"]), node("Reshape", ["places", "column"], ["listed"]),
         node("GatherND", ["pixels", "listed"], ["result"])],
        {"far": np.array(1 << 40), "column": np.array([-1, 1])},
    )  # fmt: skip
    assert refusal(folder) == f"{folder}: its probe crashed: SIGSEGV"


def test_bundle_that_exhausts_memory_is_rejected(crafted: Callable[..., Path]) -> None:
    node = onnx.helper.make_node
    folder = crafted(
        [node("ReduceMax", ["pixels"], ["most"], keepdims=0), node("Expand", ["most", "many"], ["expanded"]),
         node("CumSum", ["expanded", "axis"], ["result"])],
        {"many": np.array([1 << 29]), "axis": np.array(0)},
    )  # fmt: skip
    assert refusal(folder) == f"{folder}: its probe needs more memory than 1000 MB (probe.memory_mb)"


def test_bundle_over_the_time_limit_is_rejected(hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_cpu_time", lambda _: (0.0, False))  # despite other load
    limits = ProbeLimits(memory_mb=1000, cpu_s=60, wall_s=4.0)
    assert refusal(hanging, limits=limits).startswith(f"{hanging}: its probe did not end within 4 s")


def test_bundle_over_the_processor_time_limit_is_rejected(hanging: Path) -> None:
    limits = ProbeLimits(memory_mb=1000, cpu_s=3, wall_s=60.0)
    assert (
        refusal(hanging, limits=limits)
        == f"{hanging}: its probe took more than 3 s of processor time (probe.cpu_s)"
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_probe_is_a_rejection_with_that_reason(hanging: Path, number: signal.Signals) -> None:
    reasons: list[str] = []
    caller = threading.Thread(target=lambda: reasons.append(refusal(hanging)))
    caller.start()
    os.kill(next(children(os.getpid())).pid, number)
    caller.join(30)
    assert f"its probe crashed: {number.name}" in reasons[0]


def test_hanging_probe_does_not_block_shutdown(hanging: Path) -> None:
    # Other children may exist, such as multiprocessing's resource tracker.
    before = psutil.Process().children()

    def stopped() -> None:
        if set(psutil.Process().children()) - set(before):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(hanging, budgets=ANYTHING, limits=LIMITS, heartbeat=stopped)
    assert set(psutil.Process().children()) <= set(before)


@pytest.mark.parametrize("serves", [False, True])
def test_probe_has_the_lowest_priority_only_next_to_an_active_model(hanging: Path, serves: bool) -> None:
    """Next to busy processes of the same priority it would take minutes without a model to protect."""
    result: list[int] = []

    def look() -> None:
        for child in psutil.Process().children():
            if CHILD in " ".join(child.cmdline()) and child.cpu_times().user > 2.0:
                result.append(child.nice())
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(hanging, budgets=ANYTHING, active=hanging if serves else None, limits=LIMITS, heartbeat=look)
    assert result == [19 if serves else os.getpriority(os.PRIO_PROCESS, 0)]


@pytest.mark.parametrize("loaded", [False, True])
def test_probe_without_processor_time_is_undecided(loaded: bool) -> None:
    """A hanging probe cannot be recognized on a machine that gives it no processor."""
    spin = "import os, sys; os.sched_setaffinity(0, {0}); os.nice(int(sys.argv[1]))\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", spin, "0"]) for _ in range(4 * loaded)]
    child = subprocess.Popen([sys.executable, "-c", spin if loaded else "import time; time.sleep(60)", "19"])
    late = ReleaseRejectedError("late", code="test.late")
    kind, expected = (
        (MachineBusyError, "gate.timeout_undecided") if loaded else (ReleaseRejectedError, late.code)
    )
    try:
        for hog in hogs:
            while psutil.Process(hog.pid).cpu_times().user < 0.5:
                time.sleep(0.01)
        with pytest.raises(kind, check=code(expected)):
            probing.wait_for_exit(child, within_s=4.0, late=late, heartbeat=lambda: None)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_probe_exits_with_its_parent(hanging: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from jepa_runtime.ota.gate.probe import probe;"
        "from jepa_runtime.ota.release import Budgets; active = folder = Path(sys.argv[1]);"
        "probe(folder, budgets=Budgets(), active=active)"
    )
    caller = subprocess.Popen([sys.executable, "-c", program, str(hanging)])
    child = next(children(caller.pid))
    while child.nice() != 19:  # until it is confined
        time.sleep(0.01)
    caller.kill()
    caller.wait()
    child.wait(10)


def children(pid: int) -> Iterator[Any]:
    """Return the processes that probe for ``pid``, as soon as there is one."""
    while True:
        for process in psutil.Process(pid).children():
            if CHILD in " ".join(process.cmdline()):
                yield process
        time.sleep(0.01)


GOOD = ProbeReport(
    latency_p50_ms=1.0,
    latency_p99_ms=2.0,
    cost=Cost(p99_ms=2.0, least_ms=1.0),
    by_clock=False,
    others=0.5,
    peak_memory_mb=100.0,
    network_isolated=True,
    disk_isolated=True,
)


EQUAL = Comparison(candidate=GOOD.cost, active=GOOD.cost, ratio=1.0, low=0.99, high=1.01)


def test_probe_report_round_trips() -> None:
    for written in (Answer(report=GOOD), Answer(comparison=EQUAL)):
        assert parse_outcome("b", 0, written.model_dump_json().encode(), b"noise", LIMITS) == written


@pytest.mark.parametrize(
    ("status", "answer", "log", "expected", "detail"),
    [
        (0, b"", b"", "gate.probe_invalid_report", "''"),
        (0, b"Hello!", b"", "gate.probe_invalid_report", "'Hello!'"),
        (0, b"\xff\x00", b"", "gate.probe_invalid_report", ""),
        (0, b'{"report": {"latency_p50_ms": 1}}', b"", "gate.probe_invalid_report", ""),
        (0, b'{"report": null, "extra": 1}', b"", "gate.probe_invalid_report", ""),
        (0, b"{}", b"", "gate.probe_failed", ""),
        (0, b'{"reason": "no good"}', b"", "gate.probe_failed", "no good"),
        (0, b'{"reason": "std::bad_alloc"}', b"", "gate.probe_memory", "1000 MB"),
        (1, b"", b"Traceback\nMemoryError\n", "gate.probe_memory", "1000 MB"),
        (1, b"", b"Traceback\nKeyError: 'x'\n", "gate.probe_failed", "exit status 1: KeyError: 'x'"),
        (3, b"", b"", "gate.probe_failed", "exit status 3"),
        (-signal.SIGABRT, b"", b"what(): std::bad_alloc", "gate.probe_memory", "1000 MB"),
        (-signal.SIGABRT, b"", b"assertion", "gate.probe_crashed", "SIGABRT: assertion"),
        (-signal.SIGILL, b"", b"", "gate.probe_crashed", "SIGILL"),
        (-40, b"", b"", "gate.probe_crashed", "signal 40"),
        (
            -signal.SIGKILL,
            b"",
            b"",
            "gate.probe_crashed",
            "SIGKILL (by the kernel when memory ran out, or by hand)",
        ),
        (-signal.SIGXCPU, b"", b"", "gate.probe_cpu_time", "60 s"),
    ],
)
def test_probe_with_any_other_exit_is_a_rejection(
    status: int, answer: bytes, log: bytes, expected: str, detail: str
) -> None:
    with pytest.raises(ReleaseRejectedError, check=code(expected)) as raised:
        parse_outcome("b", status, answer, log, LIMITS)
    assert detail in str(raised.value)


def test_gate_uses_the_engine_and_limits_of_the_robot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[dict[str, Any]] = []
    monkeypatch.setattr(robot.engine_build, "build", lambda _, **how: requests.append(how))
    monkeypatch.setattr(robot.probe, "probe", lambda _, **how: requests.append(how) or GOOD)
    limits, budgets = ProbeLimits(threads=2, build_s=7.0), Budgets(latency_p99_ms=5.0)
    heartbeat = Mock()
    gate = robot.LocalGate(settings(engine="tensorrt", precision="fp16", probe=limits), heartbeat)
    assert gate.probe(Path("bundle"), budgets, Path("active"))["latency_p99_ms"] == GOOD.latency_p99_ms
    built, probed = requests
    assert built["wall_s"] == 7.0
    assert (probed["limits"], probed["budgets"], probed["active"]) == (limits, budgets, Path("active"))
    assert all((how["engine"], how["precision"]) == ("tensorrt", "fp16") for how in requests)
    assert all(how["heartbeat"] is heartbeat for how in requests)
