"""What a license permits, as far as its name indicates."""

from __future__ import annotations

import re

# CC-BY-NC-4.0, PolyForm-Noncommercial-1.0.0, "MIT; not for commercial use", "non-commercial research only".
_NON_COMMERCIAL = re.compile(r"\bNC\b|non[- ]?commercial|not for commercial", re.IGNORECASE)


def forbids_commercial_use(license: str) -> bool:
    """Return whether a license (an SPDX identifier or a phrase) declares itself non-commercial."""
    return _NON_COMMERCIAL.search(license) is not None
