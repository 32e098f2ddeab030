"""The page about config.json lists every field with its default; the file contains only differences."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from jepa_runtime.ota import config
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.gate.probe import ProbeLimits
from jepa_runtime.ota.transport.repository_sources import Limits
from tests.conftest import ROOT
from tests.ota.robots import settings

PAGE = ROOT / "docs" / "update-config.md"
ROW = re.compile(r"\| `([a-z_.]+)` \|[^|]+\|([^|]*)\|[^|]+\|")


def test_config_page_lists_every_field_with_its_default() -> None:
    output = {name: default.strip().strip("`") for name, default in ROW.findall(PAGE.read_text("utf-8"))}
    known = {name: field.default for name, field in Config.model_fields.items() if not field.is_required()}
    known |= {name: None for name, field in Config.model_fields.items() if field.is_required()}
    for group, limits in (("fetch", Limits), ("probe", ProbeLimits)):
        del known[group]
        known |= {f"{group}.{field.name}": field.default for field in fields(limits)}
    del known["schema_version"]
    shown = {name: "" if value is None else f"{value}".removesuffix(".0") for name, value in known.items()}
    assert output == {
        name: text.lower() if text in ("True", "False") else text for name, text in shown.items()
    }


def test_stored_config_contains_only_differences_from_the_defaults(
    tmp_path: Path,
) -> None:
    expected = settings(poll_s=60.0, fetch=Limits(max_bytes_s=1e6))
    config.save(tmp_path / "config.json", expected)
    assert config.load(tmp_path / "config.json") == expected
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "schema_version": 1,
        "repository": "/nowhere",
        "channel": "stable",
        "model_id": "toy",
        "device_id": "robot-1",
        "hardware_ids": ["bench"],
        "keep_slots": 0,
        "poll_s": 60.0,
        "fetch": {"max_bytes_s": 1e6},
    }
