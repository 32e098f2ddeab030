"""The third gate: both models on the same frames; only motion counts, and a worse model is rejected."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import InconclusiveError, ReleaseRejectedError, SourceError, UpdateError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.ota import robot
from jepa_runtime.ota.gate import shadow_test as shadow
from jepa_runtime.ota.gate.sequential_test import PairedTest, Verdict, score
from jepa_runtime.ota.gate.shadow_test import ShadowReport, ShadowTest, run
from jepa_runtime.recording import messages
from jepa_runtime.sources.base import Frame, PassiveSource
from jepa_runtime.sources.factory import open_source
from jepa_sim.two_rooms_source import TwoRoomsSource
from tests.errors import code
from tests.ota.robots import settings
from tests.runtime.bags import IMAGE, arm_pose, floats, image, joints, twist, write_bag
from tests.runtime.fakes import FakeModel
from tests.scripts import load

STEP_NS = 200_000_000
RATIO = 1.25
bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")


@pytest.fixture(autouse=True)
def no_background_priority(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Next to other load, a process that yields to everything may stall for minutes."""
    if "yield_to_other_processes" not in request.node.name:
        monkeypatch.setattr(shadow.realtime, "stay_in_background", robot.no_op)


@pytest.fixture(scope="module")
def noisy(two_rooms_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return Two Rooms with enough noise on the predictor's weights to reach fewer goals."""
    pytest.importorskip("onnx", reason="onnx is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("noisy") / "bundle"
    variants = load("peers.variants")
    created: Bundle = variants.perturbed(Bundle.open(two_rooms_bundle), folder, noise=0.3, seed=0)
    return created


def quick() -> PairedTest:
    return PairedTest(min_frames=300, max_frames=1500, block_frames=30)


def compare(current: Path, candidate: Path | Bundle, source: Any = None, **changes: Any) -> ShadowReport:
    return run(
        lambda: WorldModel.open(current, precision="fp32"),
        lambda: WorldModel.open(candidate, precision="fp32"),
        source or TwoRoomsSource(seed=3, start_ns=0),
        quick(),
        **{"heartbeat": robot.no_op, "on_report": robot.no_op, "finite_source": False} | changes,
    )


def test_model_compared_with_itself_is_accepted(two_rooms_bundle: Path) -> None:
    report = compare(two_rooms_bundle, two_rooms_bundle)
    assert report.verdict is Verdict.ACCEPT
    assert report.summary.candidate == report.summary.current
    assert report.reason.startswith("the candidate was shown to be as good: its error is 0.")
    assert report.moving == report.summary.frames >= 300
    assert report.moving < report.predicted < report.frames


def test_model_with_noisy_weights_is_rejected(two_rooms_bundle: Path, noisy: Bundle) -> None:
    report = compare(two_rooms_bundle, noisy)
    assert report.verdict is Verdict.REFUSE
    assert report.reason.startswith("the candidate was shown to be worse")
    assert report.summary.candidate > 1.5 * report.summary.current


def test_better_model_replaces_a_worse_one(two_rooms_bundle: Path, noisy: Bundle) -> None:
    assert compare(noisy.path, two_rooms_bundle).verdict is Verdict.ACCEPT


def test_shadow_models_yield_to_other_processes_and_the_caller_keeps_its_policy(
    two_rooms_bundle: Path,
) -> None:
    seen: list[int] = []

    def open_model() -> WorldModel:
        seen.append(os.sched_getscheduler(0))
        return WorldModel.open(two_rooms_bundle)

    before, source = os.sched_getscheduler(0), TwoRoomsSource(seed=0, start_ns=0)
    run(
        open_model,
        open_model,
        source,
        quick(),
        heartbeat=robot.no_op,
        on_report=robot.no_op,
        finite_source=False,
    )
    assert seen == [os.SCHED_IDLE] * 2
    assert os.sched_getscheduler(0) == before


class Still(PassiveSource):
    """Return repeated frames of a robot commanded to stand, or (silent) without commands."""

    name, rate_hz = "still", 30.0

    def __init__(self, *, silent: bool = False, frames: int = 60, numbers: int = 2) -> None:
        self._silent, self._frames, self._numbers = silent, frames, numbers

    @property
    def command(self) -> np.ndarray | None:
        return None if self._silent else np.zeros(self._numbers, np.float32)

    def frames(self) -> Iterator[Frame]:
        image = next(TwoRoomsSource(seed=0).frames()).image
        for index in range(self._frames):
            yield Frame(image, index * 33_333_333, "camera", index)


def test_stationary_robot_leaves_the_candidate_undecided(two_rooms_bundle: Path) -> None:
    report = compare(two_rooms_bundle, two_rooms_bundle, Still())
    assert (report.verdict, report.frames, report.moving) == (Verdict.CONTINUE, 60, 0)
    assert report.reason.startswith(f"nothing moved on {report.predicted} frames")


def test_frames_without_actions_differ_from_frames_without_motion(two_rooms_bundle: Path) -> None:
    report = compare(two_rooms_bundle, two_rooms_bundle, Still(silent=True))
    assert report.reason.startswith(
        "none of 60 frames could be predicted: the actions between them are unknown"
    )


def test_camera_without_actions_times_out(two_rooms_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "_MAX_UNPREDICTED", 100)
    report = compare(two_rooms_bundle, two_rooms_bundle, Still(silent=True, frames=10**9))
    assert (report.verdict, report.frames) == (Verdict.CONTINUE, 100)
    assert "use a source with both" in report.reason
    for source, finite in ((Still(frames=200), False), (Still(silent=True, frames=200), True)):
        report = compare(two_rooms_bundle, two_rooms_bundle, source, finite_source=finite)
        assert report.frames == 200, "it may drive at any moment"


def test_commands_of_another_robot_are_reported(two_rooms_bundle: Path) -> None:
    with pytest.raises(UpdateError, check=code("gate.shadow_commands_mismatch")):
        compare(two_rooms_bundle, two_rooms_bundle, Still(numbers=3))


def test_recorded_commands_in_another_order_are_rejected(two_rooms_bundle: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.5), image(0), image(10**8)])
    with (
        closing(open_source(f"{bag}?action=/cmd_vel:linear.y,linear.x")) as source,
        pytest.raises(
            SourceError,
            match=r"its actions are linear\.y .*; the model's actions are linear\.x",
            check=code("source.action_mismatch"),
        ),
    ):
        compare(two_rooms_bundle, two_rooms_bundle, source)


