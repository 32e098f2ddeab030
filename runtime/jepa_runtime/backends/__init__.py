"""Inference engines behind one protocol, one folder per engine.

The package of an engine declares it as :class:`Engine`: engines of this package in ``ENGINES`` of their
folder, engines of other packages by an entry point of the group ``jepa_runtime.backends``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_runtime.backends.base import (
        Backend,
        BackendOptions,
        Engine,
        Graph,
        LayerTime,
        Session,
        check_inputs,
    )
    from jepa_runtime.backends.registry import create_backend, engines, find_engine

# The engine and device of all commands and functions that are given no other.
DEFAULT_ENGINE = "openvino:CPU"

__all__ = [
    "DEFAULT_ENGINE",
    "Backend",
    "BackendOptions",
    "Engine",
    "Graph",
    "LayerTime",
    "Session",
    "check_inputs",
    "create_backend",
    "engines",
    "find_engine",
]

_REGISTRY = ("create_backend", "engines", "find_engine")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line starts without NumPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "registry" if name in _REGISTRY else "base"
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
