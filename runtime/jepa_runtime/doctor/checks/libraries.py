"""Check the engines' libraries, and whether a bundle has a variant for this machine."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from configparser import ConfigParser, Error
from contextlib import suppress
from functools import partial

from jepa_runtime.backends.base import Engine, Package
from jepa_runtime.backends.registry import ENTRY_POINTS, built_in_engines, engines
from jepa_runtime.doctor.finding import Check, Context, Evidence, Severity, Verdict, info, ok, pip_install
from jepa_runtime.errors import UndeterminedError


def _release(version: str, package: str) -> tuple[int, int]:
    found = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", version)
    if found is None:
        raise UndeterminedError(f"{package} has the invalid version {version!r}", code="doctor.malformed")
    return int(found[1]), int(found[2])


def _requirement(package: Package) -> str:
    """Return the requirement for pip. Not jepa-edge with its extras: it is on no package index."""
    return f"{package.name}>={_version(package.at_least)}" if package.at_least else package.name


def _version(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def _range(package: Package) -> str:
    """Return the supported versions in words."""
    assert package.at_least is not None
    least = _version(package.at_least)
    return f"{least} or later" if package.below is None else f"{least} to {package.below[0] - 1}"


def _remedy(context: Context, package: Package) -> tuple[str, ...]:
    if not package.pip:
        return package.instructions
    prefix = f"env {package.pip_environment} " if package.pip_environment else ""
    return *package.instructions, pip_install(context, f"'{_requirement(package)}'", prefix)


def _check_version(context: Context, package: Package) -> Verdict:
    name, least = package.name, package.at_least
    assert least is not None
    required = f"{_version(least)} or later is required"
    version = context.system.package(name)
    if version is None and not context.system.facts.library_folders():
        raise UndeterminedError("this root has no known folder of Python packages")
    evidence, remedy = Evidence(f"pip show {name}", version or "not installed"), _remedy(context, package)
    if version is None:
        return Verdict(Severity.ERROR, f"{name} is not installed: {required}", (evidence,), remedy)
    release = _release(version, name)
    if release < least:
        return Verdict(Severity.ERROR, f"{name} {version} is too old: {required}", (evidence,), remedy)
    if package.below is not None and release >= package.below:
        supported = _range(package)
        return Verdict(
            Severity.ERROR,
            f"{name} {version} is too new: {supported} are supported",
            (evidence,),
            (f"# install {package.title or name} {supported}, or a newer jepa-edge",),
        )
    return ok(f"{name} {version} is installed", evidence)


def _applies(context: Context, engine: Engine, package: Package) -> bool:
    if not package.machines:
        return True
    requirements = context.requirements
    has_graphs = requirements is None or not requirements.targets.isdisjoint(engine.devices)
    return context.machine.kind in package.machines and has_graphs


def _version_checks(declared: Iterable[Engine]) -> list[Check]:
    """Return a check of each package of which an engine requires a version."""
    found: dict[str, Check] = {}
    for engine in declared:
        for package in engine.packages:
            if package.at_least is None or package.name in found:
                continue
            remedy = f"pip install --upgrade '{_requirement(package)}'"
            if not package.pip:
                remedy = next(line for line in package.instructions if not line.startswith("#"))
            found[package.name] = Check(
                f"engine.{package.name}",
                f"{package.title or package.name} {_range(package)} is installed",
                "Python package metadata",
                f"`{remedy}`",
                partial(_check_version, package=package),
                partial(_applies, engine=engine, package=package),
            )
    return list(found.values())


def _plugins(context: Context) -> dict[str, str]:
    """Return the engines that other packages declare, with the paths of their entry points."""
    found: dict[str, str] = {}
    for folder in context.system.facts.library_folders():
        for path in context.system.find(f"{glob.escape(folder)}/*.dist-info/entry_points.txt"):
            entries = ConfigParser(delimiters=("=",), interpolation=None)
            with suppress(UndeterminedError, Error):
                entries.read_string(context.system.text(path, may_be_empty=True))
            if entries.has_section(ENTRY_POINTS):
                found |= dict.fromkeys(entries.options(ENTRY_POINTS), path)
    return found


def _list_plugins(context: Context) -> Verdict:
    found = {name: (path, _owner(context, path)) for name, path in sorted(_plugins(context).items())}
    listed = ", ".join(f"{name} ({owner})" for name, (_, owner) in found.items())
    evidence = (Evidence(f"/{path}", f"{name} of {owner}") for name, (path, owner) in found.items())
    return info(f"other packages provide the engines {listed}", *evidence)


def _owner(context: Context, entry_points: str) -> str:
    """Return name and version of the package that has these entry points."""
    metadata = entry_points.replace("entry_points.txt", "METADATA")
    name, version = (context.system.field(metadata, rf"^{key}: (\S+)$", key) for key in ("Name", "Version"))
    return f"{name} {version}"


def _plugin_engines(context: Context) -> list[Engine]:
    """Return the engines of other packages that can be loaded here."""
    names = _plugins(context).keys() - {engine.name for engine in built_in_engines()}
    return [engine for engine in engines() if engine.name in names] if names else []


def _plugin_packages(context: Context) -> list[Package]:
    """Return the packages that engines of other packages require, if those can be loaded here."""
    return [
        package
        for engine in _plugin_engines(context)
        for package in engine.packages
        if package.at_least is not None and _applies(context, engine, package)
    ]


def _check_plugin_packages(context: Context) -> Verdict:
    verdicts = [_check_version(context, package) for package in _plugin_packages(context)]
    problem = next((verdict for verdict in verdicts if verdict.severity is not Severity.OK), None)
    return problem or ok(
        "; ".join(verdict.summary for verdict in verdicts),
        *(evidence for verdict in verdicts for evidence in verdict.evidence),
    )


def _preferred_targets(declared: Iterable[Engine], kind: str) -> list[str]:
    """Return the targets that suit a kind of machine, the best first."""
    return list(
        dict.fromkeys(target for engine in declared for target in engine.preferred_targets.get(kind, ()))
    )


def _targets(context: Context) -> Verdict:
    requirements, kind = context.requirements, context.machine.kind
    assert requirements is not None
    evidence = Evidence(
        "jepa-runtime info", f"{requirements.name} has {', '.join(sorted(requirements.targets))}"
    )
    declared = [*built_in_engines(), *_plugin_engines(context)]
    preferred = _preferred_targets(declared, kind)
    if requirements.targets.intersection(preferred):
        return ok("the bundle has a variant for this machine", evidence)
    fallbacks = [
        f": {effect}"
        for engine in declared
        if kind in engine.preferred_targets
        for target, effect in engine.fallback_targets.items()
        if target in requirements.targets
    ]
    if requirements.targets.intersection(_preferred_targets(declared, "plain")):
        fallbacks.append(": it will run on the CPU")
    return Verdict(
        Severity.WARNING if fallbacks else Severity.ERROR,
        f"the bundle has no variant for this machine ({' or '.join(preferred)}){''.join(fallbacks[:1])}",
        (evidence,),
        (
            f"# on the workstation, rebuild the bundle with --target {preferred[0]} (jepa-export build, "
            "distill or train-predictor)",
        ),
    )


CHECKS = (
    *_version_checks(built_in_engines()),
    Check(
        "engine.plugins",
        "the engines of other packages are listed",
        "entry points `jepa_runtime.backends`",
        "",
        _list_plugins,
        lambda context: bool(_plugins(context)),
    ),
    Check(
        "engine.plugin_packages",
        "the engines of other packages have the packages that they require",
        "Python package metadata",
        "`pip install --upgrade`",
        _check_plugin_packages,
        lambda context: bool(_plugin_packages(context)),
    ),
    Check(
        "bundle.target",
        "the bundle has a variant for this machine",
        "the bundle's manifest",
        "`jepa-export build --target`",
        _targets,
        lambda context: context.requirements is not None,
    ),
)
