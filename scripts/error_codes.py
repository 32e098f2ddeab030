"""Find the error codes in the sources of all packages, for the documentation and its tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "runtime/jepa_runtime",
    "export/jepa_export",
    "recipes/jepa_recipes",
    "sim/jepa_sim",
    "ros2_ws/src/jepa_ros/jepa_ros",
)


@dataclass(frozen=True)
class RaisedError:
    """A place in the code that raises an error with a code.

    Attributes:
        message: The template of the message, with ``…`` for each value.
    """

    code: str
    error: str
    message: str
    module: str


def raised_errors() -> Iterator[RaisedError]:
    """Find where an error class is called with a code, or has one of its own."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to((ROOT / package).parent).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    yield from _called(node, module)
                elif isinstance(node, ast.ClassDef):
                    yield from _defined(node, module)


def _called(node: ast.Call, module: str) -> Iterator[RaisedError]:
    for keyword in node.keywords:
        value = keyword.value
        if keyword.arg == "code" and isinstance(value, ast.Constant) and isinstance(value.value, str):
            name = ast.unparse(node.func).rpartition(".")[2]
            message = _template(node.args[0]) if node.args else "…"
            yield RaisedError(value.value, name, message, module)


def _defined(node: ast.ClassDef, module: str) -> Iterator[RaisedError]:
    """Find a class attribute ``code``: every error of the class has that code unless it names another."""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "code":
            value = statement.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and "." in value.value:
                yield RaisedError(value.value, node.name, ast.get_docstring(node) or "", module)


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "…"


def uncoded_raises() -> Iterator[str]:
    """Find where an error of ours is raised without a code, as ``path:line``."""
    bases: dict[str, set[str]] = {}
    with_code: set[str] = set()
    raises: list[tuple[str, str, bool]] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = {ast.unparse(base) for base in node.bases}
                    with_code |= {defined.error for defined in _defined(node, "")}
                elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    name = ast.unparse(node.exc.func).rpartition(".")[2]
                    has_code = "code" in {keyword.arg for keyword in node.exc.keywords}
                    raises.append((f"{path.relative_to(ROOT)}:{node.lineno}", name, has_code))

    def is_ours(name: str) -> bool:
        return name == "CodedError" or any(map(is_ours, bases.get(name, ())))

    for place, name, has_code in raises:
        if is_ours(name) and not has_code and name not in with_code:
            yield place
