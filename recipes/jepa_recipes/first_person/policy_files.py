"""The files of a cloned policy, which :mod:`jepa_sim.closed_loop.first_person.cloned_policy` loads."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from jepa_export.bundling.staging import write_errors_reported
from jepa_export.targets.onnx import export_onnx
from jepa_export.targets.openvino import convert, save
from jepa_recipes.first_person.cloning import Policy, PolicyGraph
from jepa_runtime.telemetry import package_versions
from jepa_runtime.util import write_json
from jepa_sim.closed_loop.first_person.cloned_policy import DIM, ENCODER, HEAD, PROVENANCE, TOKENS
from jepa_sim.worlds.first_person.rendering import HEIGHT_PX, WIDTH_PX


def write_policy(
    policy: Policy, folder: Path, *, command: str, joint_steps: int, errors: dict[str, float]
) -> None:
    """Write the graphs, with weights in fp16, and what they come from.

    Args:
        policy: The trained policy.
        folder: Destination; earlier files are replaced.
        command: Command line for the provenance.
        joint_steps: Steps of the joint stage that the policy started from.
        errors: See :func:`~jepa_recipes.first_person.cloning.evaluate_policy`.

    Raises:
        JepaExportError: A file cannot be written.
    """
    latent = torch.zeros(1, TOKENS, DIM)
    with write_errors_reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
            path = Path(scratch) / "graph.onnx"
            frame = torch.zeros(1, HEIGHT_PX, WIDTH_PX, 3, dtype=torch.uint8)
            export_onnx(policy.encoder, {"frame": frame}, ["latent"], path)
            save(convert(path), folder / ENCODER, halve=True)
            inputs = {"latents": latent, "goal": latent}
            export_onnx(PolicyGraph(policy.head), inputs, ["decision"], path, free_axis=("latents",))
            save(convert(path), folder / HEAD, halve=True)
        provenance = {
            "command": command,
            "joint_steps": joint_steps,
            "versions": package_versions(),
            "held_out_errors": errors,
        }
        write_json(folder / PROVENANCE, provenance)
