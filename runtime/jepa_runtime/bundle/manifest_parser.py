"""From bytes to a :class:`Manifest`: strict JSON, then the models; whatever is wrong is a
:class:`BundleError`.
"""

from __future__ import annotations

from pydantic import ValidationError

from jepa_runtime.bundle.manifest import MAX_MANIFEST_BYTES, SCHEMA_VERSION, Manifest
from jepa_runtime.errors import BundleError
from jepa_runtime.util.strict_json import describe, parse_json, shorten


def parse_manifest(data: bytes, where: str = "manifest.json") -> Manifest:
    """Read a manifest.

    Args:
        data: the content of the file.
        where: how errors call it.

    Raises:
        BundleError: it is too long, no strict JSON, of an unknown format version, or a field is wrong.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{where}: more than {MAX_MANIFEST_BYTES >> 20} MiB: this is no manifest")
    content = parse_json(data, where)
    if not isinstance(content, dict):
        raise BundleError(f"{where}: must hold a JSON object, holds {type(content).__name__}")
    version = content.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleError(
            f"{where}: format version {shorten(version)} is unknown, this jepa-edge reads "
            f"version {SCHEMA_VERSION}: update jepa-edge, or export the model again"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise BundleError(f"{where}: {describe(error)}") from error
