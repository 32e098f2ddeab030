"""The format of model bundles: a folder with a manifest that lists every file and its hash.

A bundle holds data only, no code.

Example::

    from jepa_runtime.bundle import Bundle

    bundle = Bundle.open("models/two_rooms")
    print(bundle.manifest.horizon, bundle.sha256)
    golden = bundle.golden()
"""

from jepa_runtime.bundle.golden_outputs import GoldenOutputs, history_indices
from jepa_runtime.bundle.hub import HubRepository, hub_client
from jepa_runtime.bundle.manifest import (
    ACTION_LIMIT,
    GOAL_ROLES,
    HORIZON,
    MANIFEST_NAME,
    MAX_BLOCKS,
    MAX_MANIFEST_BYTES,
    MAX_TEXT,
    NORM_ROUNDING,
    NUM_SAMPLES,
    POSE_BATCH,
    POSE_SIZE,
    ROLES,
    SCHEMA_VERSION,
    STEP_S,
    ClipSpec,
    FileRecord,
    Manifest,
    Role,
    StateSpec,
    Target,
    Tolerance,
    Variant,
    blob_metadata_path,
    blob_path,
    check_futures_size,
    compiled_candidates,
    manifest_schema,
    model_suffix,
)
from jepa_runtime.bundle.manifest_parser import parse_manifest
from jepa_runtime.bundle.reader import Bundle
from jepa_runtime.bundle.writer import seal
from jepa_runtime.util.hub_address import HUB_SCHEME
from jepa_runtime.util.precision import Precision

__all__ = [
    "ACTION_LIMIT",
    "GOAL_ROLES",
    "HORIZON",
    "HUB_SCHEME",
    "MANIFEST_NAME",
    "MAX_BLOCKS",
    "MAX_MANIFEST_BYTES",
    "MAX_TEXT",
    "NORM_ROUNDING",
    "NUM_SAMPLES",
    "POSE_BATCH",
    "POSE_SIZE",
    "ROLES",
    "SCHEMA_VERSION",
    "STEP_S",
    "Bundle",
    "ClipSpec",
    "FileRecord",
    "GoldenOutputs",
    "HubRepository",
    "Manifest",
    "Precision",
    "Role",
    "StateSpec",
    "Target",
    "Tolerance",
    "Variant",
    "blob_metadata_path",
    "blob_path",
    "check_futures_size",
    "compiled_candidates",
    "history_indices",
    "hub_client",
    "manifest_schema",
    "model_suffix",
    "parse_manifest",
    "seal",
]
