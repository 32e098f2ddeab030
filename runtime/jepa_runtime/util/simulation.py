"""Import of the optional package :mod:`jepa_sim`, which a robot does not need."""

from __future__ import annotations

import importlib
from types import ModuleType

from jepa_runtime.errors import SourceError


def import_simulation(module: str) -> ModuleType:
    """Import ``jepa_sim.<module>``.

    Raises:
        SourceError: The package is not installed.
    """
    try:
        return importlib.import_module(f"jepa_sim.{module}")
    except ModuleNotFoundError as error:
        if error.name != "jepa_sim":
            raise
        raise SourceError(
            "simulated worlds need the package jepa-edge-sim, which is not installed: pip install "
            "jepa-edge-sim, or install the folder sim of the sources",
            code="source.simulation_not_installed",
        ) from None
