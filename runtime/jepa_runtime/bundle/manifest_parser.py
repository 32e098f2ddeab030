"""The parser of manifests: strict JSON, then the models; any violation is a :class:`BundleError`."""

from __future__ import annotations

from jepa_runtime.bundle.manifest import MAX_MANIFEST_BYTES, SCHEMA_VERSION, Manifest
from jepa_runtime.errors import BundleError, StrictJsonError
from jepa_runtime.util.strict_json import parse_json, shorten, validate_json


def parse_manifest(data: bytes, where: str = "manifest.json") -> Manifest:
    """Parse a manifest.

    Args:
        data: The content of the file.
        where: The name of the file in error messages.

    Raises:
        BundleError: It is too large, not strict JSON, of an unsupported format version, or a field is
            invalid.
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
