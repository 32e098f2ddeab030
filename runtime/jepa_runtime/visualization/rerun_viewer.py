"""Log a run to Rerun, live or to a file: images, latents, futures, map, energies, bounds, surprise."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.errors import RecordingError
from jepa_runtime.imaging.conversion import to_jpeg
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Latents
from jepa_runtime.visualization.futures_picture import COLORS, FuturesPicture
from jepa_runtime.visualization.latent_tiles import tile
from jepa_runtime.visualization.palette import BASELINE, FAINT, OBSERVED
from jepa_runtime.visualization.predictions import Predictions
from jepa_runtime.visualization.topic_images import MAX_COLUMNS, futures_image

TIMELINE = "time"
# The default port of Rerun's viewer.
_PORT = 9876
_FAINT, _ATLAS = FAINT.rgb_on_dark, BASELINE.rgb_on_dark


class RerunViewer:
    """A context manager that logs to Rerun; all entries have their image's stamp on the timeline ``time``.

    Args:
        save: The .rrd file to write, or None to start Rerun's viewer.

    Raises:
        RecordingError: Rerun is not installed, its viewer cannot be started, or the file cannot be written.
    """

    def __init__(self, save: Path | None = None) -> None:
        try:
            import rerun
            import rerun.blueprint as blueprint
        except ImportError as error:
            raise RecordingError(
                "Rerun is not installed: pip install 'jepa-edge[rerun]'", code="recording.rerun_missing"
            ) from error
        self._rr = rerun
        self._stream: Any = rerun.RecordingStream("jepa-edge")
        self._atlas: Atlas | None = None
        try:
            if save is None:
                rerun.spawn(port=_PORT, connect=False, recording=self._stream)
                _check_listening()
                self._stream.connect_grpc(f"rerun+http://127.0.0.1:{_PORT}/proxy")
            else:
                save.parent.mkdir(parents=True, exist_ok=True)
                self._stream.save(save)
        # Rerun raises exceptions of many types.
        except Exception as error:
            raise RecordingError(
                f"cannot open {save or 'the Rerun viewer'}: {error}", code="recording.rerun_unavailable"
            ) from error
        self._stream.send_blueprint(_layout(blueprint))

    def __enter__(self) -> RerunViewer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()
        self._stream.disconnect()

    def camera(self, stamp_ns: int, jpeg: bytes) -> None:
        """Log a camera image."""
        self._log("camera", self._encoded_image(jpeg), stamp_ns)

    def goal(self, stamp_ns: int, jpeg: bytes) -> None:
        """Log a goal image."""
        self._log("goal", self._encoded_image(jpeg), stamp_ns)

    def latent(self, stamp_ns: int, trail: Latents, atlas: Atlas) -> None:
        """Log the newest of ``trail`` [n, T, D] in colors, and all of it as a path on the map."""
        self._log_atlas(atlas)
        colors = tile(atlas.token_colors.colors(trail[-1]))
        self._log("latent", self._rr.Image(colors), stamp_ns)
        points = _flip_vertical(atlas.project(trail))
        self._log("map/observed", self._rr.LineStrips2D([points], colors=[OBSERVED.rgb_on_dark]), stamp_ns)
        self._log(
            "map/now", self._rr.Points2D(points[-1:], colors=[OBSERVED.rgb_on_dark], radii=[-4.0]), stamp_ns
        )

    def predictions(self, predictions: Predictions, latent: Latents, atlas: Atlas) -> None:
        """Log the futures from an image whose latent is ``latent`` [T, D]."""
        self._log_atlas(atlas)
        rr, stamp = self._rr, predictions.stamp_ns
        picture = FuturesPicture.of(predictions, latent, atlas, max_columns=MAX_COLUMNS)
        paths = [_flip_vertical(picture.path(index)) for index in range(len(picture.paths))]
        self._log("map/futures", rr.LineStrips2D(paths, colors=[_FAINT]), stamp)
        self._log("futures", self._encoded_image(to_jpeg(futures_image(picture, atlas))), stamp)
        self._log("bounds", rr.Scalars(predictions.bounds), stamp)
        self.scalar("latency/predict", predictions.predict_ms, stamp)
        for candidate in picture.candidates:
            color = COLORS[candidate.role].rgb_on_dark
            path = rr.LineStrips2D([paths[candidate.index]], colors=[color])
            self._log(f"map/{candidate.role}", path, stamp)
            if picture.energies is not None:
                energy = float(picture.energies[candidate.index, -1])
                self.scalar(f"energy/{candidate.role}", energy, stamp)
        if picture.energies is not None:
            self._log("energies", rr.BarChart(picture.energies.sum(axis=1)), stamp)
            self.scalar("energy/now", picture.current_energy, stamp)

    def scalar(self, name: str, value: float, stamp_ns: int) -> None:
        """Log a number over time, such as ``surprise/value``."""
        self._log(name, self._rr.Scalars(value), stamp_ns)

    def _log_atlas(self, atlas: Atlas) -> None:
        """Log the points of an atlas once."""
        if atlas is not self._atlas:
            self._atlas = atlas
            points = _flip_vertical(atlas.project(atlas.latents))
            self._stream.log(
                "map/known", self._rr.Points2D(points, colors=[_ATLAS], radii=[-1.5]), static=True
            )

    def _encoded_image(self, jpeg: bytes) -> Any:
        return self._rr.EncodedImage(contents=jpeg, media_type="image/jpeg")

    def _log(self, name: str, content: Any, stamp_ns: int) -> None:
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(stamp_ns, "ns"))
        self._stream.log(name, content)


def _check_listening() -> None:
    """Check that the viewer accepts connections; logging to a missing viewer would block forever."""
    try:
        socket.create_connection(("127.0.0.1", _PORT), timeout=1).close()
    except OSError as error:
        raise RecordingError(
            "it did not start, possibly because this machine has no screen: write a file with --output "
            "FILE.rrd, and open it on another machine",
            code="recording.rerun_unavailable",
        ) from error


def _flip_vertical(points: Any) -> Any:
    """Invert the second axis, which points down in Rerun and up on the map."""
    return points * np.array([1.0, -1.0], np.float32)


def _layout(blueprint: Any) -> Any:
    picture, chart = blueprint.Spatial2DView, blueprint.TimeSeriesView
    return blueprint.Blueprint(
        blueprint.Vertical(
            blueprint.Horizontal(
                picture(origin="camera", name="camera"),
                picture(origin="latent", name="latent"),
                picture(origin="futures", name="futures"),
                picture(origin="map", name="map of futures"),
                column_shares=[1, 1, 2, 2],
            ),
            blueprint.Horizontal(
                chart(origin="energy", name="energy"),
                blueprint.BarChartView(origin="energies", name="energies of candidates"),
                chart(origin="surprise", name="surprise"),
                chart(origin="bounds", name="error bounds"),
                chart(origin="latency", name="latency, ms"),
            ),
        ),
        collapse_panels=True,
    )