ARM = "action=/effort&state=/pose;/joint_states:position.finger"


def arm_drive(path: Path, *, count: int, late_ms: int = 0) -> Path:
    """Write a bag of a moving arm with images, commands and poses every 0.2 s, these ``late_ms`` later."""
    random, entries = np.random.default_rng(0), []
    for index in range(count):
        stamp_ns = 10**9 + index * STEP_NS
        pixels = random.integers(0, 256, (bundles.SIZE, bundles.SIZE, 3), np.uint8)
        entries += [
            joints(stamp_ns + late_ms * 10**6 - 1, finger=0.3),
            arm_pose(stamp_ns + late_ms * 10**6, float(np.sin(index / 10)), yaw=0.4),
            floats(stamp_ns, *random.uniform(-0.05, 0.05, 7)),
            (stamp_ns, "/image", IMAGE, messages.image(pixels, stamp_ns, "camera")),
        ]
    return write_bag(path, entries)


def test_gate_compares_models_that_read_states_on_a_recording_with_them(
    arm_bundle: Path, tmp_path: Path
) -> None:
    bag = arm_drive(tmp_path / "arm.mcap", count=1400)
    given = {"model_id": "toy", "allow_untrained": True, "precision": "fp32"}
    reports: list[ShadowReport] = []
    gate = robot.LocalGate(settings(shadow=f"{bag}?{ARM}", **given), on_comparison=reports.append)
    accepted = gate.shadow(arm_bundle, arm_bundle, RATIO, comparisons=0)
    assert accepted is not None and accepted["moving"] > 0
    report = reports[-1]
    # Each error is that of a prediction from the state at the image one step before.
    scores, pasts = [], []
    with (
        WorldModel.open(arm_bundle, precision="fp32", allow_untrained=True) as model,
        closing(open_source(f"{bag}?{ARM}")) as source,
    ):
        for frame in islice(source.frames(), report.frames):
            latent = model.encode(frame.image)
            if pasts:
                before, state, action = pasts[-1]
                error = model.surprise(before[None], None, action, latent, history_states=state.values[None])
                change = float(np.sqrt(np.mean(np.square(latent - before))))
                scores.append(score(error, change))
            pasts.append((latent, source.state, source.command))
    assert len(scores) == report.predicted == report.moving
    assert report.summary.current == pytest.approx(np.mean(scores), rel=1e-4)


