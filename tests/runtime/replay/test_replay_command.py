"""``jepa-runtime replay``: bit-for-bit equal outputs, or their differences."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.cli import main
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.recording import messages
from jepa_runtime.replay.bag_inputs import BagInputs
from jepa_runtime.replay.player import Player
from jepa_runtime.replay.replay import replay_bag
from tests.bundles import HORIZON, make_bundle
from tests.runtime.bags import Entry, image, twist, write_bag
from tests.runtime.replay.bag_messages import messages_of
from tests.runtime.replay.conftest import Recorded, record

MS = 1_000_000
S = 1_000 * MS
FUTURES, LATENT, SURPRISE = (f"/world_model/{name}" for name in ("futures", "latent", "surprise"))

Replay = Callable[..., tuple[int, str]]


@pytest.fixture
def run(bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Return the exit status and the output."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(bag: Path, out: Path, *options: str, model: Path = bundle) -> tuple[int, str]:
        status = main(["replay", str(bag), str(model), "--output", str(out), *options])
        output = capsys.readouterr()
        return status, output.out + output.err

    return run


def frames(count: int, *, every_ms: int = 100) -> list[Entry]:
    return [image(S + index * every_ms * MS, value=10 * index % 256) for index in range(count)]


def candidates(
    log_ns: int,
    stamp_ns: int,
    count: int = 2,
    steps: int = HORIZON,
    value: float = 0.25,
    delay_s: float = 0.0,
) -> Entry:
    actions = np.full((count, steps, 2), value, np.float32)
    fields = {
        "header": messages.header(stamp_ns, "front"),
        "delay_s": delay_s,
        "actions": messages.tensor("actions", actions),
        "source": "mine",
    }
    return log_ns, "/world_model/candidates", messages.ACTION_CANDIDATES, fields


def goal(log_ns: int, stamp_ns: int, value: int | None) -> Entry:
    size = (0, 0) if value is None else (6, 8)
    _, _, type_name, fields = image(stamp_ns, value or 0, size=size)
    return log_ns, "/goal_image", type_name, fields


# ------------------------------------------------------------------ reproducibility


def test_replay_in_two_processes_equals_the_live_outputs(recorded: Recorded, tmp_path: Path) -> None:
    start = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
    outs = [tmp_path / "first.mcap", tmp_path / "second.mcap"]
    command = [sys.executable, "-c", start, "replay", str(recorded.bag), str(recorded.bundle)]
    running = [
        subprocess.Popen(
            [*command, "--output", str(out), "--compare", "--json", "-"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for out in outs
    ]
    result: list[dict[str, Any]] = []
    for process in running:
        output, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, output + complaint
        result.append(json.loads(output))
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert result[0]["sha256"] == result[1]["sha256"]
    comparison = result[0]["comparison"]
    assert comparison["same"] and comparison["models"] == {}
    assert {name: topic["equal"] for name, topic in comparison["topics"].items()} == {
        LATENT: 20,
        FUTURES: 18,
        SURPRISE: 16,
    }
    assert result[0]["resets"] == {"first": 1}


def test_replay_reproduces_learned_bounds_and_alarms(bundle: Path, run: Replay, tmp_path: Path) -> None:
    watchful, bag, out = tmp_path / "watchful", tmp_path / "drive.mcap", tmp_path / "out.mcap"
    shutil.copytree(bundle, watchful)
    fields = Bundle.open(watchful).manifest.model_dump(mode="json")
    scores = {"data": "none", "block": HORIZON, "highest": [1e-3] * 3000}
    seal(watchful, fields | {"normal_scores": scores})
    record(bag, str(watchful), "--source", "two_rooms?seed=3", "--duration", "6")
    status, output = run(bag, out, "--compare", model=watchful)
    assert status == 0, output
    live, again = messages_of(bag), messages_of(out)
    assert len(again["/world_model/events"]) == len(live["/world_model/events"]) > 0
    first, last = again[FUTURES][0], again[FUTURES][-1]
    assert last.errors_seen[0] > 0 and first.error_bounds != last.error_bounds


def test_replay_with_more_threads_is_deterministic(recorded: Recorded, run: Replay, tmp_path: Path) -> None:
    outs = [tmp_path / "first.mcap", tmp_path / "second.mcap"]
    assert [run(recorded.bag, out, "--threads", "2")[0] for out in outs] == [0, 0]
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_replay_output_excludes_durations(recorded: Recorded, run: Replay, tmp_path: Path) -> None:
    assert run(recorded.bag, tmp_path / "out.mcap")[0] == 0
    result = messages_of(tmp_path / "out.mcap")
    assert {(state.preprocess_ms, state.encode_ms) for state in result[LATENT]} == {(0.0, 0.0)}
    assert {(futures.predict_ms, futures.deadline_missed) for futures in result[FUTURES]} == {(0.0, False)}


def test_replay_with_another_model_names_it_and_shows_the_first_difference(
    recorded: Recorded, run: Replay, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "other", history_size=2, seed=1)
    options = ("--compare", "--json", str(tmp_path / "out.json"))
    status, output = run(recorded.bag, tmp_path / "out.mcap", *options, model=tmp_path / "other")
    assert status == 3
    assert "different model: sha256" in output and "different" in output
    comparison = json.loads((tmp_path / "out.json").read_text())["comparison"]
    assert list(comparison["models"]) == ["sha256"]
    latent = comparison["topics"][LATENT]
    assert (latent["equal"], latent["different"]) == (0, 20)
    first = messages_of(recorded.bag)[LATENT][0].header.stamp
    assert latent["first_difference"]["stamp_ns"] == first.sec * S + first.nanosec
    assert latent["first_difference"]["fields"]["latent"] > 0


def test_replay_of_jpeg_frames_has_different_outputs(bundle: Path, run: Replay, tmp_path: Path) -> None:
    bag = tmp_path / "jpeg.mcap"
    source = ["--source", "two_rooms", "--rate", "10", "--duration", "0.5", "--jpeg"]
    assert main(["record", str(bundle), "--output", str(bag), *source]) == 0
    status, output = run(bag, tmp_path / "out.mcap", "--compare")
    assert status == 3 and "latent by" in output


def test_futures_in_half_precision_are_compared_in_half_precision(
    recorded: Recorded, run: Replay, tmp_path: Path
) -> None:
    status, output = run(recorded.bag, tmp_path / "out.mcap", "--futures-dtype", "float16", "--compare")
    assert status == 0, output
    half, full = (messages_of(path)[FUTURES][0] for path in (tmp_path / "out.mcap", recorded.bag))
    assert len(half.latents.data) == len(full.latents.data) / 2


def test_replay_copy_with_inputs_can_be_replayed(recorded: Recorded, run: Replay, tmp_path: Path) -> None:
    assert run(recorded.bag, tmp_path / "copy.mcap", "--copy-inputs")[0] == 0
    status, output = run(tmp_path / "copy.mcap", tmp_path / "out.mcap", "--compare", str(recorded.bag))
    assert status == 0, output
    assert "equal, bit for bit" in output


# ------------------------------------------------------------------ order of inputs


def test_replay_processes_every_frame_at_any_rate(run: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag.mcap", frames(300, every_ms=1))
    status, output = run(bag, tmp_path / "out.mcap", "--action", "none")
    assert status == 0 and output.startswith("300 frames")
    assert [state.sequence for state in messages_of(tmp_path / "out.mcap")[LATENT]] == list(range(300))


def test_replay_outputs_are_next_to_their_frames_when_the_clock_was_set_back(
    run: Replay, tmp_path: Path
) -> None:
    shown = [image(S + ms * MS, value=ms % 256) for ms in (0, 100, 200, 300, 50, 150, 250, 350)]
    logged = [(2 * S + index * 100 * MS, *entry[1:]) for index, entry in enumerate(shown)]
    bag = write_bag(tmp_path / "bag.mcap", logged)
    out = tmp_path / "out.mcap"
    assert run(bag, out, "--action", "none")[0] == 0
    with out.open("rb") as file:
        latents = list(make_reader(file).iter_messages([LATENT]))
    assert [message.log_time for _, _, message in latents] == [entry[0] for entry in logged]
    assert [message.sequence for message in messages_of(out)[LATENT]] == list(range(8))


def test_command_takes_effect_at_its_stamp(bundle: Path, run: Replay, tmp_path: Path) -> None:
    outs = {}
    for name, change_ms in (("early", 0), ("late", 150), ("after", 400)):
        entries = [twist(S - S // 2, 0.0), twist(S + change_ms * MS, 1.0), *frames(5)]
        bag = write_bag(tmp_path / f"{name}.mcap", entries)
        assert run(bag, tmp_path / f"{name}_out.mcap")[0] == 0
        outs[name] = messages_of(tmp_path / f"{name}_out.mcap")
    with WorldModel.open(bundle) as model:
        latents = [model.encode(np.full((6, 8, 3), value, np.uint8)) for value in (0, 20)]
        means = {"early": 1.0, "late": 0.25, "after": 0.0}
        for name, mean in means.items():
            expected = model.predict(
                messages.array_of(outs[name][FUTURES][0].actions),
                latents=np.stack(latents),
                history_actions=np.array([[mean, 0.0]], np.float32),
            )
            result = messages.array_of(outs[name][FUTURES][0].latents)
            np.testing.assert_array_equal(result, expected.latents)


def test_candidates_are_used_from_their_arrival_until_the_timeout(run: Replay, tmp_path: Path) -> None:
    proposed = candidates(S + 350 * MS, S + 300 * MS)
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.0), proposed, *frames(17)])
    assert run(bag, tmp_path / "out.mcap")[0] == 0
    followed = [
        (futures.candidates_source, futures.candidates_stamp.nanosec)
        for futures in messages_of(tmp_path / "out.mcap")[FUTURES]
    ]
    # The first two frames have no history; candidates are valid for a second.
    assert followed == [("fan", 0)] * 2 + [("mine", 300 * MS)] * 10 + [("fan", 0)] * 3


def test_candidates_with_a_delay_start_from_the_same_predicted_state_in_each_replay(
    run: Replay, tmp_path: Path
) -> None:
    moving, delayed = twist(0, 0.5), candidates(S + 50 * MS, S, delay_s=0.25)
    bag = write_bag(tmp_path / "bag.mcap", [moving, delayed, *frames(6)])
    outputs = []
    for name in ("first.mcap", "second.mcap"):
        assert run(bag, tmp_path / name)[0] == 0
        outputs.append(messages_of(tmp_path / name)[FUTURES][-1])
    first, second = outputs
    assert messages.from_time(first.start) - messages.from_time(first.header.stamp) == 250 * MS
    np.testing.assert_allclose(first.horizon_s, 0.25 + 0.2 * np.arange(1, HORIZON + 1))
    np.testing.assert_array_equal(messages.array_of(first.latents), messages.array_of(second.latents))
    undelayed = write_bag(tmp_path / "at.mcap", [moving, candidates(S + 50 * MS, S), *frames(6)])
    assert run(undelayed, tmp_path / "third.mcap")[0] == 0
    at_image = messages_of(tmp_path / "third.mcap")[FUTURES][-1]
    assert messages.from_time(at_image.start) == messages.from_time(at_image.header.stamp)
    assert not np.array_equal(messages.array_of(at_image.latents), messages.array_of(first.latents))


def test_invalid_candidates_are_rejected_as_in_service(run: Replay, tmp_path: Path) -> None:
    entries = [twist(0, 0.0), candidates(S, S, steps=HORIZON + 1), *frames(5)]
    status, output = run(write_bag(tmp_path / "bag.mcap", entries), tmp_path / "out.mcap")
    assert status == 0
    assert "1 inputs rejected, as by the nodes; the last: candidates: actions must be [1..8, 4, 2]" in output


def test_candidates_with_non_finite_futures_are_rejected_and_no_frame_fails(
    run: Replay, tmp_path: Path
) -> None:
    entries = [twist(0, 0.0), candidates(S, S, value=1e38), *frames(5)]
    status, output = run(write_bag(tmp_path / "bag.mcap", entries), tmp_path / "out.mcap")
    assert status == 0
    assert "the last: candidates: actions must be finite and at most " in output


def test_goals_are_active_from_their_arrival_until_withdrawn(run: Replay, tmp_path: Path) -> None:
    goals = [goal(S + 250 * MS, 7, 50), goal(S + 400 * MS, 8, 60), goal(S + 550 * MS, 9, None)]
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.0), *goals, *frames(8)])
    assert run(bag, tmp_path / "out.mcap")[0] == 0
    goal_stamp = [
        futures.goal_stamp.nanosec if futures.has_goal else None
        for futures in messages_of(tmp_path / "out.mcap")[FUTURES]
    ]
    # From 0.2 s on; the goal recorded at the time of an image precedes it.
    assert goal_stamp == [None, 7, 8, 8, None, None]


# ------------------------------------------------------------------ rejected inputs


@pytest.mark.parametrize(
    ("entries", "options", "complaint"),
    [
        (frames(3), (), "no commands: there is no Twist on a topic cmd_vel: name the topic"),
        (frames(3), ("--action", "/joints"), "no commands on topic /joints; its topics: /image"),
        (
            [*frames(3), twist(S, 0.0)],
            ("--action", "/cmd_vel:linear.x"),
            "its actions are linear.x [m/s]; the model's actions are linear.x [m/s], linear.y [m/s]: select",
        ),
        (
            [*frames(3), twist(S, 0.0)],
            ("--action", "/cmd_vel:linear.y,linear.x"),
            "its actions are linear.y [m/s], linear.x [m/s]; the model's actions are linear.x [m/s]",
        ),
        (
            [*frames(3), twist(S, 0.0)],
            ("--action", "/cmd_vel:linear.x,angular.z"),
            "its actions are linear.x [m/s], angular.z [rad/s]; the model's actions are linear.x [m/s]",
        ),
        ([twist(S, 0.0)], (), "no images in this bag; its topics: /cmd_vel"),
        (
            [image(S, topic="/left"), image(S, topic="/right")],
            (),
            "several image topics: /left, /right: choose one with --topic",
        ),
        (frames(3), ("--action", "none", "--goal", "/aim"), "no goal images on topic /aim"),
        (frames(3), ("--action", "none", "--compare"), "no model outputs to compare with"),
        (frames(3), ("--action", "none", "--engine", "abacus:CPU"), "abacus"),
    ],
)
def test_missing_input_is_named(
    run: Replay, tmp_path: Path, entries: list[Entry], options: tuple[str, ...], complaint: str
) -> None:
    bag = write_bag(tmp_path / "bag.mcap", entries)
    status, output = run(bag, tmp_path / "out.mcap", *options)
    assert status == 1
    assert complaint in output
    assert not list(tmp_path.glob("*.partial"))


def test_incomparable_outputs_are_reported_before_the_computation(
    recorded: Recorded, run: Replay, tmp_path: Path
) -> None:
    out = tmp_path / "out.mcap"
    status, output = run(recorded.bag, out, "--compare", str(tmp_path / "other.mcap"))
    assert status == 1 and "other.mcap: no such file or folder" in output
    assert not out.exists()


def test_truncated_bag_is_rejected(recorded: Recorded, run: Replay, tmp_path: Path) -> None:
    bag = tmp_path / "cut.mcap"
    bag.write_bytes(recorded.bag.read_bytes()[:-1000])
    status, output = run(bag, tmp_path / "out.mcap")
    assert status == 1 and "cut.mcap: not a readable bag" in output


def test_replay_with_an_invalid_frame_leaves_no_file(run: Replay, tmp_path: Path) -> None:
    log_ns, topic, type_name, fields = image(S + 150 * MS)
    broken = (log_ns, topic, type_name, fields | {"encoding": "rgbx77"})
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.0), *frames(5), broken])
    status, output = run(bag, tmp_path / "out.mcap")
    assert status == 1 and "bag.mcap: image 2 cannot be used" in output
    assert [path.name for path in tmp_path.iterdir()] == ["bag.mcap"]


def test_replay_does_not_overwrite_its_source(run: Replay, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag.mcap", frames(2))
    before = bag.read_bytes()
    for mcap, summary in ((bag, tmp_path / "out.json"), (tmp_path / "out.mcap", bag)):
        status, output = run(bag, mcap, "--json", str(summary), "--action", "none")
        assert status == 1 and "which is read: write into another file" in output
        assert [path.name for path in tmp_path.iterdir()] == ["bag.mcap"]
        assert bag.read_bytes() == before


def test_replay_does_not_replace_another_recording(recorded: Recorded, run: Replay, tmp_path: Path) -> None:
    older = tmp_path / "older.mcap"
    older.write_bytes(b"an older recording")
    status, output = run(recorded.bag, older)
    assert status == 1 and "older.mcap already exists, and recordings are never replaced" in output
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older recording"]


def test_replay_does_not_overwrite_the_compared_bag(recorded: Recorded, run: Replay, tmp_path: Path) -> None:
    other = tmp_path / "again.mcap"
    shutil.copy(recorded.bag, other)
    status, output = run(recorded.bag, other, "--compare", str(other))
    assert status == 1 and "which is read: write into another file" in output
    assert other.read_bytes() == recorded.bag.read_bytes()


def test_replay_does_not_overwrite_a_file_of_the_replayed_folder(run: Replay, tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    bag = write_bag(folder / "drive_0.mcap", frames(2))
    (folder / "metadata.yaml").touch()
    before = bag.read_bytes()
    status, output = run(folder, bag, "--action", "none")
    assert status == 1 and f"lies in, {folder}, which is read" in output
    assert bag.read_bytes() == before


def test_stopped_replay_leaves_no_file(bundle: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag.mcap", [twist(0, 0.0), *frames(5)])

    def stop() -> None:
        raise KeyboardInterrupt

    inputs = BagInputs(bag, Bundle.open(bundle).manifest)
    with Player(lambda: WorldModel.open(bundle)) as player, pytest.raises(KeyboardInterrupt):
        replay_bag(inputs, player, tmp_path / "out.mcap", on_frame=stop)
    inputs.close()
    assert [path.name for path in tmp_path.iterdir()] == ["bag.mcap"]
