"""Inference engines behind one protocol, one folder per engine.

The package of an engine declares it as :class:`Engine`: engines of this package in ``ENGINES`` of their
folder, engines of other packages by an entry point of the group ``jepa_runtime.backends``.

Example::

    from jepa_runtime.backends import engines

    for engine in engines():
        print(engine.name, engine.description)
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

DEFAULT_ENGINE = "openvino:CPU"
"""The engine and device of all commands and functions that are given no other."""

if TYPE_CHECKING:
    from jepa_runtime.backends import cpu_int8
    from jepa_runtime.backends.base import (
        Backend,
        BackendOptions,
        Engine,
        Graph,
        LayerTime,
        Package,
        Session,
        Shape,
        check_inputs,
    )
    from jepa_runtime.backends.registry import (
        create_backend,
        engine_devices,
        engines,
        find_engine,
        reference_engine,
        split_engine,
    )
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "": ["cpu_int8"],
            "base": [
                "Backend",
                "BackendOptions",
                "Engine",
                "Graph",
                "LayerTime",
                "Package",
                "Session",
                "Shape",
                "check_inputs",
            ],
            "registry": [
                "create_backend",
                "engine_devices",
                "engines",
                "find_engine",
                "reference_engine",
                "split_engine",
            ],
        },
    )

__all__ = [
    "DEFAULT_ENGINE",
    "Backend",
    "BackendOptions",
    "Engine",
    "Graph",
    "LayerTime",
    "Package",
    "Session",
    "Shape",
    "check_inputs",
    "cpu_int8",
    "create_backend",
    "engine_devices",
    "engines",
    "find_engine",
    "reference_engine",
    "split_engine",
]
