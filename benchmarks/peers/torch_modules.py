"""PyTorch: the modules that were exported, eager or (``--compile``) through torch.compile's default mode.

The weights of an untrained student come from its seed, which the bundle's provenance tells. Of the other
modes of torch.compile, reduce-overhead means CUDA graphs: there are none on a CPU."""

from __future__ import annotations

import os
import re
import shutil
from functools import partial

import numpy as np
from numpy.typing import NDArray
from serving import AbsentError, InTurn, Task, serve

try:
    import torch

    from jepa_export.students.family import FAMILY, create, stir
except ImportError:
    torch = None


class _Modules:
    def __init__(self, task: Task) -> None:
        manifest = task.bundle.manifest
        if torch is None:
            raise AbsentError("torch is not installed (extra export)")
        if task.precision != "fp32":
            raise AbsentError(f"its modules compute in fp32, not in {task.precision}")
        seed = re.search(r"build .*--seed (\d+)", manifest.provenance.command)
        if manifest.trained or manifest.model_id not in FAMILY or seed is None:
            raise AbsentError("the weights are known for untrained bundles of jepa-export build only")
        action = manifest.io.action
        student = create(
            manifest.model_id,
            px=manifest.io.frame.height,
            action_scale=tuple(max(-low, high) for low, high in zip(action.low, action.high, strict=True)),
            seed=int(seed[1]),
        )
        stir(student.predictor, int(seed[1]))
        torch.set_num_threads(task.threads)
        self._encoder, self._predictor = student.encoder, student.predictor
        if "--compile" in task.options:
            if shutil.which(os.environ.get("CXX", "g++")) is None:
                raise AbsentError("torch.compile needs a C++ compiler")
            self._encoder, self._predictor = torch.compile(self._encoder), torch.compile(self._predictor)

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        with torch.inference_mode():
            return self._encoder(torch.from_numpy(frame)).numpy()

    def predict(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32], past: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        between = None if past is None else torch.from_numpy(past)
        with torch.inference_mode():
            return self._predictor(torch.from_numpy(latents), torch.from_numpy(actions), between).numpy()


if __name__ == "__main__":
    serve(partial(InTurn, open_model=_Modules))
