"""Pictures on topics, and the copy of a bag with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader

from jepa_runtime.errors import RecordingError, SourceError
from jepa_runtime.imaging.conversion import decode
from jepa_runtime.visualization.bag_overlay import add_pictures
from jepa_runtime.visualization.futures_picture import FuturesPicture
from jepa_runtime.visualization.latent_tiles import tile
from jepa_runtime.visualization.predictions import Predictions
from jepa_runtime.visualization.run_data import Run, read_run
from jepa_runtime.visualization.topic_images import draw_images, futures_image, map_image
from tests.errors import code
from tests.runtime.fakes import STEP_S
from tests.runtime.recording.test_mcap_writer import by_mcap_ros2, by_rosbags
from tests.runtime.visualization import runs

ADDED = {f"/pictures/{name}/image" for name in ("latent", "futures", "map")}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_run(tmp_path_factory.mktemp("bags") / "run.mcap")


@pytest.fixture(scope="module")
def run(bag: Path) -> Run:
    return read_run(bag)


def content(path: Path) -> list[tuple[str, int, bytes]]:
    with path.open("rb") as file:
        return [(channel.topic, message.log_time, message.data)
                for _, channel, message in make_reader(file).iter_messages()]  # fmt: skip


def picture(run: Run, frame: int, *, goal: bool = True) -> FuturesPicture:
    return FuturesPicture.of(predictions(frame, goal=goal), run.latents[frame], run.atlas, max_columns=6)


def predictions(frame: int, *, goal: bool = True) -> Predictions:
    result = Predictions.from_result(runs.result(frame, goal=goal), STEP_S)
    assert result is not None
    return result


def test_add_pictures_copies_all_messages_unchanged(bag: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "new" / "with pictures.mcap"
    add_pictures(bag, run, run.atlas, target, rate_hz=5)
    copied = content(target)
    assert [entry for entry in copied if entry[0] not in ADDED] == content(bag)
    assert {entry[0] for entry in copied} == ADDED | {entry[0] for entry in content(bag)}


def test_add_pictures_respects_rate_and_stamps(bag: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "copy.mcap"
    add_pictures(bag, run, run.atlas, target, rate_hz=5)
    counts = Counter(topic for topic, _, _ in content(target))
    assert {counts[topic] for topic in ADDED} == {runs.FRAMES // 2}
    for read in (by_mcap_ros2, by_rosbags):
        for topic in ADDED:
            message = read(target)[topic]
            assert (message.format, message.header.stamp.sec) == (
                "jpeg",
                runs.stamp(runs.FRAMES - 2) // 10**9,
            )
            assert np.unique(decode(bytes(message.data))).size > 20


def test_add_pictures_onto_the_bag_or_of_another_format_is_an_error(
    bag: Path, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(RecordingError, check=code("recording.output_is_input")):
        add_pictures(bag, run, run.atlas, bag, rate_hz=5)
    with pytest.raises(RecordingError, check=code("recording.not_mcap")):
        add_pictures(tmp_path / "bag.db3", run, run.atlas, tmp_path / "copy.mcap", rate_hz=5)


def test_add_pictures_after_an_error_leaves_no_file(bag: Path, run: Run, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mcap"
    whole = bag.read_bytes()
    damaged.write_bytes(whole[:3000] + bytes(200) + whole[3200:])
    with pytest.raises(SourceError, check=code("source.bag_damaged")):
        add_pictures(damaged, run, run.atlas, tmp_path / "copy.mcap", rate_hz=5)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.mcap"]


def test_draw_images_have_content(run: Run) -> None:
    painted = draw_images(run.latents[:20], predictions(19), run.atlas, 10.0)
    assert painted.keys() == {"latent", "futures", "map"}
    for image in painted.values():
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert np.unique(image.reshape(-1, 3), axis=0).shape[0] > 8


def test_futures_image_shows_the_nearest_frames(run: Run) -> None:
    image = futures_image(picture(run, 10), run.atlas)
    # The best candidate drives right: it shows the frames 2, 4 and 6 later.
    for column, frame in enumerate((12, 14, 16)):
        assert abs(int(image[26 + 40, 92 + 100 * column + 48].mean()) - runs.gray(frame)) <= 3


def test_futures_image_without_goal_shows_one_candidate(run: Run) -> None:
    image = futures_image(picture(run, 10, goal=False), run.atlas)
    assert image.shape[0] < futures_image(picture(run, 10), run.atlas).shape[0]
    assert map_image(run.latents[:5], picture(run, 4, goal=False), run.atlas).shape == (400, 480, 3)


@pytest.mark.parametrize(
    ("tokens", "shape"), [(1, (1, 1)), (2, (1, 2)), (12, (3, 4)), (196, (14, 14)), (7, (1, 7))]
)
def test_tile_arranges_tokens_in_a_square(tokens: int, shape: tuple[int, int]) -> None:
    colors = np.arange(3 * tokens, dtype=np.int64).reshape(tokens, 3).astype(np.uint8)
    assert tile(colors).shape == (*shape, 3)
    np.testing.assert_array_equal(tile(colors).reshape(tokens, 3), colors)


def test_add_pictures_onto_an_existing_file_is_an_error(bag: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "copy.mcap"
    target.write_bytes(b"an older recording")
    with pytest.raises(RecordingError, check=code("recording.file_exists")):
        add_pictures(bag, run, run.atlas, target, rate_hz=5)
    assert [path.name for path in tmp_path.iterdir()] == ["copy.mcap"]
    assert target.read_bytes() == b"an older recording"


def test_add_pictures_twice_is_an_error(bag: Path, run: Run, tmp_path: Path) -> None:
    once = tmp_path / "once.mcap"
    add_pictures(bag, run, run.atlas, once, rate_hz=5)
    with pytest.raises(RecordingError, check=code("recording.images_exist")):
        add_pictures(once, read_run(once), run.atlas, tmp_path / "twice.mcap", rate_hz=5)
    assert [path.name for path in tmp_path.iterdir()] == ["once.mcap"]
