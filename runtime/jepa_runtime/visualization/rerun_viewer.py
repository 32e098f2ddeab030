"""A run in rerun: camera, latents, futures, map, energies, bounds, surprise, latency; live or as a file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.errors import RecordingError
from jepa_runtime.imaging.conversion import to_jpeg
from jepa_runtime.visualization.atlas import Atlas
from jepa_runtime.visualization.embedding import Latents
from jepa_runtime.visualization.latent_tiles import tile
from jepa_runtime.visualization.predictions import Predictions
from jepa_runtime.visualization.topic_images import BEST, CAME, WORST, futures_image

TIMELINE = "time"
# Where rerun's viewer listens unless it is told otherwise.
_PORT = 9876
_FAINT, _KNOWN = (190, 196, 205), (150, 160, 172)


class RerunViewer:
    """Where things are logged, all at their image's stamp on the timeline ``time``.

    Args:
        save: the .rrd file to write; None: rerun's viewer is started and shows them.

    Raises:
        RecordingError: rerun is missing, its viewer cannot be started, or the file not written.
    """

    def __init__(self, save: Path | None = None) -> None:
        try:
            import rerun
            import rerun.blueprint as blueprint
        except ImportError as error:
            raise RecordingError("the view takes rerun: pip install 'jepa-edge[rerun]'") from error
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
        # rerun raises whatever its own engine told it.
        except Exception as error:
            raise RecordingError(f"{save or 'viewer of rerun'}: cannot be opened: {error}") from error
        self._stream.send_blueprint(_layout(blueprint))

    def __enter__(self) -> RerunViewer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()
        self._stream.disconnect()

    def camera(self, stamp_ns: int, jpeg: bytes) -> None:
        """What the camera saw."""
        self._log("camera", self._picture(jpeg), stamp_ns)

    def goal(self, stamp_ns: int, jpeg: bytes) -> None:
        """What is sought."""
        self._log("goal", self._picture(jpeg), stamp_ns)

    def latent(self, stamp_ns: int, trail: Latents, atlas: Atlas) -> None:
        """The newest of ``trail`` [n, T, D] in colours and on the map, and the way there."""
        self._remember(atlas)
        colours = tile(atlas.palette.colours(trail[-1]))
        self._log("latent", self._rr.Image(colours), stamp_ns)
        places = _upwards(atlas.project(trail))
        self._log("map/came", self._rr.LineStrips2D([places], colors=[CAME]), stamp_ns)
        self._log("map/now", self._rr.Points2D(places[-1:], colors=[CAME], radii=[-4.0]), stamp_ns)

    def foreseen(self, foreseen: Predictions, latent: Latents, atlas: Atlas) -> None:
        """Futures from an image whose latent is ``latent`` [T, D]."""
        self._remember(atlas)
        rr, stamp = self._rr, foreseen.stamp_ns
        start = atlas.project(latent)[None]
        paths = [_upwards(np.vstack([start, path])) for path in atlas.project(foreseen.latents)]
        self._log("map/futures", rr.LineStrips2D(paths, colors=[_FAINT]), stamp)
        self._log("futures", self._picture(to_jpeg(futures_image(foreseen, atlas))), stamp)
        self._log("bounds", rr.Scalars(foreseen.bounds), stamp)
        self.figure("latency/predict", foreseen.predict_ms, stamp)
        ends = foreseen.ends
        if ends is not None and foreseen.energies is not None:
            self._log("map/best", rr.LineStrips2D([paths[ends[0]]], colors=[BEST]), stamp)
            self._log("map/worst", rr.LineStrips2D([paths[ends[1]]], colors=[WORST]), stamp)
            self._log("energies", rr.BarChart(foreseen.energies.sum(axis=1)), stamp)
            self.figure("energy/now", foreseen.current_energy, stamp)
            self.figure("energy/best", float(foreseen.energies[ends[0], -1]), stamp)

    def figure(self, name: str, value: float, stamp_ns: int) -> None:
        """A number over time, such as ``surprise/value``."""
        self._log(name, self._rr.Scalars(value), stamp_ns)

    def _remember(self, atlas: Atlas) -> None:
        """What the map shows is drawn once for an atlas."""
        if atlas is not self._atlas:
            self._atlas = atlas
            places = _upwards(atlas.project(atlas.latents))
            self._stream.log(
                "map/known", self._rr.Points2D(places, colors=[_KNOWN], radii=[-1.5]), static=True
            )

    def _picture(self, jpeg: bytes) -> Any:
        return self._rr.EncodedImage(contents=jpeg, media_type="image/jpeg")

    def _log(self, name: str, what: Any, stamp_ns: int) -> None:
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(stamp_ns, "ns"))
        self._stream.log(name, what)


def _check_listening() -> None:
    """Check that the viewer is there: whoever logs for one that never was waits without end."""
    try:
        socket.create_connection(("127.0.0.1", _PORT), timeout=1).close()
    except OSError as error:
        raise RecordingError(
            "it did not start, as on a machine without a screen: write a file with --save FILE.rrd, and open "
            "that where there is one"
        ) from error


def _upwards(places: Any) -> Any:
    """rerun's second axis points down, a map's up."""
    return places * np.array([1.0, -1.0], np.float32)


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
