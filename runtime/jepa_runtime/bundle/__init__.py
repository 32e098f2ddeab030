"""The format of model bundles: a folder with a manifest that lists every file and its hash.

A bundle holds data only, no code.
"""

from jepa_runtime.bundle.golden_outputs import GoldenOutputs, history_indices
from jepa_runtime.bundle.manifest import (
    MANIFEST_NAME,
    MAX_BLOCKS,
    MAX_TEXT,
    NORM_ROUNDING,
    ROLES,
    SCHEMA_VERSION,
    FileRecord,
    Manifest,
    Precision,
    Role,
    Target,
    Tolerance,
    Variant,
    manifest_schema,
)
from jepa_runtime.bundle.manifest_parser import parse_manifest
from jepa_runtime.bundle.reader import Bundle
from jepa_runtime.bundle.writer import seal

__all__ = [
    "MANIFEST_NAME",
    "MAX_BLOCKS",
    "MAX_TEXT",
    "NORM_ROUNDING",
    "ROLES",
    "SCHEMA_VERSION",
    "Bundle",
    "FileRecord",
    "GoldenOutputs",
    "Manifest",
    "Precision",
    "Role",
    "Target",
    "Tolerance",
    "Variant",
    "history_indices",
    "manifest_schema",
    "parse_manifest",
    "seal",
]
