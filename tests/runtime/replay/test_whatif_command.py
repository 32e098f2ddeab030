"""``jepa-runtime whatif``: predictions for other actions from a moment in a recording."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.cli import main
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.replay import whatif as replay
from jepa_runtime.sources.factory import open_source
from tests.bundles import HORIZON, NUM_SAMPLES
from tests.pages import external
from tests.runtime.bags import image, twist, write_bag
from tests.runtime.replay.bag_messages import messages_of
from tests.runtime.replay.conftest import Recorded

MS = 1_000_000
S = 1_000 * MS

WhatIf = Callable[..., tuple[int, str]]


@pytest.fixture
def run(recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> WhatIf:
    """Return the exit status and the output."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*options: str, bag: Path = recorded.bag) -> tuple[int, str]:
        status = main(["whatif", str(bag), str(recorded.bundle), *options])
        output = capsys.readouterr()
        return status, output.out + output.err

    return run


@pytest.fixture
def run_whatif(run: WhatIf, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return the contents of the JSON file."""

    def run_whatif(*options: str) -> dict[str, Any]:
        path = tmp_path / "whatif.json"
        status, output = run(*options, "--json", str(path))
        assert status == 0, output
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    return run_whatif


def test_branch_equals_the_prediction_from_the_history(
    recorded: Recorded, run_whatif: Callable[..., dict[str, Any]]
) -> None:
    result = run_whatif("--at", "1", "--actions", "0.5,0;0,-0.5", "--actions", "executed")
    source = open_source(f"{recorded.bag}?action=/cmd_vel:linear.x,linear.y")
    drive = [(frame.image, source.command) for frame in source.frames()]
    goal = open_source(f"{recorded.bag}?topic=/goal_image")
    commands = np.array([command for _, command in drive], np.float32)
    # Commands came with every image, so a step of 0.2 s has two of them.
    steps = (commands[0::2] + commands[1::2]) / 2
    with WorldModel.open(recorded.bundle) as model:
        latents = [model.encode(image) for image, _ in drive]
        inputs = np.array([[0.5, 0], [0, -0.5], [0, -0.5], [0, -0.5]], np.float32)
        expected = model.predict(
            np.stack([inputs, steps[5:9]]),
            latents=np.stack([latents[8], latents[10]]),
            history_actions=steps[4:5],
            goal=model.encode(next(iter(goal.frames())).image),
        )
    assert (result["image"], result["horizon"], result["goal"]) == (10, HORIZON, True)
    assert [branch["label"] for branch in result["branches"]] == ["0.5,0;0,-0.5", "executed"]
    np.testing.assert_array_equal(result["branches"][0]["actions"], inputs)
    np.testing.assert_allclose(result["branches"][1]["actions"], steps[5:9], rtol=1e-6)
    assert expected.energies is not None
    for branch, energies in zip(result["branches"], expected.energies, strict=True):
        np.testing.assert_allclose(branch["energies"], energies, rtol=1e-5)
    errors = [
        float(np.linalg.norm(expected.latents[1, step] - latents[12 + 2 * step])) for step in range(HORIZON)
    ]
    np.testing.assert_allclose(result["branches"][1]["errors"], errors, rtol=1e-4)
    assert result["branches"][0]["errors"] is None
    assert result["error_bounds"] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert result["arrived"] == [True] * HORIZON


def test_branch_along_published_candidates_equals_the_published_futures(
    recorded: Recorded, run_whatif: Callable[..., dict[str, Any]]
) -> None:
    result = run_whatif("--at", "1", "--actions", "fan")
    published = messages_of(recorded.bag)["/world_model/futures"][8]
    energies = np.frombuffer(published.energies.data, np.float32).reshape(NUM_SAMPLES, HORIZON)
    np.testing.assert_array_equal(
        np.array([branch["energies"] for branch in result["branches"]], np.float32), energies
    )
    assert np.float32(result["current_energy"]) == np.float32(published.current_energy)


def test_branches_without_actions_are_the_fan_and_the_executed_one(
    run_whatif: Callable[..., dict[str, Any]],
) -> None:
    labels = [branch["label"] for branch in run_whatif("--at", "0.5")["branches"]]
    assert labels[:2] == ["executed", "fan (0,0)"] and len(set(labels)) == NUM_SAMPLES


def test_goal_may_be_a_frame_of_the_recording(run_whatif: Callable[..., dict[str, Any]]) -> None:
    here, elsewhere = (
        run_whatif("--at", "1", "--goal-at", when, "--actions", "0,0", "--horizon", "2")
        for when in ("1", "0.2")
    )
    assert here["current_energy"] == 0.0
    assert elsewhere["current_energy"] > 0
    assert len(here["branches"][0]["energies"]) == here["horizon"] == 2


def test_steps_after_the_end_have_no_error(run_whatif: Callable[..., dict[str, Any]]) -> None:
    result = run_whatif("--at", "1.5", "--actions", "executed", "--horizon", "3")
    assert result["arrived"] == [True, True, False]
    errors = result["branches"][0]["errors"]
    assert errors[2] is None and min(errors[:2]) > 0


def test_page_shows_each_future_as_frames_and_is_self_contained(
    run: WhatIf, tmp_path: Path, recorded: Recorded
) -> None:
    page = tmp_path / "new" / "whatif.html"
    status, output = run("--at", "1", "--actions", "executed", "--actions", "0.5,0", "--html", str(page))
    assert (
        status == 0 and "executed: error" in output and "energy to the goal" in output and "0.5,0" in output
    )
    text = page.read_text(encoding="utf-8")
    # The moment, the outcome, the goal, and two futures with the same number of steps.
    assert len(re.findall("<img src='data:image/jpeg;base64,", text)) == 2 + 3 * HORIZON
    assert external(text) == []
    assert text.count("<svg") == 2
    assert [path.name for path in page.parent.iterdir()] == ["whatif.html"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--at", "2.5"), "drive.mcap: no moment 2.5 s: its 20 images span 0 to 1.900 s"),
        (("--at", "1", "--goal-at", "9"), "[replay.no_such_moment]"),
        (("--at", "1", "--horizon", "5"), "[replay.horizon_out_of_range]"),
        (("--at", "1", "--actions", "0,0;" * 4 + "0,0"), "[replay.too_many_steps]"),
        (("--at", "1", "--actions", "0,0,0"), "2 components (linear.x, linear.y), got 3"),
        (("--at", "1", "--actions", "9,0"), "[replay.actions_beyond_limits]"),
        (("--at", "1", "--action", "none", "--actions", "executed"), "[replay.no_commands]"),
        (
            (
                "--at",
                "1.9",
            ),
            "the executed actions are unknown from 0.6 s after the moment on",
        ),
        (
            ("--at", "0", "--actions", "0,0"),
            "[replay.history_too_short]",
        ),
        (
            ("--at", "1", *["--actions", "0,0"] * 9),
            "[replay.too_many_sequences]",
        ),
        (("--at", "1", "--actions", "0,0", "--html", "/dev/null/x"), "/dev/null/x: cannot be written"),
    ],
)
def test_invalid_request_is_reported_in_one_line(
    run: WhatIf, options: tuple[str, ...], complaint: str
) -> None:
    status, output = run(*options)
    assert status == 1
    assert complaint in output
    assert output.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_unwritable_file_affects_neither_the_other_nor_the_table(run: WhatIf, tmp_path: Path) -> None:
    page = tmp_path / "whatif.html"
    status, output = run("--at", "1", "--json", "/dev/full", "--html", str(page))
    assert status == 1 and "/dev/full: cannot be written" in output
    assert page.exists() and "error bound" in output


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("name", ["drive.mcap", "plan.json"])
def test_whatif_does_not_overwrite_its_source(
    recorded: Recorded, run: WhatIf, tmp_path: Path, option: str, name: str
) -> None:
    bag, plan = Path(shutil.copy(recorded.bag, tmp_path)), tmp_path / "plan.json"
    plan.write_text("[[0.5, 0]]")
    status, output = run("--at", "1", "--actions", str(plan), option, str(tmp_path / name), bag=bag)
    assert status == 1 and f"{name}, which is read: write into another file" in output
    assert bag.read_bytes() == recorded.bag.read_bytes() and plan.read_text() == "[[0.5, 0]]"


def test_only_the_surroundings_of_the_moment_are_loaded_from_a_long_recording(
    run: WhatIf, tmp_path: Path
) -> None:
    entries = [image(S + index * 100 * MS, value=index % 256) for index in range(400)]
    bag = write_bag(tmp_path / "long.mcap", [twist(0, 0.0), *entries])
    result: list[dict[str, Any]] = []
    for around in ("2", "60"):
        options = ("--at", "20", "--goal-at", "39", "--around", around, "--actions", "0.5,0")
        assert run(*options, "--json", str(tmp_path / "a.json"), bag=bag)[0] == 0
        result.append(json.loads((tmp_path / "a.json").read_text()))
    near, all_of_it = result
    assert (near["image"], near["frames_searched"], all_of_it["frames_searched"]) == (
        200,
        41,
        400,
    )
    assert near["branches"][0]["energies"] == all_of_it["branches"][0]["energies"]


def test_unknown_bounds_are_shown_as_such(recorded: Recorded, tmp_path: Path) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "whatif.json"
    shutil.copytree(recorded.bundle, bundle)
    fields = Bundle.open(bundle).manifest.model_dump(mode="json")
    seal(bundle, fields | {"error_bounds": [0.0] * HORIZON})
    shown = ["--html", str(tmp_path / "whatif.html"), "--json", str(out)]
    at = ["--at", "0.5", "--actions", "executed"]
    assert main(["whatif", str(recorded.bag), str(bundle), *at, *shown]) == 0
    assert json.loads(out.read_text())["error_bounds"] == [None] * HORIZON


# ------------------------------------------------------------------ terminal output


def test_small_numbers_and_long_labels_do_not_overlap(run: WhatIf, monkeypatch: pytest.MonkeyPatch) -> None:
    branched = replay.branch

    def tiny(*args: Any, **options: Any) -> replay.WhatIf:
        result = branched(*args, **options)
        energies = np.array([3.4312e-05, 3.39e-05, 3.4e-06, 0.0], np.float32)
        shrunk = tuple(replace(entry, energies=energies) for entry in result.branches)
        return replace(result, branches=shrunk, error_bounds=result.error_bounds * 1e-7)

    monkeypatch.setattr("jepa_runtime.commands.whatif.branch", tiny)
    monkeypatch.setenv("COLUMNS", "48")
    status, output = run("--at", "1", "--actions", "0.125,0.25;0.125,-0.25;0,0", "--actions", "0,0")
    assert status == 0 and "…" not in output
    assert re.search(r"^energy to the goal +\nx 1e-05: *$", output, re.MULTILINE)
    assert re.search(r"^0,0 +3\.43 +3\.39 +0\.34 +0 *$", output, re.MULTILINE)
    assert re.search(r"^x 1e-08: *\nerror bound +1 +2 +3 +4 *$", output, re.MULTILINE)


def test_components_are_shown_with_their_units(run: WhatIf) -> None:
    assert "actions: linear.x [m/s], linear.y [m/s]" in run("--at", "1")[1]


def test_missing_goal_message_says_how_to_name_one(run: WhatIf) -> None:
    status, output = run("--at", "1", "--goal", "none")
    assert status == 0 and "no goal and no energies: --goal-at S uses the image" in output
    assert "fan" not in output and "executed: error" in output
