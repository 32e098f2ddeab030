"""Releases of the update demo: four bundles, and the signed repository that serves them over HTTP."""

from __future__ import annotations

import functools
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from jepa_export.release.keys import KeyRing
from jepa_export.release.publish import Terms, publish
from jepa_export.release.repository import Repository
from jepa_export.release.roles import Policy, init
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.model import WorldModel
from jepa_runtime.ota import Config, provision
from jepa_runtime.planning import default_candidates

ROOT = Path(__file__).resolve().parent.parent
# Not a package; the degraded models belong to the benchmark of the gate.
sys.path.append(str(ROOT / "benchmarks"))

from peers.variants import full_precision, perturbed  # noqa: E402

CHANNEL = "stable"
LATENCY_MS = 30.0
_NOISE = 1.0
# How long a new model is monitored before it is committed.
_HEALTH_WINDOW_S = 5.0


@dataclass(frozen=True)
class Offer:
    """Represent a release, its characteristic, the expected result and a part of the expected reason."""

    version: str
    description: str
    result: str
    reason: str


OFFERS = (
    Offer("1.1.0", "the same model in INT8", "updated", ""),
    Offer("1.2.0", f"more futures per image than its budget of {LATENCY_MS:g} ms allows", "rejected", "p99"),
    Offer("1.3.0", "noise on the predictor, with golden outputs to match", "rejected", "its error is"),
)


class Publisher:
    """Manage a repository in ``folder``, its keys and the bundles to release.

    Args:
        bundle: Its INT8 variant is the good release. Robots start with its fp32 variant.
        folder: Folder of the repository, the keys and the bundles.
    """

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.folder, self._keys = folder / "repository", KeyRing(folder / "keys")
        bundles = folder / "bundles"
        self.first = full_precision(bundle, bundles / "1.0.0", version="1.0.0")
        good, slow, worse = OFFERS
        self._bundles = {
            good.version: _copy(bundle, bundles / good.version, version=good.version),
            slow.version: _copy(
                bundle, bundles / slow.version, version=slow.version, num_samples=_too_many(bundle)
            ),
            worse.version: _self_consistent(
                perturbed(bundle, bundles / worse.version, noise=_NOISE, seed=0, version=worse.version)
            ),
        }
        init(self.folder, self._keys, channels=[CHANNEL], policy=Policy(), externals={})

    def release(self, version: str) -> Bundle:
        """Publish a version for all robots."""
        terms = Terms(channel=CHANNEL, budgets={"latency_p99_ms": LATENCY_MS})
        with Repository.opened(self.folder, self._keys) as repository:
            publish(repository, self._bundles[version], terms)
        return self._bundles[version]

    def set_up_robot(self, root: Path, url: str) -> None:
        """Provision a robot with the first version that updates from the repository at ``url``."""
        settings = Config(
            repository=url,
            channel=CHANNEL,
            model_id=self.first.manifest.model_id,
            device_id="demo",
            hardware_ids=("simulated",),
            health_window_s=_HEALTH_WINDOW_S,
        )
        trusted = (self.folder / "metadata" / "1.root.json").read_bytes()
        provision(root, settings, trusted, bundle=self.first.path)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this machine and yield its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _copy(bundle: Bundle, folder: Path, **fields: Any) -> Bundle:
    shutil.copytree(bundle.path, folder)
    return seal(folder, bundle.manifest.model_dump(mode="json") | fields)


def _too_many(bundle: Bundle) -> int:
    """Return the number of futures that takes this machine 1.5 times the budget."""
    with WorldModel.open(bundle) as model:
        actions, took_ms = default_candidates(model.manifest, model.num_samples), []
        model.encode(bundle.golden().frames[0])
        for _ in range(50):
            model.predict(actions)
            took_ms.append(model.timings["predict"])
    return round(len(actions) * 1.5 * LATENCY_MS / min(took_ms))


def _self_consistent(bundle: Bundle) -> Bundle:
    """Replace the golden outputs by those of the bundle itself, as if a badly trained model was exported."""
    golden = bundle.golden()
    with WorldModel.open(bundle) as model:
        futures = [model.predict(golden.actions, latents=latent).latents for latent in golden.latents]
    arrays = {name: array for name, array in vars(golden).items() if array is not None}
    np.savez_compressed(bundle.path / bundle.manifest.golden.path, **arrays | {"futures": np.stack(futures)})
    return seal(bundle.path, bundle.manifest)
