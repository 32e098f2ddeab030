"""From bytes to a :class:`Manifest`: strict JSON, then the models; whatever is wrong is a
:class:`BundleError`.
"""

from __future__ import annotations

from jepa_runtime.bundle.manifest import MAX_MANIFEST_BYTES, SCHEMA_VERSION, Manifest
from jepa_runtime.errors import BundleError, StrictJsonError
from jepa_runtime.util.strict_json import parse_json, shorten, validate_json


def parse_manifest(data: bytes, where: str = "manifest.json") -> Manifest:
    """Read a manifest.

    Args:
        data: the content of the file.
        where: how errors call it.

    Raises:
        BundleError: it is too long, no strict JSON, of an unknown format version, or a field is wrong.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{where}: larger than {MAX_MANIFEST_BYTES >> 20} MiB: this is not a manifest",
            code="bundle.manifest_invalid",
        )
    try:
        content = parse_json(data, where)
        if isinstance(content, dict) and _is_supported(content.get("schema_version")):
            return validate_json(Manifest, data, where)
    except StrictJsonError as error:
        raise BundleError(str(error), code="bundle.manifest_invalid") from error
    if not isinstance(content, dict):
        raise BundleError(
            f"{where}: must be a JSON object, not {type(content).__name__}", code="bundle.manifest_invalid"
        )
    raise BundleError(
        f"{where}: unsupported format version {shorten(content.get('schema_version'))}, this jepa-edge reads "
        f"version {SCHEMA_VERSION}: update jepa-edge, or export the model again",
        code="bundle.version_unsupported",
    )


def _is_supported(version: object) -> bool:
    return type(version) is int and version == SCHEMA_VERSION
