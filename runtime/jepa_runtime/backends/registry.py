"""The registry of engines: those of this package, and those that other packages declare by entry points.

An engine of this package is a folder next to this file with a tuple ``ENGINES``. An engine of another
package is an entry point of the group ``jepa_runtime.backends``, which refers to an :class:`Engine` of the
same name::

    [project.entry-points."jepa_runtime.backends"]
    toy = "toy_engine:ENGINE"
"""

from __future__ import annotations

import logging
import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

import jepa_runtime.backends
from jepa_runtime.backends import DEFAULT_ENGINE
from jepa_runtime.backends.base import Backend, BackendOptions, Engine, Package
from jepa_runtime.errors import BackendError

ENTRY_POINTS = "jepa_runtime.backends"
_LOG = logging.getLogger(__name__)


def built_in_engines() -> list[Engine]:
    """Return the engines of this package."""
    return list(_built_in().values())


def engines() -> list[Engine]:
    """Return all engines, whether their libraries are installed or not. Broken plugins are logged."""
    found = dict(_built_in())
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            found.setdefault(entry.name, _load(entry))
        except BackendError as error:
            _LOG.warning("%s", error)
    return list(found.values())


def find_engine(name: str) -> Engine | None:
    """Return the engine of this name, or None if there is none.

    Raises:
        BackendError: The package that declares it is broken.
    """
    if name in _built_in():
        return _built_in()[name]
    return next((_load(entry) for entry in entry_points(group=ENTRY_POINTS, name=name)), None)


def engines_for(target: str) -> list[tuple[Engine, str]]:
    """Return the engines that verify variants for a target, each with its device, the most specific first."""
    found = [engine for engine in engines() if target in engine.devices]
    found.sort(key=lambda engine: list(engine.devices).index(target))
    return [(engine, engine.devices[target]) for engine in found]


def engine_devices() -> list[str]:
    """Return all engines on all their devices as ``name:DEVICE``, those of the default engine first."""
    default, _ = split_engine(DEFAULT_ENGINE)
    return [
        f"{engine.name}:{device}"
        for engine in sorted(engines(), key=lambda engine: engine.name != default)
        for device in dict.fromkeys(
            (engine.default_device, *engine.further_devices, *engine.devices.values())
        )
    ]


def reference_engine(target: str) -> str:
    """Return the engine and device that compute the variants of a target on a workstation.

    Raises:
        BackendError: No engine does.
    """
    for engine in engines():
        if target in engine.reference_for:
            return f"{engine.name}:{engine.default_device}"
    raise BackendError(f"no engine computes variants for {target}", code="backend.no_reference")


def packages() -> list[Package]:
    """Return the packages of all engines, each once."""
    found = {package.name: package for engine in engines() for package in engine.packages}
    return list(found.values())


def split_engine(engine: str) -> tuple[str, str]:
    """Split ``name:DEVICE``, with the default device if none is given. The engine need not exist."""
    name, _, device = engine.partition(":")
    declared = find_engine(name)
    return name, device or ("CPU" if declared is None else declared.default_device)


def split_alternatives(engine: str) -> list[str]:
    """Split a list of engines (``openvino:NPU,openvino:CPU``), the preferred first."""
    return [part.strip() for part in engine.split(",")]


def requires_build(engine: str) -> bool:
    """Return whether an engine runs only what ``jepa-runtime build-engine`` has built."""
    declared = find_engine(engine.partition(":")[0])
    return declared is not None and declared.requires_build


def create_backend(engine: str, options: BackendOptions | None = None) -> Backend:
    """Open an engine on a device; no other engine is used instead.

    Args:
        engine: ``name:DEVICE``, for instance ``openvino:CPU``. Without a device, the default device of the
            engine is used.
        options: The options of the backend.

    Raises:
        BackendError: The engine or device does not exist, or its library is not installed. The message lists
            the engines and what to install.
    """
    if len(split_alternatives(engine)) > 1:
        raise BackendError(f"{engine}: several engines are given: give one", code="backend.several_engines")
    name, device = split_engine(engine)
    declared = find_engine(name)
    if declared is None:
        raise BackendError(
            f"unknown engine {engine!r}; engines: {_overview()}", code="backend.engine_unknown"
        )
    try:
        return declared.create(device, options or BackendOptions())
    except ImportError as error:
        raise BackendError(
            f"engine {name} is not installed: {error}: {declared.install or 'install its package again'}. "
            f"Engines: {_overview()}",
            code="backend.engine_not_installed",
        ) from error


@cache
def _built_in() -> dict[str, Engine]:
    found: dict[str, Engine] = {}
    for module in pkgutil.iter_modules(jepa_runtime.backends.__path__):
        if module.ispkg:
            declared = import_module(f"{jepa_runtime.backends.__name__}.{module.name}").ENGINES
            found |= {engine.name: engine for engine in declared}
    return found


@cache
def _load(entry: EntryPoint) -> Engine:
    package = entry.dist.name if entry.dist is not None else entry.value
    try:
        engine = entry.load()
    # A plugin can raise anything while it is imported.
    except Exception as error:
        raise BackendError(
            f"engine {entry.name} of the package {package} cannot be loaded: {error}: update or remove the "
            "package",
            code="backend.plugin_invalid",
        ) from error
    if not isinstance(engine, Engine) or engine.name != entry.name:
        raise BackendError(
            f"engine {entry.name} of the package {package}: {entry.value} is not an Engine of this name: "
            "update or remove the package",
            code="backend.plugin_invalid",
        )
    return engine


def _overview() -> str:
    return ", ".join(
        f"{engine.name} ({'installed' if engine.is_installed else engine.install})" for engine in engines()
    )
