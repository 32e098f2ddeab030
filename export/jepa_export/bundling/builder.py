"""The builder of bundles, which every recipe and command uses.

A bundle is built in a staging folder next to its destination, always in the same order: graphs, golden
outputs, manifest, verification of every variant against the golden outputs, the vendors' compilers, report,
seal. The finished folder then replaces the destination in one step, or nothing is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jepa_export.bundling.staging import staged, write_report
from jepa_export.bundling.variants import (
    VariantKey,
    key_of,
    manifest_entries,
    model_path,
    needs_step,
    write_step,
)
from jepa_export.errors import JepaExportError
from jepa_export.quantization.accuracy_control import AccuracyController
from jepa_export.targets.registry import GraphVariant
from jepa_export.targets.vendor_compilers import run_vendor_compilers
from jepa_export.training.step_results import StepResults
from jepa_runtime.backends import reference_engine
from jepa_runtime.bundle import MANIFEST_NAME, ROLES, Bundle, Manifest, Precision, Role, Target, seal
from jepa_runtime.model import golden_parity
from jepa_runtime.util import file_sha256

Progress = Callable[[str], None]
"""Called with a description of each step before it begins, and with warnings."""

# A mean squared difference of latents at about unit scale; two camera images never differ by less.
_STATIC_SCENE = 1e-6


@contextmanager
def build_bundle(
    folder: Path, progress: Progress, *, replace: bool = True, results: StepResults | None = None
) -> Iterator[BundleBuilder]:
    """Build the bundle ``folder`` in the block; it appears when the block ends without an error.

    Args:
        folder: Destination.
        progress: See :data:`Progress`.
        replace: Whether an existing bundle may be replaced.
        results: Where finished graphs are stored, so that they are not built again after an interruption
            (None: nowhere).

    Raises:
        JepaExportError: ``folder`` exists and may not be replaced, or cannot be written.
    """
    with staged(folder, replace=replace) as staging:
        yield BundleBuilder(staging, progress, results)


class BundleBuilder:
    """Build one bundle; see :func:`build_bundle`.

    Attributes:
        staging: Folder that becomes the bundle. Graphs go into one folder for each role.
    """

    def __init__(self, staging: Path, progress: Progress, results: StepResults | None = None) -> None:
        self.staging, self._progress, self._results = staging, progress, results

    def write_graphs(
        self,
        role: Role,
        write: Callable[[Path], None],
        inputs: dict[str, Any],
        controller: AccuracyController,
    ) -> None:
        """Write every variant of a graph, or copy those that an interrupted run wrote from the same inputs.

        Args:
            role: Name of the graph and of its folder.
            write: Writes the variants into a folder, and quantizes with ``controller``.
            inputs: Everything that the graphs depend on, as JSON values.
            controller: Gets the outcomes of copied graphs.
        """

        def work(folder: Path) -> list[dict[str, Any]]:
            earlier = len(controller.outcomes)
            write(folder / role)
            return [outcome.as_dict() for outcome in controller.outcomes[earlier:]]

        if self._results is None:
            work(self.staging)
            return
        result = self._results.run(f"{role} graphs", inputs, work, into=self.staging)
        if result.reused:
            controller.add(result.values)

    def copy_graph(
        self, base: Bundle, role: Role, targets: Collection[Target] | None = None
    ) -> list[dict[str, str]]:
        """Copy the variants of a graph from another bundle, and return the entries for the manifest.

        Args:
            base: The other bundle.
            role: Name of the graph.
            targets: Targets whose variants are copied; None: all.

        Raises:
            BundleError: A file of ``base`` is no longer what its manifest records.
        """
        entries = []
        for variant in base.manifest.graphs.variants(role):
            if targets is not None and variant.target not in targets:
                continue
            path = model_path(role, key_of(variant))
            for source in variant.paths:
                self._write(str(Path(path).with_suffix(Path(source).suffix)), base.read(source))
            entries.append({"target": variant.target, "precision": variant.precision, "path": path})
        return entries

    def write_steps(self, variants: Sequence[VariantKey]) -> list[dict[str, str]]:
        """Derive the ``step`` graph of each variant with fixed shapes; return the manifest entries."""
        derived = [key for key in variants if needs_step(key)]
        for key in derived:
            write_step(self.staging, key)
        return manifest_entries("step", derived)

    def write_golden_outputs(self, *, latents: Tensor, **others: Tensor) -> None:
        """Write golden.npz, with the last of ``latents`` as the goal.

        Args:
            latents: [n, T, D].
            **others: Named as in :class:`jepa_runtime.bundle.GoldenOutputs`.
        """
        tensors = others | {"latents": latents, "goal": latents[-1:]}
        self.save_golden_arrays({name: tensor.numpy() for name, tensor in tensors.items()})

    def save_golden_arrays(self, arrays: dict[str, Any]) -> None:
        """Write golden.npz from arrays named as in :class:`jepa_runtime.bundle.GoldenOutputs`."""
        np.savez_compressed(self.staging / "golden.npz", **arrays)

    def write_report(self, report: dict[str, Any]) -> None:
        """Write report.json; seal the bundle afterwards."""
        write_report(self.staging, report)

    def seal(self, fields: dict[str, Any] | Manifest) -> Bundle:
        """Write the manifest over the files that are there.

        Raises:
            BundleError: Files and fields do not form a valid bundle.
        """
        return seal(self.staging, fields)

    def finish(
        self,
        fields: dict[str, Any] | Manifest,
        report: dict[str, Any],
        *,
        graphs: Sequence[GraphVariant] | None = None,
        compile_blobs: bool = True,
    ) -> Bundle:
        """Seal the bundle, verify it against its golden outputs, and run the vendors' compilers.

        Args:
            fields: Fields of the manifest, see :func:`~jepa_export.bundling.manifest_fields.create_manifest`.
            report: Content of report.json, extended by the results of this method.
            graphs: The variants to verify and compile; None: all that ``fields`` lists.
            compile_blobs: Whether variants are compiled ahead of time, where a target allows it.

        Raises:
            JepaExportError: A variant does not reproduce the golden outputs.
            BundleError: Files and fields do not form a valid bundle.
        """
        self._progress("verifying each graph against the golden outputs")
        self.write_report(report)
        bundle = self.seal(fields)
        manifest = bundle.manifest
        if graphs is None:
            graphs = [(role, variant) for role in ROLES for variant in manifest.graphs.variants(role)]
            if manifest.trained and manifest.goal_threshold < _STATIC_SCENE:
                self._progress(
                    "WARNING: in most of the measured clips nothing changes from one step to the next, so no "
                    f"goal will count as reached (goal_threshold {manifest.goal_threshold:.2g}): use "
                    "recordings in which the robot moves, and leave out those in which it stands still"
                )
        keys = [key_of(variant) for role, variant in graphs if role == "encoder"]
        rows = [row for key in keys for row in verify_golden_outputs(bundle, *key)]
        report = report | {"parity": [*report.get("parity", ()), *rows]}
        results = self._run_vendor_compilers(graphs, manifest, compile_blobs=compile_blobs)
        for target, result in results.items():
            earlier = report.get(target, {"graphs": []})["graphs"]
            report[target] = result | {"graphs": [*earlier, *result["graphs"]]}
        self.write_report(report)
        return self.seal(manifest)

    def _run_vendor_compilers(
        self, graphs: Sequence[GraphVariant], manifest: Manifest, *, compile_blobs: bool
    ) -> dict[str, Any]:
        """Run the vendors' compilers, or copy the results of an interrupted run on the same graphs."""

        def run() -> dict[str, Any]:
            return run_vendor_compilers(
                self.staging, graphs, manifest.num_samples, self._progress, compile_blobs=compile_blobs
            )

        if self._results is None:
            return run()

        def work(folder: Path) -> dict[str, Any]:
            reports = run()
            for path in self.staging.rglob("*"):
                name = path.relative_to(self.staging)
                if path.is_file() and str(name) not in recorded:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, folder / name)
            return reports

        recorded = {record.path for record in manifest.files} | {MANIFEST_NAME}
        read = {path: file_sha256(self.staging / path) for _, variant in graphs for path in variant.paths}
        inputs = {"graphs": read, "num_samples": manifest.num_samples, "compile_blobs": compile_blobs}
        reports: dict[str, Any] = self._results.run(
            "vendor compilers", inputs, work, into=self.staging
        ).values
        return reports

    def _write(self, path: str, content: bytes) -> None:
        destination = self.staging / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes(content)


def verify_golden_outputs(bundle: Bundle, target: Target, precision: Precision) -> list[dict[str, Any]]:
    """Compare each graph of one variant with the golden outputs; return the rows for report.json.

    Raises:
        JepaExportError: A graph exceeds the tolerances of the bundle.
    """
    rows = []
    engine = reference_engine(target)
    for found in golden_parity(bundle, engine=engine, precision=precision, target=target):
        if not found.ok:
            raise JepaExportError(
                f"the {precision} {found.graph} for {target} does not reproduce the network's outputs: "
                f"{found.figures}; nothing was written",
                code="export.parity_failed",
            )
        rows.append(
            {
                "graph": found.graph,
                "target": target,
                "precision": precision,
                "min_cosine": found.min_cosine,
                "max_abs": found.max_abs,
                "change_error": found.change_error,
            }
        )
    return rows
