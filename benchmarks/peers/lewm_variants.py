"""Variants of predicting all futures of one iteration of LeWM's planner."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from peers.products import products
from torch import Tensor, nn

from jepa_export.evaluation.compute_cost import multiply_adds
from jepa_export.students.predictor import Predictor
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import Sample, convert, quantize_transformer_int8, save
from jepa_export.teachers.lewm import LeWM
from jepa_export.teachers.lewm_rollout import Rollout
from jepa_runtime.backends import BackendOptions, Graph, Shape, create_backend

Floats32 = NDArray[np.float32]
# A latent [D] and candidates [K, H, A] -> their futures [K, H, D].
Predict = Callable[[Floats32, Floats32], Floats32]
Call = Callable[[], object]
# Number of candidates in the exported graphs, which accept any number.
_EXAMPLES = 2


class Loop(nn.Module):
    """LeWM's rollout as published: [1, 1, 1, D], [K, H, A] -> [K, H, 1, D]."""

    def __init__(self, model: LeWM) -> None:
        super().__init__()
        self.model = model

    def forward(self, history_latents: Tensor, actions: Tensor) -> Tensor:
        latents = history_latents[:, :, 0].expand(actions.shape[0], -1, -1)
        return self.model.rollout(latents, actions)[:, :, None]


@dataclass(frozen=True)
class Problem:
    """A planning problem.

    Attributes:
        model: LeWM.
        student: A student's predictor that can replace it.
        count: Number of candidates.
        horizon: Number of steps.
        threads: Number of threads.
        samples: Calibration samples for INT8.
        folder: Folder of the graphs.
    """

    model: LeWM
    student: Predictor
    count: int
    horizon: int
    threads: int
    samples: Sequence[Sample]
    folder: Path

    @property
    def shapes(self) -> dict[str, Shape]:
        """Return the shapes of the inputs."""
        config = self.model.config
        return {
            "history_latents": (1, 1, 1, config.encoder.width),
            "actions": (self.count, self.horizon, config.action_dim),
        }

    def graph(self, create: CreateNetwork, precision: str = "fp32", suffix: str = ".xml") -> Path:
        """Return the file of a network's graph, written if it is missing."""
        path = self.folder / f"{create.__name__}_{precision}{suffix}"
        if path.exists():
            return path
        if suffix == ".onnx":
            inputs = {name: torch.zeros(_EXAMPLES, *shape[1:]) for name, shape in self.shapes.items()}
            inputs["history_latents"] = inputs["history_latents"][:1]
            export_onnx(create(self), inputs, ["futures"], path, free_axis=("actions",))
            return path
        ir = convert(self.graph(create, suffix=".onnx"))
        save(quantize_transformer_int8(ir, self.samples) if precision == "int8" else ir, path)
        return path

    def multiply_adds(self, create: CreateNetwork) -> int:
        """Return the multiply-adds of all futures."""
        return multiply_adds(Graph.read(self.graph(create)), self.shapes)


# Create the network that predicts the futures of a problem.
CreateNetwork = Callable[[Problem], nn.Module]


def rollout(problem: Problem) -> nn.Module:
    """Return LeWM's rollout that computes nothing twice."""
    return Rollout(problem.model)


def loop(problem: Problem) -> nn.Module:
    """Return LeWM's rollout as published."""
    return Loop(problem.model)


def student(problem: Problem) -> nn.Module:
    """Return the student's rollout, which caches each frame."""
    return problem.student


def ours(problem: Problem, stack: ExitStack, create: CreateNetwork, precision: str) -> Predict:
    """Open a rollout as the runtime runs it."""
    graph = problem.graph(create, precision)
    return _session(problem, stack, "openvino:CPU", graph, rows=("actions",))


def ours_in_bf16(problem: Problem, stack: ExitStack) -> Predict:
    """Open LeWM's rollout in bf16, which the runtime never selects."""
    model = ov.Core().read_model(problem.graph(rollout))
    model.reshape({name: list(shape) for name, shape in problem.shapes.items()})
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": problem.threads}
    compiled = ov.Core().compile_model(model, "CPU", hints)

    def predict(latent: Floats32, actions: Floats32) -> Floats32:
        futures: Floats32 = compiled([latent[None, None, None], actions])[0][:, :, 0]
        return futures

    return predict


def loop_in(problem: Problem, stack: ExitStack, engine: str, suffix: str) -> Predict:
    """Open the exported published loop in an engine."""
    return _session(problem, stack, engine, problem.graph(loop, suffix=suffix))


def loop_in_torch(problem: Problem, stack: ExitStack, *, compiled: bool) -> Predict:
    """Open the published loop in torch.

    Raises:
        FileNotFoundError: It is to be compiled, and there is no compiler.
    """
    if compiled and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise FileNotFoundError("torch.compile needs a C++ compiler")
    module = loop(problem)
    run = torch.compile(module) if compiled else module
    torch.set_num_threads(problem.threads)

    def predict(latent: Floats32, actions: Floats32) -> Floats32:
        with torch.inference_mode():
            futures = run(torch.from_numpy(latent[None, None, None]), torch.from_numpy(actions))
        predicted: Floats32 = futures[:, :, 0].numpy()
        return predicted

    return predict


def products_alone(problem: Problem, stack: ExitStack, rows: int, precision: str) -> Call:
    """Open the products alone."""
    path = problem.folder / f"products_{precision}.xml"
    save(products(int8=precision == "int8"), path)
    backend = create_backend("openvino:CPU", BackendOptions(threads=problem.threads))
    stack.callback(backend.close)
    session = backend.load(path, {"rows": (rows, problem.model.config.encoder.width)}, rows=("rows",))
    stack.callback(session.close)
    session.inputs["rows"][:] = np.random.default_rng(0).standard_normal(session.inputs["rows"].shape)
    return session.run


VARIANTS: dict[str, Callable[[Problem, ExitStack], Predict]] = {
    "student int8": lambda problem, stack: ours(problem, stack, student, "int8"),
    "student fp32": lambda problem, stack: ours(problem, stack, student, "fp32"),
    "ours int8": lambda problem, stack: ours(problem, stack, rollout, "int8"),
    "ours bf16": ours_in_bf16,
    "ours fp32": lambda problem, stack: ours(problem, stack, rollout, "fp32"),
    "loop openvino": lambda problem, stack: loop_in(problem, stack, "openvino:CPU", ".xml"),
    "loop onnxruntime": lambda problem, stack: loop_in(problem, stack, "onnxruntime:CPU", ".onnx"),
    "loop torch.compile": lambda problem, stack: loop_in_torch(problem, stack, compiled=True),
    "loop torch": lambda problem, stack: loop_in_torch(problem, stack, compiled=False),
}


def _session(
    problem: Problem, stack: ExitStack, engine: str, graph: Path, rows: Sequence[str] = ()
) -> Predict:
    backend = create_backend(engine, BackendOptions(threads=problem.threads))
    stack.callback(backend.close)
    session = backend.load(graph, problem.shapes, rows=rows)
    stack.callback(session.close)

    def predict(latent: Floats32, actions: Floats32) -> Floats32:
        session.inputs["history_latents"][:] = latent
        session.inputs["actions"][:] = actions
        futures: Floats32 = session.run()["futures"][:, :, 0]
        return futures

    return predict
