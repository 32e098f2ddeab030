"""What a licence allows, as far as its name tells."""

from __future__ import annotations

import re

# CC-BY-NC-4.0, PolyForm-Noncommercial-1.0.0, "MIT; not for commercial use", "non-commercial research only".
_NON_COMMERCIAL = re.compile(r"\bNC\b|non[- ]?commercial|not for commercial", re.IGNORECASE)


def forbids_commerce(licence: str) -> bool:
    """Whether a licence (an SPDX identifier, or words) names itself non-commercial."""
    return _NON_COMMERCIAL.search(licence) is not None
