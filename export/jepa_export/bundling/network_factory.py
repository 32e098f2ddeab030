"""Networks of another project from the function that creates them, which is named on the command line."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepa_export.bundling.export_bundle import export_bundle
from jepa_export.errors import JepaExportError

# What the command passes to export_bundle.
_GIVEN = frozenset({"path", "calibration", "held_out", "targets", "seed", "command", "commit", "progress"})


def load_factory(name: str) -> Callable[[Path | None], Any]:
    """Import the function that creates the networks.

    Args:
        name: MODULE:FUNCTION; the module may be in the current folder.

    Raises:
        JepaExportError: There is no such module or function, or the module cannot be imported.
    """
    module_name, _, function = name.partition(":")
    if not module_name or not function.isidentifier():
        raise JepaExportError(
            f"{name}: must be MODULE:FUNCTION, such as my_package.model:make", code="factory.invalid_name"
        )
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    # A module can raise anything while it is imported.
    except Exception as error:
        raise JepaExportError(
            f"{name}: {module_name} cannot be imported: {type(error).__name__}: {error}: install its "
            "package, or run the command in the folder that contains it",
            code="factory.not_importable",
        ) from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise JepaExportError(
            f"{name}: {module_name} has no function {function}: name the function that creates the networks",
            code="factory.not_found",
        )
    found: Callable[[Path | None], Any] = factory
    return found


def create_networks(
    name: str, factory: Callable[[Path | None], Any], checkpoint: Path | None
) -> dict[str, Any]:
    """Call ``factory``, and return its arguments for :func:`~jepa_export.export_bundle`.

    Args:
        name: Name of the factory, for messages.
        factory: Function from the checkpoint to a dictionary of arguments.
        checkpoint: File with the weights; None: the factory needs none.

    Raises:
        JepaExportError: The file does not exist, or the function fails or returns something else.
    """
    if checkpoint is not None and not checkpoint.exists():
        raise JepaExportError(
            f"--checkpoint {checkpoint}: does not exist: pass the file with the weights",
            code="factory.checkpoint_missing",
        )
    try:
        made = factory(checkpoint)
    # The function is code of another project.
    except Exception as error:
        raise JepaExportError(
            f"{name}: fails for the checkpoint {checkpoint}: {type(error).__name__}: {error}: it must accept "
            "a path, or None without --checkpoint",
            code="factory.failed",
        ) from error
    if not isinstance(made, dict):
        raise JepaExportError(
            f"{name}: must return a dictionary of arguments for export_bundle, returned "
            f"{type(made).__name__}",
            code="factory.invalid_arguments",
        )
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(export_bundle).parameters.items()
        if key not in _GIVEN
    }
    missing = [
        key for key, each in parameters.items() if each.default is inspect.Parameter.empty and key not in made
    ]
    unknown = [str(key) for key in made if key not in parameters]
    if missing or unknown:
        raise JepaExportError(
            f"{name}: the returned dictionary has missing keys ({', '.join(missing) or 'none'}) or "
            f"unexpected ones ({', '.join(unknown) or 'none'}): return the arguments of export_bundle "
            f"without {', '.join(sorted(_GIVEN))}, which the command adds",
            code="factory.invalid_arguments",
        )
    size = made["frame_size"]
    if not isinstance(size, tuple | list) or [type(each) for each in size] != [int, int]:
        raise JepaExportError(
            f"{name}: frame_size must be (height, width) in pixels, is {size}: return two whole numbers",
            code="factory.invalid_arguments",
        )
    return made


def source_file(name: str) -> Path:
    """Return the file of the module of a loaded factory; the name of the module if it has no file."""
    module = name.partition(":")[0]
    return Path(getattr(sys.modules[module], "__file__", None) or module)
