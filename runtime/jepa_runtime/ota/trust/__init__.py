"""Verification of repository metadata (The Update Framework)."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.ota.trust.metadata import SIGNED_AT, Floors, max_metadata_bytes, signed_at
    from jepa_runtime.ota.trust.repository_trust import RepositoryTrust
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "metadata": ["SIGNED_AT", "Floors", "max_metadata_bytes", "signed_at"],
            "repository_trust": ["RepositoryTrust"],
        },
    )

__all__ = [
    "SIGNED_AT",
    "Floors",
    "RepositoryTrust",
    "max_metadata_bytes",
    "signed_at",
]
