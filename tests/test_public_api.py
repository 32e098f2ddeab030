"""The public names of the packages: they resolve, are documented, and are all that other packages import."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import jepa_runtime
from jepa_runtime.imaging import to_png
from jepa_runtime.profiling import write_profile
from tests.runtime.profiles import make_profile
from tests.scripts import ROOT

# A package without ``__all__`` has no public names.
PACKAGES = [
    "jepa_runtime",
    *(
        module.name
        for module in pkgutil.walk_packages(jepa_runtime.__path__, "jepa_runtime.")
        if module.ispkg and hasattr(importlib.import_module(module.name), "__all__")
    ),
]
CONSUMERS = {
    "jepa_export": "export/jepa_export",
    "jepa_sim": "sim/jepa_sim",
    "jepa_recipes": "recipes/jepa_recipes",
    "jepa_ros": "ros2_ws/src/jepa_ros/jepa_ros",
    "demo": "demo",
    "examples": "examples",
}


def imports_of(source: str, package: str = "jepa_runtime") -> Iterator[tuple[str, str]]:
    """Yield the module and the name (empty: the module itself) of each import from a package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            yield from ((node.module or "", name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names if name.name.split(".")[0] == package)


def internal_imports(source: str) -> list[str]:
    """Return the imports of names that no package of jepa_runtime exports."""
    public = {*PACKAGES, "jepa_runtime.errors"}
    return [
        f"{module}.{name}".rstrip(".")
        for module, name in imports_of(source)
        if module not in public or (name and name not in importlib.import_module(module).__all__)
    ]


@pytest.mark.parametrize(
    ("statement", "internal"),
    [
        ("from jepa_runtime.model.parity import cosines", ["jepa_runtime.model.parity.cosines"]),
        ("import jepa_runtime.model.world_model", ["jepa_runtime.model.world_model"]),
        ("from jepa_runtime.model import world_model", ["jepa_runtime.model.world_model"]),
        ("def f():\n    from jepa_runtime.ota.client import Client", ["jepa_runtime.ota.client.Client"]),
        ("from jepa_runtime.model import WorldModel, graphs", []),
        ("from jepa_runtime.ota.gate import ShadowReport", []),
        ("import jepa_runtime", []),
    ],
)
def test_internal_imports_of_statement_returns_names_that_are_not_exported(
    statement: str, internal: list[str]
) -> None:
    assert internal_imports(statement) == internal


@pytest.mark.parametrize("folder", CONSUMERS.values(), ids=CONSUMERS.keys())
def test_package_imports_only_public_names(folder: str) -> None:
    names = {
        str(path.relative_to(ROOT)): internal
        for path in (ROOT / folder).rglob("*.py")
        if (internal := internal_imports(path.read_text("utf-8")))
    }
    assert (ROOT / folder).is_dir() and not names


def described_constants(module: ModuleType) -> set[str]:
    """Return the names of a module that a docstring follows."""
    tree = ast.parse(inspect.getsource(module))
    return {
        target.id
        for statement, doc in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
        for target in getattr(statement, "targets", [getattr(statement, "target", None)])
        if isinstance(target, ast.Name)
    }


def home_of(package: ModuleType, name: str) -> ModuleType:
    """Return the module from which a package imports a name, as type checkers see it."""
    module = package
    while homes := [home for home, imported in imports_of(inspect.getsource(module)) if imported == name]:
        if homes[0] == module.__name__:
            return importlib.import_module(f"{homes[0]}.{name}")
        module = importlib.import_module(homes[0])
    return module


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_resolve_and_have_docstrings(package: str) -> None:
    opened = importlib.import_module(package)
    assert opened.__doc__ and len(set(opened.__all__)) == len(opened.__all__)
    undescribed = []
    for name in opened.__all__:
        value, home = getattr(opened, name), home_of(opened, name)
        assert value is home or value is getattr(home, name), "type checkers see another object"
        if isinstance(value, ModuleType | type) or inspect.isroutine(value):
            if not value.__doc__:
                undescribed.append(name)
        elif name not in described_constants(home) | {"__version__"}:
            undescribed.append(f"{home.__name__}.{name}")
    assert not undescribed
    assert set(opened.__all__) <= set(dir(opened))


def example_of(package: str) -> str:
    """Return the program below ``Example::`` in the docstring of a package, or an empty string."""
    _, _, rest = (inspect.getdoc(importlib.import_module(package)) or "").partition("Example::\n")
    return textwrap.dedent(
        "\n".join(itertools.takewhile(lambda line: line[:1] in ("", " "), rest.splitlines()))
    )


@pytest.mark.parametrize("package", [package for package in PACKAGES if example_of(package)])
def test_example_in_docstring_runs(
    package: str, two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(two_rooms_bundle.parent)
    (tmp_path / "images").mkdir()
    for index in range(3):
        image = np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
        (tmp_path / "images" / f"{index}.png").write_bytes(to_png(image))
    write_profile(make_profile(frames=100), tmp_path / "profile.json")
    monkeypatch.chdir(tmp_path)
    assert not internal_imports(example_of(package))
    exec(compile(example_of(package), package, "exec"), {})


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'jepa_runtime' has no attribute 'nothing'"):
        jepa_runtime.nothing  # noqa: B018


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mypy_sees_the_types_in_a_script_outside_the_repository(tmp_path: Path) -> None:
    """An editable install suffices: every package has ``py.typed`` and lies on the path."""
    script = tmp_path / "script.py"
    names = [
        "jepa_runtime.WorldModel",
        "jepa_sim.worlds.interface.World",
        "jepa_export.release.keys.KeyRing",
        "jepa_recipes.two_rooms.RECIPE",
    ]
    if importlib.util.find_spec("jepa_ros"):
        names.append("jepa_ros.common.conversions.fill")
    modules = {name.rpartition(".")[0] for name in names}
    script.write_text(
        "".join(f"import {module}\n" for module in sorted(modules))
        + "".join(f"reveal_type({name})\n" for name in names)
        + "jepa_runtime.WorldModel.open('models/two_rooms', engin='openvino:CPU')\n"
    )
    options = ["--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), "--no-error-summary"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, script.name], cwd=tmp_path, capture_output=True, text=True
    )
    *revealed, error, defined = done.stdout.splitlines()
    assert len(revealed) == len(names) and 'type is "Any"' not in "".join(revealed), done.stdout + done.stderr
    assert 'Unexpected keyword argument "engin"' in error and "jepa_runtime.model.world_model" in defined
