"""The training of a distillation stage: its files, and how it ends if it cannot continue."""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from jepa_export.data.batches import Batch
from jepa_export.data.clip_windows import Windows
from jepa_export.data.frame_store import FrameStore
from jepa_export.data.open_data import open_data
from jepa_export.distillation.clip_metrics import some_clips
from jepa_export.distillation.stage_training import (
    ShardedBatches,
    StageSettings,
    start_fabric,
    train_stage,
)
from jepa_export.distillation.stages import DistillationStage
from jepa_export.errors import JepaExportError
from jepa_export.training.checkpoint import claim_folder, load, lock_folder, save
from jepa_export.training.stage import cosine_decay, warmup
from tests.errors import code

PACE = StageSettings(
    steps=6, batch=4, learning_rate=0.01, seed=0, checkpoint_every=2, watch_every=3, max_collapses=2
)


class Brightness(DistillationStage):
    """Learn the brightness of frames; the loss is NaN from call ``bad`` on."""

    name = "brightness"
    input_names = ("few", "bright")

    def __init__(self, *, bad: int | None = None, collapsed: bool = False, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(width, 1)
        self._bad, self._collapsed, self._calls = bad, collapsed, 0
        self.sizes: set[int] = set()

    def inputs(self, batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
        self.sizes.add(len(batch.frames))
        frames = torch.from_numpy(batch.frames).to(device) / 255
        return frames[:, :, ::8, ::8].flatten(1, 3)[:, : self.line.in_features].mean(-1), frames.mean(
            (1, 2, 3, 4)
        )

    def forward(self, few: Tensor, bright: Tensor) -> dict[str, Tensor]:
        broken = self._bad is not None and self._calls >= self._bad and torch.is_grad_enabled()
        self._calls += torch.is_grad_enabled()
        error = (self.line(few)[:, 0] - bright).pow(2).mean()
        return {"error": error * (float("nan") if broken else 1)}

    def monitored_latents(self, *inputs: Tensor) -> Tensor:
        return inputs[0][:, :, None] * (0 if self._collapsed else 1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    store = FrameStore(tmp_path_factory.mktemp("cache"), height=32, width=32)
    data = open_data(["two_rooms?trajectories=8&frames=6"], store, held_out=0)
    return Windows(data.train, frames=2, rate_hz=5)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return start_fabric("32-true")


def go(
    fabric: Fabric,
    windows: Windows,
    folder: Path,
    pace: StageSettings = PACE,
    *,
    stage: DistillationStage | None = None,
    held_out: Batch | None = None,
) -> DistillationStage:
    folder.mkdir(exist_ok=True)
    stage = stage or Brightness()
    watched = held_out or some_clips(windows, 8)
    train_stage(fabric, stage, windows, watched, folder, pace, trained_on=held_out is None, tensorboard=False)
    return stage


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_every_step_writes_a_loss_row_and_every_check_a_latent_row(
    fabric: Fabric, windows: Windows, tmp_path: Path
) -> None:
    go(fabric, windows, tmp_path)
    head, *losses = rows(tmp_path / "brightness.csv")
    assert head == ["step", "loss", "error"]
    assert [row[0] for row in losses] == [str(step) for step in range(6)]
    assert all(row[1] == row[2] for row in losses)
    head, *looks = rows(tmp_path / "brightness_variety.csv")
    assert head == ["step", "rank", "std"] and [row[0] for row in looks] == ["2", "5"]


def test_held_out_loss_is_reported_next_to_the_training_loss(
    fabric: Fabric, windows: Windows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = some_clips(windows, 10)
    pace = replace(PACE, watch_every=1)
    trained = go(fabric, windows, tmp_path, pace, held_out=held_out)
    head, *held_out_rows = rows(tmp_path / "brightness_held_out.csv")
    assert head == ["step", "loss", "error"] and [row[0] for row in held_out_rows] == [
        str(step) for step in range(6)
    ]
    last = load(tmp_path / "brightness.pt")["network"]
    stage = Brightness()
    stage.load_state_dict(last)
    expected = stage(*stage.inputs(held_out, torch.device("cpu")))["error"].item()
    assert float(held_out_rows[-1][2]) == pytest.approx(expected, rel=1e-5)
    assert trained.sizes == {PACE.batch, 10 % PACE.batch}, "no more at a time than in a step"
    least = min(float(row[1]) for row in held_out_rows)
    output = " ".join(capsys.readouterr().out.split())
    assert f"held out {float(held_out_rows[-1][1]):.3g} (lowest {least:.3g})" in output


def test_training_without_held_out_data_reports_no_held_out_loss(
    fabric: Fabric, windows: Windows, tmp_path: Path
) -> None:
    stage = go(fabric, windows, tmp_path)
    assert not (tmp_path / "brightness_held_out.csv").exists()
    state = load(tmp_path / "brightness.pt")
    assert state["best"]["network"] is None
    assert torch.equal(stage.line.weight, state["network"]["line.weight"])


def test_best_held_out_weights_are_saved_whether_or_not_the_run_was_killed(
    fabric: Fabric, windows: Windows, tmp_path: Path
) -> None:
    # Inverted frames: what is learned from the others increases their loss.
    bright = some_clips(windows, 8)
    bright = replace(bright, frames=255 - bright.frames)
    pace = replace(PACE, watch_every=1, learning_rate=0.3)
    whole = go(fabric, windows, tmp_path / "whole", pace, held_out=bright)
    losses = [float(row[1]) for row in rows(tmp_path / "whole" / "brightness_held_out.csv")[1:]]
    state = load(tmp_path / "whole" / "brightness.pt")
    assert losses[-1] > min(losses) == state["best"]["loss"]
    assert not torch.equal(whole.line.weight, state["network"]["line.weight"])
    error = whole(*whole.inputs(bright, torch.device("cpu")))["error"].item()
    assert error == pytest.approx(min(losses), rel=1e-5)
    with pytest.raises(JepaExportError):
        go(fabric, windows, tmp_path / "cut", pace, stage=Brightness(bad=5), held_out=bright)
    resumed = go(fabric, windows, tmp_path / "cut", pace, held_out=bright)
    assert torch.equal(resumed.line.weight, whole.line.weight)
    for name in ("brightness.csv", "brightness_held_out.csv", "brightness_variety.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text(), name


def test_finished_stage_is_loaded_without_another_step(
    fabric: Fabric, windows: Windows, tmp_path: Path
) -> None:
    done = go(fabric, windows, tmp_path)
    before = (tmp_path / "brightness.csv").read_text()
    resumed = go(fabric, windows, tmp_path, stage=Brightness(bad=0))
    assert torch.equal(resumed.line.weight, done.line.weight)
    assert (tmp_path / "brightness.csv").read_text() == before


def test_row_truncated_by_a_kill_is_written_again(fabric: Fabric, windows: Windows, tmp_path: Path) -> None:
    go(fabric, windows, tmp_path / "whole")
    with pytest.raises(JepaExportError):
        go(fabric, windows, tmp_path / "cut", stage=Brightness(bad=5))
    table = tmp_path / "cut" / "brightness.csv"
    assert load(tmp_path / "cut" / "brightness.pt")["step"] == 4
    # For example the first digit of step 10, which is also an earlier step.
    table.write_text(table.read_text() + "1")
    go(fabric, windows, tmp_path / "cut")
    assert table.read_text() == (tmp_path / "whole" / "brightness.csv").read_text()


def test_non_finite_loss_names_step_and_clips_and_keeps_the_checkpoint(
    fabric: Fabric, windows: Windows, tmp_path: Path
) -> None:
    clips = ShardedBatches(windows, size=4, seed=0, rank=0, world_size=1).indices(3)
    with pytest.raises(JepaExportError) as caught:
        go(fabric, windows, tmp_path, stage=Brightness(bad=3))
    message = str(caught.value)
    assert caught.value.code == "training.not_finite"
    assert "stage brightness: the loss is nan at step 3" in message
    assert f"clips {', '.join(map(str, clips))}" in message and "--learning-rate" in message
    saved = load(tmp_path / "brightness.pt")
    assert saved["step"] == 2 and all(weights.isfinite().all() for weights in saved["network"].values())


def test_diverged_weights_are_not_saved(fabric: Fabric, windows: Windows, tmp_path: Path) -> None:
    pace = replace(PACE, steps=3, watch_every=1, checkpoint_every=1, learning_rate=1e30)
    with pytest.raises(JepaExportError, check=code("training.not_finite")):
        go(fabric, windows, tmp_path, pace)
    assert not (tmp_path / "brightness.pt").exists()


def test_lasting_collapse_ends_the_training(
    fabric: Fabric, windows: Windows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(JepaExportError, check=code("training.collapse")):
        go(fabric, windows, tmp_path, stage=Brightness(collapsed=True))
    assert "stage brightness, step 2: the latents of held-out frames collapsed" in caplog.text


def test_collapse_can_be_allowed(fabric: Fabric, windows: Windows, tmp_path: Path) -> None:
    go(fabric, windows, tmp_path, replace(PACE, max_collapses=None), stage=Brightness(collapsed=True))
    assert load(tmp_path / "brightness.pt")["alarms"] == 2


def test_checkpoint_of_another_network_is_rejected(fabric: Fabric, windows: Windows, tmp_path: Path) -> None:
    go(fabric, windows, tmp_path)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        go(fabric, windows, tmp_path, stage=Brightness(width=4))


def test_damaged_checkpoint_is_rejected(fabric: Fabric, windows: Windows, tmp_path: Path) -> None:
    go(fabric, windows, tmp_path)
    content = (tmp_path / "brightness.pt").read_bytes()
    (tmp_path / "brightness.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(JepaExportError, check=code("training.checkpoint_damaged")):
        go(fabric, windows, tmp_path)


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_only_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "stage.pt"
    save({"step": 1}, path)
    with limit_file_size(4096), pytest.raises(JepaExportError, check=code("training.not_writable")):
        save({"step": 2, "weights": torch.zeros(100_000)}, path)
    assert load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_save_after_a_killed_write_removes_its_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "stage.pt"
    (tmp_path / ".stage.pt.0123.tmp").write_bytes(b"half of a checkpoint")
    save({"step": 1}, path)
    assert list(tmp_path.iterdir()) == [path]


def test_folder_belongs_to_one_run(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", {"seed": 0, "data": ["a"]}, write=True)
    claim_folder(tmp_path / "run", {"seed": 0, "data": ["a"]}, write=True)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        claim_folder(tmp_path / "run", {"seed": 1, "data": ["a"]}, write=True)


def test_run_of_an_earlier_version_resumes_with_a_new_setting(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", {"seed": 0}, write=True)
    claim_folder(tmp_path / "run", {"seed": 0, "watch_every": 100}, write=True)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        claim_folder(tmp_path / "run", {"watch_every": 100}, write=True)


def test_folder_is_locked_by_one_training_process(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from jepa_export.training.checkpoint import lock_folder;"
        "lock_folder(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(JepaExportError, check=code("training.folder_in_use")):
            lock_folder(tmp_path)
        other.kill()
    lock_folder(tmp_path)
    lock_folder(tmp_path)


def test_batch_is_split_among_processes_completely_and_without_overlap(windows: Windows) -> None:
    whole = ShardedBatches(windows, size=8, seed=3, rank=0, world_size=1).indices(2)
    shares = [
        ShardedBatches(windows, size=8, seed=3, rank=rank, world_size=4).indices(2) for rank in range(4)
    ]
    assert sorted(clip for part in shares for clip in part) == sorted(whole)
    with pytest.raises(JepaExportError, check=code("data.batch_size")):
        ShardedBatches(windows, size=8, seed=3, rank=0, world_size=3)


def test_learning_rate_warms_up_and_decays_to_a_hundredth() -> None:
    rates = [warmup(step, 100) * cosine_decay(step, 1000) for step in (0, 99, 500, 999)]
    assert rates == pytest.approx([0.01, 0.976, 0.505, 0.01], abs=2e-3)
    assert warmup(0, 0) * cosine_decay(0, 6) == 1


def test_missing_tensorboard_is_reported_by_name(
    fabric: Fabric, windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(JepaExportError, check=code("training.missing_package")):
        train_stage(
            fabric,
            Brightness(),
            windows,
            some_clips(windows, 8),
            tmp_path,
            PACE,
            trained_on=False,
            tensorboard=True,
        )


def test_tensorboard_gets_every_value(fabric: Fabric, windows: Windows, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_stage(
        fabric,
        Brightness(),
        windows,
        some_clips(windows, 8),
        tmp_path,
        PACE,
        trained_on=False,
        tensorboard=True,
    )
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert set(events.Tags()["scalars"]) == {
        f"brightness/{name}" for name in ("loss", "error", "rank", "std", "held_out_loss", "held_out_error")
    }
    assert [event.step for event in events.Scalars("brightness/loss")] == list(range(6))


def test_half_precision_keeps_weights_and_losses_in_fp32(windows: Windows, tmp_path: Path) -> None:
    stage = go(start_fabric("bf16-mixed"), windows, tmp_path)
    go(start_fabric("32-true"), windows, tmp_path / "full")
    assert stage.line.weight.dtype == torch.float32
    pairs = zip(rows(tmp_path / "brightness.csv"), rows(tmp_path / "full" / "brightness.csv"), strict=True)
    ours, theirs = ([float(row[1]) for row in table[1:]] for table in zip(*pairs, strict=True))
    assert ours == pytest.approx(theirs, rel=0.2) and ours != theirs
