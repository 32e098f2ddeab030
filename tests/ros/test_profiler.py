"""The profiler: what it makes of moments, and the whole of it on a running graph."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("psutil", reason="psutil is not installed (extra dev)")
pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

import psutil
from diagnostic_msgs.msg import DiagnosticArray
from jepa_msgs.msg import LatentState, PredictedFutures, StageTimes
from jepa_ros import qos
from jepa_ros.conversions import from_time, to_image
from jepa_ros.profiling.ledger import Inside, Ledger
from jepa_ros.profiling.view import summary
from jepa_ros.stage_times import StageClock
from rich.console import Console
from sensor_msgs.msg import Image

from jepa_runtime.cli import main as jepa_runtime
from jepa_runtime.profiling.profile import Profile, read_profile
from jepa_runtime.sources.base import Frame
from tests.runtime.profiles import make_profile

pytestmark = pytest.mark.ros

MS = 1_000_000
START, OFFSET = 50 * MS, 7_000 * MS
STAGES = {"decode": 1.0, "encode": 4.0, "predict": 2.0, "energy": 0.0, "message": 0.5, "publish": 1.0}


def ledger(frames: int = 3) -> Ledger:
    return Ledger(start_ns=START, rate_hz=100.0, offset_ns=OFFSET, frames=frames)


def inside(due_ns: int, **changes) -> Inside:
    """Received 1 ms after it was due, its first result handed over 10 ms later."""
    given = {"received_ns": due_ns + MS, "published_ns": due_ns + 11 * MS, "stages_ms": STAGES}
    return Inside(**(given | changes))


def answer(book: Ledger, index: int, after_ns: int = 12 * MS, **changes) -> None:
    """Everything that is known of an image whose futures came ``after_ns`` it was due."""
    due = book.due_ns(index)
    book.add_sent(index, due + MS // 2)
    book.add_inside(due + OFFSET, inside(due, **changes))
    book.add_futures(due + OFFSET, due + after_ns)


class TestLedger:
    def test_latency_counts_from_the_moment_an_image_was_due_and_its_stages_adjoin(self):
        book = ledger(1)
        answer(book, 0)
        run = book.run(deadline_ms=10.0)
        stages = {name: values[0] for name, values in run.stages_ms.items()}
        assert run.latency_ms == [12.0] and run.scheduled_s == [0.0]
        assert stages["receive"] == 0.5 and stages["transport"] == 0.5 and stages["delivery"] == 1.0
        assert sum(stages.values()) == pytest.approx(0.5 + 0.5 + sum(STAGES.values()) + 1.0)
        assert "energy" not in stages and "no goal" in run.absent["energy"]
        assert "once the futures are sent" in run.absent["surprise"]

    def test_a_result_that_is_here_before_the_call_to_publish_returns_is_not_counted_twice(self):
        book = ledger(1)
        answer(book, 0, after_ns=10_400_000)
        stages = book.run(10.0).stages_ms
        assert stages["publish"] == [pytest.approx(0.4)] and "delivery" not in stages

    def test_a_device_tells_its_own_times_of_the_images_that_it_saw(self):
        book = ledger(2)
        answer(book, 0, device_ms={"encode": 3.5})
        book.add_sent(1, book.due_ns(1))
        book.add_futures(book.due_ns(1) + OFFSET, book.due_ns(1) + 12 * MS)
        assert book.run(10.0).device_ms == {"encode": [3.5, 0.0]}

    def test_what_is_shown_counts_no_stage_that_an_image_did_not_go_through_and_no_lost_one_as_in_time(
        self, capsys
    ):
        book = ledger(3)
        answer(book, 0, device_ms={"encode": 3.5, "predict": 1.5})
        answer(book, 1, device_ms={"encode": 3.5}, stages_ms=STAGES | {"predict": 0.0})
        book.add_sent(2, book.due_ns(2))
        Console(width=120).print(summary(make_profile(run=book.run(deadline_ms=100.0))))
        rows = [line.strip("│ ").split("  ") for line in capsys.readouterr().out.splitlines()]
        shown = {cells[0]: cells[-1].strip() for cells in rows}
        assert (shown["encode"], shown["predict"], shown["later than 100 ms or never"]) == ("2", "1", "1")
        assert (shown["encode, by the device's clock"], shown["predict, by the device's clock"]) == ("2", "1")

    def test_images_without_a_result_were_dropped_or_failed_and_those_never_sent_do_not_count(self):
        book = ledger(5)
        answer(book, 0)
        book.add_sent(1, book.due_ns(1))
        book.add_sent(2, book.due_ns(2))
        failed = inside(book.due_ns(2), published_ns=None, stages_ms={}, error="engine gone")
        book.add_inside(book.due_ns(2) + OFFSET, failed)
        run = book.run(10.0)
        assert (run.scheduled_s, run.dropped_s, run.failed_s) == ([0.0], [0.01], [0.02])
        assert any("engine gone" in note for note in book.notes())

    def test_where_nothing_is_predicted_the_latent_is_the_result(self):
        book = ledger(1)
        book.add_sent(0, START)
        book.add_latent(START + OFFSET, START + 9 * MS)
        assert not book.run(10.0).latency_ms, "futures may still come"
        book.add_inside(START + OFFSET, inside(START, stages_ms=STAGES | {"predict": 0.0}))
        assert book.run(10.0).latency_ms == [9.0]
        assert any("1 images gave a latent" in note for note in book.notes())

    def test_images_that_came_before_the_run_are_not_part_of_it(self):
        book = ledger()
        for stamp in (START + OFFSET - 10 * MS, START + OFFSET + 1, START + OFFSET + 30 * MS):
            book.add_futures(stamp, START)
        book.add_sent(0, START)
        assert not book.run(10.0).latency_ms

    def test_it_is_idle_when_everything_is_known_about_the_newest_image(self):
        book = ledger()
        assert book.idle
        book.add_sent(0, START)
        assert not book.idle
        answer(book, 0)
        assert book.idle

    @given(
        st.lists(st.sampled_from(["answered", "dropped", "failed"]), min_size=1, max_size=30),
        st.integers(0, 20 * MS),
    )
    def test_every_image_is_accounted_for_and_stages_never_exceed_the_latency(self, fates, delay_ns):
        book = ledger(len(fates))
        for index, fate in enumerate(fates):
            due = book.due_ns(index)
            book.add_sent(index, due)
            if fate == "answered":
                answer(book, index, after_ns=10 * MS + delay_ns)
            if fate == "failed":
                book.add_inside(due + OFFSET, inside(due, published_ns=None, stages_ms={}, error="no"))
        run = book.run(10.0)
        counts = [len(run.scheduled_s), len(run.dropped_s), len(run.failed_s)]
        assert counts == [fates.count(fate) for fate in ("answered", "dropped", "failed")]
        for latency, *stages in zip(run.latency_ms, *run.stages_ms.values(), strict=True):
            assert min(stages) >= 0 and sum(stages) <= latency + 1e-3


class Publisher:
    """Keeps what is published, for as many subscribers as it is given."""

    def __init__(self, subscribers: int) -> None:
        self.sent: list[StageTimes] = []
        self.subscribers = subscribers

    def get_subscription_count(self) -> int:
        return self.subscribers

    def publish(self, message: StageTimes) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("subscribers", [0, 1])
def test_stage_times_are_sent_only_to_those_who_listen(subscribers):
    publisher = Publisher(subscribers)
    clock = StageClock({StageTimes: publisher})
    for stamp in (1, 2):
        clock.arrived(stamp, time.time_ns())
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 2, "eye", 1)
    clock.fail(frame, ValueError("engine gone"))
    assert [(from_time(message.header.stamp), message.error) for message in publisher.sent] == [
        (2, "engine gone")
    ] * subscribers


def test_the_first_message_about_an_image_is_timed_and_what_came_after_it_is_not_told():
    publishers = {StageTimes: Publisher(1), PredictedFutures: Publisher(1), LatentState: Publisher(1)}
    clock = StageClock(publishers)
    result = SimpleNamespace(
        stamp_ns=7,
        frame_id="eye",
        futures=object(),
        timings_ms={"wait": 1.0, "encode": 2.0, "surprise": 3.0, "total": 4.0},
        device_ms={"encode": 1.5},
    )
    for _ in range(2):
        clock.arrived(7, time.time_ns())
        clock.send(PredictedFutures, lambda: time.sleep(0.02))
        clock.send(LatentState, lambda: time.sleep(0.05))
        clock.finish(result)
    told = publishers[StageTimes].sent
    assert len(told) == 2 and len(publishers[LatentState].sent) == 2
    for message in told:
        assert list(message.names) == ["decode", "wait", "encode", "message", "publish"]
        assert 20 <= message.milliseconds[3] < 50
        assert (list(message.device_names), list(message.device_milliseconds)) == (["encode"], [1.5])


# --- on a running graph


def command(out: Path, *options: object) -> list[str]:
    return [sys.executable, "-m", "jepa_ros.nodes.profiler", "--out", str(out), *map(str, options)]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def profile(out: Path, *options: object, code: int = 0, **changes: str) -> tuple[Profile, str]:
    """The profile that a run leaves, and what it said."""
    done = subprocess.run(
        command(out, *options), env=environment(**changes), capture_output=True, text=True, timeout=60
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return read_profile(out), said


def refused(out: Path, *options: object, **changes: str) -> str:
    """What a run said that could not be made; it leaves no profile."""
    done = subprocess.run(
        command(out, *options), env=environment(**changes), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stdout
    assert not out.exists()
    return done.stderr


def frames(found: Profile) -> int:
    return len(found.run.scheduled_s) + len(found.run.dropped_s) + len(found.run.failed_s)


def residuals(found: Profile) -> np.ndarray:
    return np.array(found.run.latency_ms) - np.sum(list(found.run.stages_ms.values()), axis=0)


def test_a_profile_accounts_for_every_image_and_for_its_time(two_rooms_bundle, tmp_path):
    found, said = profile(
        tmp_path / "a" / "p.json",
        *("--bundle", two_rooms_bundle, "--source", "two_rooms", "--rate", 20, "--duration", 6),
        *("--futures", 16, "--size", "96x64"),
    )
    run, subject = found.run, found.subject
    assert frames(found) == 120 and len(run.latency_ms) > 100
    assert min(run.latency_ms) > 0 and run.deadline_ms == 50.0
    expected = [
        "receive",
        "transport",
        "decode",
        "wait",
        "preprocess",
        "encode",
        "predict",
        "energy",
    ]
    assert [*expected, "message", "publish", "delivery"] == list(run.stages_ms)
    assert min(run.stages_ms["transport"]) > 0
    assert min(residuals(found)) > -0.01, "no stage is counted twice"
    assert np.median(residuals(found)) < 0.1 * np.median(run.latency_ms)
    assert (subject.model_id, subject.futures, subject.frame_size) == ("two_rooms", 16, (96, 64))
    assert found.kind == "ros" and "rmw" in found.environment.versions
    rss = next(reading for reading in found.readings if reading.name == "rss")
    assert min(rss.values) > 50, "that of the node"
    assert "120" in said and "transport" in said


@pytest.mark.slow
def test_a_recorded_bag_is_played_again_and_again(two_rooms_bundle, tmp_path):
    bag = tmp_path / "bag.mcap"
    record = ["run", "--bundle", str(two_rooms_bundle), "--source", "two_rooms", "--duration", "0.5"]
    assert jepa_runtime([*record, "--mcap", str(bag)]) == 0
    found, _ = profile(
        tmp_path / "p.json", "--bundle", two_rooms_bundle, "--source", bag, "--rate", 20, "--duration", 2
    )
    assert frames(found) == 40
    assert any("15 images" in note and "repeated" in note for note in found.notes)


@pytest.mark.slow
def test_a_world_model_that_runs_already_is_measured_and_left_running(ros_graph, toy_bundle, tmp_path):
    domain = {"ROS_DOMAIN_ID": str(ros_graph.observer.context.get_domain_id())}
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    ros_graph.until(lambda: ros_graph.log("world_model").read_text(), "the world model")
    options = ("--attach", "/world_model", "--source", "two_rooms", "--rate", 20, "--duration", 2)
    found, _ = profile(tmp_path / "p.json", *options, "--topic", "image", **domain)
    assert frames(found) == 40 and found.run.latency_ms
    assert found.subject.model_id and found.subject.threads is None
    wrong = refused(tmp_path / "q.json", *options, "--topic", "camera/other", **domain)
    assert "camera/other: nobody subscribes" in wrong and "/image" in wrong
    other = refused(tmp_path / "q.json", "--attach", "/eye", *options[2:], **domain)
    assert "/eye" in other and "/world_model" in other
    assert ros_graph.stop("world_model") == 0


@pytest.mark.slow
def test_of_several_cameras_the_one_whose_images_are_published_is_measured(ros_graph, toy_bundle, tmp_path):
    domain = {"ROS_DOMAIN_ID": str(ros_graph.observer.context.get_domain_id())}
    cameras = {"bundle": toy_bundle, "allow_untrained": True, "cameras": ["front/image", "rear"]}
    ros_graph.start("world_model", cameras, ("__ns:=/robot",))
    ros_graph.until(lambda: ros_graph.log("world_model").read_text(), "the world model")
    options = ("--attach", "/robot/world_model", "--source", "two_rooms", "--rate", 20, "--duration", 2)
    found, _ = profile(tmp_path / "p.json", *options, "--topic", "robot/front/image", **domain)
    assert frames(found) == 40 and found.run.latency_ms and found.run.stages_ms["transport"]
    assert not any("STALE" in note for note in found.notes), "that is the other camera"
    assert ros_graph.stop("world_model") == 0


def started(out: Path, bundle: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A profile of a minute that has begun to measure, and its processes: the world model and the camera."""
    options = (
        "--bundle",
        bundle,
        "--source",
        "two_rooms",
        "--rate",
        20,
        "--duration",
        60,
        "--allow-untrained",
    )
    profiler = subprocess.Popen(
        command(out, *options), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert profiler.stdout is not None and "measuring 60 s" in (said := profiler.stdout.readline()), said
    time.sleep(1)
    return profiler, psutil.Process(profiler.pid).children()


@pytest.mark.slow
def test_a_node_that_dies_drops_the_images_after_and_is_named(toy_bundle, tmp_path):
    profiler, children = started(tmp_path / "p.json", toy_bundle)
    next(child for child in children if "num_samples:=0" in child.cmdline()).kill()
    time.sleep(1)
    profiler.send_signal(signal.SIGINT)
    said, _ = profiler.communicate(timeout=30)
    assert profiler.returncode == 1, said
    found = read_profile(tmp_path / "p.json")
    assert found.run.latency_ms and max(found.run.dropped_s) > max(found.run.scheduled_s)
    assert any("world_model ended with exit code -9" in note for note in found.notes)
    assert "world_model ended with exit code -9" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.slow
def test_stopped_it_leaves_what_was_measured_and_no_process(toy_bundle, tmp_path, number):
    profiler, children = started(tmp_path / "p.json", toy_bundle)
    profiler.send_signal(number)
    said, _ = profiler.communicate(timeout=30)
    assert profiler.returncode == 0, said
    found = read_profile(tmp_path / "p.json")
    assert 0 < len(found.run.latency_ms) <= frames(found) < 1200
    assert any("stopped after" in note for note in found.notes)
    assert len(children) == 2 and not any(child.is_running() for child in children)


def test_what_cannot_be_measured_is_told(two_rooms_bundle, tmp_path):
    options = ("--source", "two_rooms", "--rate", 20, "--duration", 1)
    assert "no bundle there" in refused(tmp_path / "p.json", "--bundle", tmp_path / "nothing", *options)
    unknown = refused(tmp_path / "p.json", "--bundle", two_rooms_bundle, "--source", tmp_path / "no.mp4")
    assert "no.mp4: no such file" in unknown


def test_stage_times_bear_the_images_stamp_and_are_in_order(ros_graph, toy_bundle):
    times = ros_graph.listen(StageTimes, "world_model/stage_times")
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True})
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)
    ros_graph.until(lambda: times, "stage times", meanwhile=lambda: camera.publish(image()))
    sent = image()
    camera.publish(sent)
    ros_graph.until(lambda: times[-1].header == sent.header and futures[-1].header == sent.header, "both")
    last = times[-1]
    received, published = from_time(last.received), from_time(last.published)
    assert from_time(sent.header.stamp) < received < published < time.time_ns()
    assert last.names[0] == "decode" and last.names[-2:] == ["message", "publish"]
    assert 0 < sum(last.milliseconds) <= (published - received) / 1e6 + 0.05
    assert not last.error


def test_diagnostics_warn_over_the_budget_turn_to_error_after_a_run_and_stale_in_silence(
    ros_graph, toy_bundle
):
    levels: list[int] = []
    ros_graph.observer.create_subscription(
        DiagnosticArray, "/diagnostics", lambda message: levels.append(message.status[0].level[0]), qos.RESULT
    )
    given = {"bundle": toy_bundle, "allow_untrained": True, "deadline_ms": 0.1, "max_miss_run": 100_000}
    ros_graph.start("world_model", given)
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)
    ros_graph.until(lambda: 1 in levels, "WARN", meanwhile=lambda: camera.publish(image()))
    assert 2 not in levels
    assert ros_graph.set_parameter("world_model", "max_miss_run", 5) == ""
    ros_graph.until(lambda: 2 in levels, "ERROR", meanwhile=lambda: camera.publish(image()))
    ros_graph.until(lambda: levels[-1] == 3, "STALE")


def image() -> Image:
    pixels = np.zeros((48, 64, 3), np.uint8)
    return to_image(pixels, stamp_ns=time.time_ns(), frame_id="eye")