def test_gate_without_the_states_that_the_models_read_explains_what_to_record(
    arm_bundle: Path, tmp_path: Path
) -> None:
    bag = arm_drive(tmp_path / "arm.mcap", count=12)
    given = {"model_id": "toy", "allow_untrained": True, "precision": "fp32"}
    gate = robot.LocalGate(settings(shadow=f"{bag}?action=/effort", **given))
    with pytest.raises(SourceError, match="state=TOPIC", check=code("source.state_missing")):
        gate.shadow(arm_bundle, arm_bundle, RATIO, comparisons=0)
    other = robot.LocalGate(settings(shadow=f"{bag}?action=/effort&state=/pose", **given))
    with pytest.raises(SourceError, check=code("source.state_mismatch")):
        other.shadow(arm_bundle, arm_bundle, RATIO, comparisons=0)


def test_gate_with_states_far_from_the_images_names_them(arm_bundle: Path, tmp_path: Path) -> None:
    bag = arm_drive(tmp_path / "arm.mcap", count=30, late_ms=100)
    given = {"model_id": "toy", "allow_untrained": True, "precision": "fp32"}
    gate = robot.LocalGate(settings(shadow=f"{bag}?{ARM}", **given))
    with pytest.raises(UpdateError, match="no state of the robot", check=code("gate.shadow_too_few_frames")):
        gate.shadow(arm_bundle, arm_bundle, RATIO, comparisons=0)


def test_shadow_comparison_stops_on_request(two_rooms_bundle: Path) -> None:
    heartbeat = Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        compare(two_rooms_bundle, two_rooms_bundle, heartbeat=heartbeat)
    assert heartbeat.call_count == 1


def test_interrupted_caller_does_not_wait_for_the_verdict(two_rooms_bundle: Path) -> None:
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        compare(two_rooms_bundle, two_rooms_bundle, Still(frames=10**9))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jepa-shadow")]


def test_failing_source_is_not_a_verdict(two_rooms_bundle: Path) -> None:
    class Broken(Still):
        def frames(self) -> Iterator[Frame]:
            yield from super().frames()
            raise SourceError("the bag is damaged", code="test.damaged")

    with pytest.raises(SourceError, check=code("test.damaged")):
        compare(two_rooms_bundle, two_rooms_bundle, Broken())


def test_gate_compares_models_on_the_source_of_the_robot(two_rooms_bundle: Path, noisy: Bundle) -> None:
    heartbeats: list[None] = []
    named = settings(shadow="two_rooms?seed=1", model_id="two_rooms")
    gate = robot.LocalGate(named, lambda: heartbeats.append(None))
    reported = gate.shadow(two_rooms_bundle, two_rooms_bundle, RATIO, comparisons=0)
    assert reported is not None and 0 < reported["moving"] <= reported["frames"] == len(heartbeats)
    with pytest.raises(ReleaseRejectedError, check=code("gate.shadow_rejected")):
        gate.shadow(two_rooms_bundle, noisy.path, RATIO, comparisons=0)
    nowhere = robot.LocalGate(settings())
    assert nowhere.shadow(two_rooms_bundle, two_rooms_bundle, RATIO, comparisons=0) is None


