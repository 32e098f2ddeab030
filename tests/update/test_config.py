"""The page about config.json has every field, with the default that the code has."""

from __future__ import annotations

import re
from dataclasses import fields

from jepa_runtime.update.config import Config
from jepa_runtime.update.gate.probe import ProbeLimits
from jepa_runtime.update.sources import Limits
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "update-config.md"
ROW = re.compile(r"\| `([a-z_.]+)` \|[^|]+\|([^|]*)\|[^|]+\|")


def test_every_field_is_on_the_page_with_its_default() -> None:
    told = {name: default.strip().strip("`") for name, default in ROW.findall(PAGE.read_text("utf-8"))}
    known = {name: field.default for name, field in Config.model_fields.items() if not field.is_required()}
    known |= {name: None for name, field in Config.model_fields.items() if field.is_required()}
    for group, limits in (("fetch", Limits), ("probe", ProbeLimits)):
        del known[group]
        known |= {f"{group}.{field.name}": field.default for field in fields(limits)}
    del known["schema_version"]
    shown = {name: "" if value is None else f"{value}".removesuffix(".0") for name, value in known.items()}
    assert told == {name: text.lower() if text in ("True", "False") else text for name, text in shown.items()}
