"""OpenVINO's Python API on both graphs in turn, with the settings of benchmark_app for each alone: the time
of a graph after another one has used the caches and the threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from serving import InTurn, Task, serve

from jepa_runtime.backends import BackendOptions, create_backend
from jepa_runtime.model import graphs


class _Graphs:
    def __init__(self, task: Task) -> None:
        self._requests = {}
        backend = create_backend("openvino:CPU", BackendOptions(threads=task.threads))
        files = graphs(task.bundle, backend, task.precision, task.bundle.manifest.num_samples)
        backend.close()
        core = openvino.Core()
        for role, (graph, shapes) in files.items():
            model = core.read_model(graph.name)
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            properties = {
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": task.threads,
                "ENABLE_CPU_PINNING": False,
                "INFERENCE_PRECISION_HINT": "f32",
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": graph.dynamic_quantization_group_size,
            }
            self._requests[role] = core.compile_model(model, "CPU", properties).create_infer_request()

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        return self._run("encoder", frame=frame)["latent"]

    def predict(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32], past: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        given = {"history_latents": latents, "actions": actions}
        if past is not None:
            given["history_actions"] = past
        return self._run("predictor", **given)["futures"]

    def _run(self, role: Any, **given: NDArray[Any]) -> Any:
        request = self._requests[role]
        for name, array in given.items():
            # A predictor is compiled for more candidates than a few.
            request.get_tensor(name).data[: len(array)] = array
        return request.infer(share_outputs=True)


if __name__ == "__main__":
    serve(partial(InTurn, open_model=_Graphs))