def test_repeated_comparison_requires_stronger_evidence(
    two_rooms_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests: list[PairedTest] = []

    def run(_: object, __: object, ___: object, test: PairedTest, **____: object) -> ShadowReport:
        tests.append(test)
        for number in range(600):
            test.add(0.2, 0.2 + 0.1 * (number // 60 % 2))
        return ShadowReport(Verdict.ACCEPT, "", test.summary(), 600, 600, 600)

    monkeypatch.setattr(shadow, "run", run)
    gate = robot.LocalGate(settings(), frames=Still)
    for comparisons in range(4):
        gate.shadow(two_rooms_bundle, two_rooms_bundle, RATIO, comparisons=comparisons)
    highs = [test.summary().high for test in tests]
    assert len(highs) == 4 and highs == sorted(set(highs))


def test_gate_accepts_frames_of_the_server_and_reports_progress(
    two_rooms_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "_REPORT_S", 0.2)
    messages: list[ShadowReport] = []

    class Elsewhere(TwoRoomsSource):
        closed = False

        def close(self) -> None:
            super().close()
            self.closed = True

    source = Elsewhere(seed=1, start_ns=0)
    named = settings(model_id="two_rooms", shadow="/nowhere")
    gate = robot.LocalGate(named, frames=lambda: source, on_comparison=messages.append)
    began = time.monotonic()
    end = gate.shadow(two_rooms_bundle, two_rooms_bundle, RATIO, comparisons=0)
    assert end is not None and source.closed
    assert 2 <= len(messages) <= (time.monotonic() - began) / 0.2 + 1
    frames = [report.frames for report in messages]
    assert frames == sorted({*frames}) and frames[-1] == end["frames"]
    assert [report.verdict for report in messages[:-1]] == [Verdict.CONTINUE] * (len(messages) - 1)
    assert messages[-1].verdict is Verdict.ACCEPT


@pytest.mark.parametrize(
    ("frames", "fails", "error"),
    [(1199, False, UpdateError), (1201, False, InconclusiveError), (1201, True, InconclusiveError)],
)
def test_comparison_that_ends_early_counts_once_its_test_has_looked(
    two_rooms_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    frames: int,
    fails: bool,
    error: type[UpdateError],
) -> None:
    def run(_: object, __: object, ___: object, test: PairedTest, **____: object) -> ShadowReport:
        for number in range(frames):
            test.add(0.2, 0.2 + 0.02 * (number // 60 % 2))
        if fails:
            raise SourceError("the camera is gone")
        return ShadowReport(test.verdict, "too few frames", test.summary(), frames, frames, frames)

    monkeypatch.setattr(shadow, "run", run)
    gate = robot.LocalGate(settings(), frames=Still)
    with pytest.raises(UpdateError) as raised:
        gate.shadow(two_rooms_bundle, two_rooms_bundle, 1.05, comparisons=0)
    assert type(raised.value) is error


def test_source_with_too_few_frames_is_named(two_rooms_bundle: Path) -> None:
    gate = robot.LocalGate(settings(model_id="two_rooms"), frames=Still)
    with pytest.raises(UpdateError, check=code("gate.shadow_too_few_frames")):
        gate.shadow(two_rooms_bundle, two_rooms_bundle, RATIO, comparisons=0)


class Counter(FakeModel):
    """A model that predicts the mean of a frame with the error ``off``, in a latent space of ``scale``."""

    def __init__(self, *, off: float, scale: float = 1.0) -> None:
        super().__init__()
        self.manifest.error_bounds = [0.5]
        self._off, self._scale = off, scale

    def encode(self, frame: np.ndarray) -> np.ndarray:
        return self._scale * super().encode(frame)

    def surprise(
        self, previous: Any, history_actions: Any, action: Any, arrived: Any, *, history_states: None = None
    ) -> float:
        expected = previous[-1] + self._scale * (action[0] + self._off)
        return float(np.sqrt(np.mean((expected - arrived) ** 2)))


def shadowed(current: Counter, candidate: Counter) -> ShadowReport:
    shadow = ShadowTest(current, candidate, PairedTest(min_frames=40, max_frames=200, block_frames=4))  # type: ignore[arg-type]
    random, brightness = np.random.default_rng(0), 100
    for index in range(200):
        change = int(random.integers(2, 5)) * (1 if brightness < 125 else -1)
        image = np.full((4, 4, 3), brightness, np.uint8)
        brightness += change
        if (
            shadow.add(Frame(image, index * STEP_NS, "c", index), np.array([change, 0]))
            is not Verdict.CONTINUE
        ):
            break
    return shadow.report()


def test_candidate_with_its_own_latent_space_is_accepted() -> None:
    report = shadowed(Counter(off=0.5), Counter(off=0.5, scale=100.0))
    assert report.verdict is Verdict.ACCEPT
    assert report.summary.candidate == pytest.approx(report.summary.current, abs=1e-6)


def test_candidate_with_larger_errors_is_rejected_in_any_latent_space() -> None:
    assert shadowed(Counter(off=0.5), Counter(off=1.0, scale=0.01)).verdict is Verdict.REFUSE


def test_candidate_with_collapsed_latents_is_rejected() -> None:
    assert shadowed(Counter(off=0.5), Counter(off=0.5, scale=0.0)).verdict is Verdict.REFUSE


class Sleeper(Counter):
    """A model whose latents are ``noise`` of standard deviation 1 without cause; it predicts their mean."""

    def __init__(self, noise: float) -> None:
        super().__init__(off=0.0)
        self._noise, self._random = noise, np.random.default_rng(1)

    def encode(self, frame: np.ndarray) -> np.ndarray:
        latent = super().encode(frame)
        return (self._noise * self._random.standard_normal(latent.shape)).astype(np.float32)

    def surprise(
        self, previous: Any, history_actions: Any, action: Any, arrived: Any, *, history_states: None = None
    ) -> float:
        return float(np.sqrt(np.mean(arrived**2)))


@pytest.mark.parametrize("noise", [1.0, 0.0])
def test_candidate_with_uninformative_latents_is_rejected_next_to_a_bad_model(noise: float) -> None:
    """A ramp up and down; the active model misses 0.44 of each change, noise 0.41 of its own."""
    active: Any = Counter(off=2.4)
    sleeps: Any = Sleeper(noise)
    test = PairedTest(min_frames=200, max_frames=800, block_frames=4, margin=0.25)
    shadow = ShadowTest(active, sleeps, test)
    for index in range(1000):
        change = 3 if index % 80 < 40 else -3
        brightness = 60 + 3 * min(index % 80, 80 - index % 80)
        image = np.full((4, 4, 3), brightness, np.uint8)
        action = np.array([change, 0])
        if shadow.add(Frame(image, index * STEP_NS, "c", index), action) is not Verdict.CONTINUE:
            break
    report = shadow.report()
    assert report.verdict is Verdict.REFUSE
    assert report.summary.candidate < 1.25 * report.summary.current, "by its error alone it would pass"
    assert report.reason.startswith("the candidate's latents change as much in one step as over many")


@pytest.mark.parametrize(("period", "scale"), [(40, 2.0), (60, 2.0), (120, 2.0), (160, 0.001), (160, 1000.0)])
def test_robot_with_repeated_motion_accepts_equal_models(period: int, scale: float) -> None:
    """If 120 frames are whole periods, all latents return to their start over them."""
    active, candidate = Counter(off=0.5), Counter(off=0.5, scale=scale)
    test = PairedTest(min_frames=200, max_frames=800, block_frames=4)
    shadow = ShadowTest(active, candidate, test)  # type: ignore[arg-type]
    for index in range(1000):
        at = index % period
        change = 2 if at < period // 2 else -2
        image = np.full((4, 4, 3), 60 + 2 * min(at, period - at), np.uint8)
        action = np.array([change, 0])
        if shadow.add(Frame(image, index * STEP_NS, "c", index), action) is not Verdict.CONTINUE:
            break
    assert shadow.report().verdict is Verdict.ACCEPT


def test_candidate_that_predicts_nan_is_rejected_immediately() -> None:
    report = shadowed(Counter(off=0.5), Counter(off=float("nan")))
    assert (report.verdict, report.moving) == (Verdict.REFUSE, 1)
    assert report.reason.startswith("the candidate predicted NaN or infinity")
