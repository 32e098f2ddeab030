"""Complete the documentation site: a hook of mkdocs.

It generates the reference pages from the code, includes pages that lie next to what they describe, such as
``ros2_ws/README.md``, and adapts the links of pages, which are written for readers of the repository.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from error_codes import RaisedError, raised_errors
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import jepa_runtime
from jepa_runtime.commands import exit_status

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = ROOT / "ros2_ws/src/jepa_msgs"
# Pages outside docs/, and their places on the site.
INCLUDED = {
    "README.md": "index.md",
    "ros2_ws/README.md": "ros2.md",
    "recipes/TRAINING.md": "training.md",
    "recipes/FIRST_PERSON.md": "first-person-training.md",
    "firmware_configs/README.md": "system-files.md",
    "benchmarks/README.md": "benchmark-programs.md",
    "examples/README.md": "examples.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
NODE_PARAMETERS = {
    "world_model": "jepa_ros.world_model.parameters",
    "planner": "jepa_ros.planner.parameters",
    "route": "jepa_ros.route.parameters",
    "update_manager": "jepa_ros.update.parameters",
    "camera": "jepa_ros.nodes.camera",
    "monitor": "jepa_ros.nodes.monitor",
    "pictures": "jepa_ros.nodes.pictures",
    "two_rooms": "jepa_ros.nodes.two_rooms",
    "first_person": "jepa_ros.nodes.first_person_parameters",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the Python API in the navigation."""
    (reference,) = (part["Reference"] for part in config.nav or () if "Reference" in part)
    (api,) = (entry for entry in reference if "Python API" in entry)
    api["Python API"] = [
        {"Overview": api["Python API"]},
        *({package.removeprefix("jepa_runtime."): _api_file(package)} for package in api_packages()),
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {_api_file(package): api_page(package) for package in api_packages()} | {
        "reference/python.md": api_overview(),
        "reference/jepa-runtime.md": command_page("jepa_runtime.cli"),
        "reference/jepa-export.md": command_page("jepa_export.cli"),
        "reference/errors.md": errors_page(),
        "reference/parameters.md": parameters_page(),
        "reference/messages.md": messages_page(),
        "reference/manifest.md": manifest_page(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for path, name in INCLUDED.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site; a link to another file of the repository becomes its path."""
    sources = {name: path for path, name in INCLUDED.items()}
    here = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def adapted(link: re.Match[str]) -> str:
        text, target, anchor = link["text"], link["target"], link["anchor"] or ""
        if "://" in target or not target:
            return link[0]
        path = os.path.normpath(os.path.join(os.path.dirname(here), target))
        name = INCLUDED.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(name) is None:
            return f"{text} (`{path}`)" if link["image"] == "" else ""
        relative = os.path.relpath(name, os.path.dirname(page.file.src_uri) or ".")
        return f"{link['image']}[{text}]({relative}{anchor})"

    return re.sub(
        r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)]*)?\)", adapted, markdown
    )


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the Sphinx markup of docstrings: roles become links, and ``Example::`` loses a colon."""
    if not page.file.src_uri.startswith("reference/python"):
        return html

    def reference(role: re.Match[str]) -> str:
        path = role["path"]
        text = path.rpartition(".")[2] if role["short"] else path
        return f'<autoref identifier="{path}" optional><code>{text}</code></autoref>'

    html = re.sub(r":[a-z]+:<code>(?P<short>~?)(?P<path>[\w.]+)</code>", reference, html)
    return html.replace("::</p>", ":</p>")


def command_page(module: str) -> str:
    """Describe a program: each of its commands with usage and options, as ``--help`` has them."""
    parser = importlib.import_module(module).PROGRAM.parser()
    statuses = inspect.getdoc(exit_status) or ""
    lines = [f"# {parser.prog}", "", parser.description or "", ""]
    lines += ["## Exit status", "", "```text", statuses.partition("\n\n")[2].rstrip(), "```", ""]
    for command in _commands(parser):
        if command is not parser:
            lines += [
                f"## {command.prog.removeprefix(parser.prog).strip()}",
                "",
                command.description or "",
                "",
            ]
        # Usage and options as the terminal shows them, at a fixed width.
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        lines += ["```text", re.sub(r"\x1b\[[0-9;]*m", "", command.format_help()).rstrip(), "```", ""]
    return "\n".join(lines)


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _commands(command)


def api_packages() -> list[str]:
    """Return the modules with public names: the packages with ``__all__``, and the errors."""
    packages = [
        module.name
        for module in pkgutil.walk_packages(jepa_runtime.__path__, "jepa_runtime.")
        if module.ispkg and hasattr(importlib.import_module(module.name), "__all__")
    ]
    return ["jepa_runtime.errors", *packages, "jepa_export"]


def _api_file(package: str) -> str:
    return f"reference/python/{package.removeprefix('jepa_runtime.')}.md"


def api_overview() -> str:
    """List the packages, and the names of jepa_runtime itself with the packages that describe them."""
    lines = ["# Python API", "", inspect.getdoc(jepa_runtime) or "", ""]
    lines += ["These names are public; others may change in any release.", ""]
    lines += ["| name | description |", "|---|---|"]
    for name in jepa_runtime.__all__:
        value = getattr(jepa_runtime, name)
        home = next((each for each in api_packages() if name in importlib.import_module(each).__all__), None)
        link = f"[`{name}`](python/{home.rpartition('.')[2]}.md#{home}.{name})" if home else f"`{name}`"
        lines.append(f"| {link} | {_summary(value) if home else 'The version of jepa-edge.'} |")
    lines += ["", "| package | description |", "|---|---|"]
    for package in api_packages():
        page = os.path.relpath(_api_file(package), "reference")
        lines.append(f"| [`{package}`]({page}) | {_summary(importlib.import_module(package))} |")
    return "\n".join(lines)


def api_page(package: str) -> str:
    """Describe the public names of a package."""
    lines = [f"::: {package}", "    options:", "      heading_level: 1"]
    lines += ["      show_submodules: true", "      members:"]
    return "\n".join([*lines, *(f"        - {name}" for name in importlib.import_module(package).__all__)])


def _summary(value: object) -> str:
    return _cell((inspect.getdoc(value) or "").partition("\n\n")[0])


def errors_page() -> str:
    """List every error code with the class and the messages that carry it."""
    lines = [
        "# Error codes",
        "",
        "Errors of jepa-edge carry a stable code, `error.code` in Python. The wording of a message may",
        "change; its code does not. `…` stands for a value.",
        "",
    ]
    by_code: dict[str, list[RaisedError]] = {}
    for raised in raised_errors():
        by_code.setdefault(raised.code, []).append(raised)
    area = ""
    for code, places in sorted(by_code.items()):
        if code.partition(".")[0] != area:
            area = code.partition(".")[0]
            lines += [f"## {area}", "", "| code | error | message |", "|---|---|---|"]
        errors = ", ".join(sorted({f"`{place.error}`" for place in places}))
        messages = "<br>".join(_cell(place.message) for place in {p.message: p for p in places}.values())
        lines.append(f"| `{code}` | {errors} | {messages} |")
        following = sorted(by_code)[sorted(by_code).index(code) + 1 :]
        if not following or following[0].partition(".")[0] != area:
            lines.append("")
    return "\n".join(lines)


def parameters_page() -> str:
    """List the parameters of every node, from the tables by which the nodes declare them."""
    lines = [
        "---",
        "hide: [toc]",
        "---",
        "",
        "# Node parameters",
        "",
        "`ros2 param describe` shows the same.",
        "",
    ]
    for node, module in NODE_PARAMETERS.items():
        lines += [f"## {node}", "", "| parameter | description | default | range | changeable |"]
        lines.append("|---|---|---|---|---|")
        for parameter in importlib.import_module(module).PARAMETERS:
            span = ", ".join(f"`{choice}`" for choice in parameter.choices if choice)
            if parameter.low is not None:
                span = f"{parameter.low:g} to {parameter.high:g}"
            when = "at the start" if parameter.read_only else "at run time"
            if parameter.when_unconfigured:
                when = "while unconfigured"
            default, what = json.dumps(parameter.default), _cell(parameter.description)
            lines.append(f"| `{parameter.name}` | {what} | `{default}` | {span} | {when} |")
        lines.append("")
    return "\n".join(lines)


def messages_page() -> str:
    """Show the definitions of messages, services and actions."""
    lines = ["# Messages, services and actions", ""]
    for kind in ("msg", "srv", "action"):
        for path in sorted((MESSAGES / kind).glob(f"*.{kind}")):
            lines += [f"## {path.stem}", "", "```text", path.read_text("utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


# Names in signed or stored files that differ from the terms of the documentation: name, file, term, reason.
_KEPT_NAMES = (
    (
        "`licence`",
        "`manifest.json`",
        "license",
        "Releases sign the manifest, and its format rejects unknown keys: earlier runtimes could not open a "
        "bundle with another key. It changes with the next format version.",
    ),
    (
        "`lock.wanted`",
        "folder of a robot",
        "request for the lock",
        "During an upgrade, processes of two versions share the lock: with different names, one would no "
        "longer yield to the other.",
    ),
    (
        "`good`",
        "folder of a robot",
        "last known good model",
        "Processes of two versions follow this link, also after a downgrade.",
    ),
    (
        "`what`",
        "`serving/` in that folder",
        "model that the last process served",
        "After an upgrade, the new process reads it to count a crash of the one before.",
    ),
    (
        "`refused`, `passing`, `blamed`",
        "socket in `serving/`",
        "rejected model, whether a retry may succeed, model of the last crash",
        "The serving process and the update service may be of different versions during an upgrade.",
    ),
)


def manifest_page() -> str:
    """Describe each field of a bundle's manifest, from its JSON schema."""
    schema = json.loads((ROOT / "runtime/jepa_runtime/schema/manifest-1.schema.json").read_text("utf-8"))
    lines = ["# Bundle manifest", "", schema.get("description", ""), ""]
    for name, part in {"Manifest": schema, **schema.get("$defs", {})}.items():
        if "properties" not in part:
            continue
        described = _attributes(getattr(importlib.import_module("jepa_runtime.bundle.manifest"), name))
        lines += [f"## {name}", ""]
        if part is not schema:
            lines += [part.get("description", ""), ""]
        lines += ["| field | type | required | description |", "|---|---|---|---|"]
        for field, description in part["properties"].items():
            required = "yes" if field in part.get("required", ()) else "no"
            lines.append(
                f"| `{field}` | {_type_of(description)} | {required} | {_cell(described.get(field, ''))} |"
            )
        lines.append("")
    lines += [
        "## Names kept for compatibility",
        "",
        "| name | where | term | why it stays |",
        "|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in _KEPT_NAMES]
    lines += [
        "",
        "`state.json` has other names since format 2; format 1 is read, and replaced at the next change.",
        "",
    ]
    return "\n".join(lines)


def _attributes(kind: type) -> dict[str, str]:
    """Read the ``Attributes`` section of a class's docstring."""
    _, _, section = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith("    "):
            break
        if start := re.match(r"    ([a-z_0-9]+): (.*)", line):
            name = start[1]
            found[name] = start[2]
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


def _type_of(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(_type_of(option) for option in field[key])
    if field.get("type") == "array":
        return f"array of {_type_of(field['items'])}" if "items" in field else "array"
    return str(field.get("type", "any"))


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")
